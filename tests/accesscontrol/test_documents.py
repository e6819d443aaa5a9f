"""What the documents name exists: files, commands, settings, targets of make, benchmarks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.management import get_commands

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "recognition").rglob("CARD.md")),
]
DEPLOYMENT = [path for path in sorted((ROOT / "deploy").rglob("*")) if path.is_file()]
CODE = ("accesscontrol", "enrollment", "audit", "recognition", "terminal", "benchmarks", "deploy", "tests")
#: `LINTEL_` and what begins alike are prefixes in a sentence, no names.
SETTING = re.compile(r"\bLINTEL_[A-Z]+(?:_[A-Z]+)*\b")


def every(pattern: str, files: list[Path]) -> Iterator[tuple[str, str]]:
    """(file, what the pattern's group found in it)."""
    for file in files:
        for match in re.finditer(pattern, file.read_text(encoding="utf-8")):
            yield str(file.relative_to(ROOT)), match[1]


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_link_to_a_file_leads_to_one(file: Path) -> None:
    links = re.findall(r"\]\(([^)\s#]+)[^)]*\)", file.read_text(encoding="utf-8"))
    broken = [link for link in links if "://" not in link and not (file.parent / link).exists()]
    assert broken == []


def test_every_document_that_the_code_points_to_exists() -> None:
    """`docs/adr/0033` names a decision by its number."""
    code = [file for folder in CODE for file in sorted((ROOT / folder).rglob("*.py"))]
    named = set(every(r"\b(docs/(?:[a-z_-]+\.md|adr/\d{4}))", code + DEPLOYMENT))
    assert len(named) >= 8
    assert [pair for pair in sorted(named) if not any(ROOT.glob(f"{pair[1]}*"))] == []


def test_every_command_of_manage_py_exists() -> None:
    known = get_commands()
    named = set(every(r"manage\.py ([a-z_]+)", DOCUMENTS + DEPLOYMENT))
    assert len(named) >= 8
    assert [pair for pair in sorted(named) if pair[1] not in known] == []


def test_every_target_of_make_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(every(r"`make ([a-z-]+)", DOCUMENTS)) | set(every(r"^make ([a-z-]+)", DOCUMENTS))
    assert {"run", "demo"} <= {name for _, name in named}
    assert [pair for pair in sorted(named) if pair[1] not in targets] == []


def test_every_module_that_is_run_exists() -> None:
    ours = r"python -m ((?:terminal|recognition|benchmarks|audit|accesscontrol)[\w.]*)"
    named = set(every(ours, DOCUMENTS + DEPLOYMENT))
    assert named
    missing = []
    for file, name in sorted(named):
        path = ROOT.joinpath(*name.rstrip(".").split("."))
        if not (path.with_suffix(".py").exists() or (path / "__main__.py").exists()):
            missing.append((file, name))
    assert missing == []


def test_every_setting_is_read_somewhere() -> None:
    code = "\n".join(
        path.read_text(encoding="utf-8") for folder in CODE for path in (ROOT / folder).rglob("*.py")
    )
    proxy = (ROOT / "deploy" / "proxy" / "Caddyfile").read_text()
    read = set(SETTING.findall(code)) | set(SETTING.findall((ROOT / "Makefile").read_text()))
    read |= {name for name in SETTING.findall(proxy) if f"{{${name}}}" in proxy}
    named = {
        (str(file.relative_to(ROOT)), name)
        for file in DOCUMENTS + DEPLOYMENT
        for name in SETTING.findall(file.read_text(encoding="utf-8"))
    }
    assert len(named) > 40
    assert [pair for pair in sorted(named) if pair[1] not in read] == []
