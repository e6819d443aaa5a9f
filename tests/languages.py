"""Languages that tests write: every sentence of English, spelled in the letters of a script from right to left."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from enrollment import languages

ENGLISH = tomllib.loads((languages.SHIPPED / "en.toml").read_text(encoding="utf-8"))
_LETTERS = str.maketrans("abcdefghijklmnopqrstuvwxyz", "אבגדהוזחטיכלמנסעפצקרשתאבגד")


def spelled(text: str) -> str:
    """Nobody's language, in Hebrew letters; placeholders stay."""
    pieces = re.split(r"(\{\w+\})", text)
    return "".join(piece if piece.startswith("{") else piece.lower().translate(_LETTERS) for piece in pieces)


def another(**changes: Any) -> dict[str, Any]:
    """A whole language, to be spoilt."""
    document: dict[str, Any] = {"name": spelled("English"), "direction": "rtl"}
    for section in languages.SECTIONS:
        document[section] = {key: spelled(text) for key, text in ENGLISH[section].items()}
    return {**document, **changes}


def written(document: dict[str, Any]) -> str:
    """As TOML; only what these files hold."""
    lines = [f"{key} = {_quoted(value)}" for key, value in document.items() if isinstance(value, str)]
    for section, table in document.items():
        if isinstance(table, dict):
            lines += [f"[{section}]", *(f"{key} = {_quoted(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
