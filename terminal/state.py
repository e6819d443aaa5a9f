"""What a paired terminal knows: its own key, the server's keys, its door. One file, readable by its owner
only."""

from __future__ import annotations

import base64
import binascii
import json
import os
import stat
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

FORMAT = 1
DEFAULT_PATH = Path(".lintel") / "terminal.json"


class StateError(Exception):
    """The state file cannot be used. `code` is stable: not_paired, state_exposed, state_malformed."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True)
class TerminalState:
    """`private_key`: Ed25519 seed, 32 bytes. `server_keys`: the pinned keys that may sign replies, 32 bytes
    each, by id.

    `door_id` is None at a desk, which opens nothing.
    """

    server_url: str
    terminal_id: str
    name: str
    role: str
    door_id: str | None
    door_name: str
    key_id: str
    private_key: bytes = field(repr=False)
    server_keys: dict[str, bytes]
    profile_hash: str
    attempt_deadline_ms: int
    asks_for: str = "face"  # how people identify themselves at the door
    next_private_key: bytes | None = field(default=None, repr=False)  # stored before the server hears of it

    def with_description(self, description: dict[str, Any]) -> TerminalState:
        """What the server says about this terminal now. Only a verified reply may be passed here.

        Raises StateError(state_malformed) for a reply that lacks something, so that half of one is never
        believed.
        """
        try:
            door = description["door"] or {}
            keys = {str(key["key_id"]): _decode_key(key["public_key"]) for key in description["server_keys"]}
            updated = replace(
                self,
                terminal_id=str(description["terminal_id"]),
                name=str(description["name"]),
                role=str(description["role"]),
                door_id=str(door["id"]) if door else None,
                door_name=str(door.get("name", "")),
                asks_for=str(door.get("asks_for", "face")),
                server_keys=keys,
                profile_hash=str(description["profile_hash"]),
                attempt_deadline_ms=int(description["attempt_deadline_ms"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StateError("state_malformed", f"the server's description lacks {error}") from error
        if not keys:
            raise StateError("state_malformed", "the server named no key: nothing could ever be believed")
        return updated


def load_state(path: Path) -> TerminalState:
    """Raises StateError; also when others than the owner may read the file, because then the key is not a
    secret."""
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise StateError(
            "not_paired", f"{path} does not exist: run `python -m terminal pair` first"
        ) from error
    if stat.S_IMODE(mode) & 0o077:
        raise StateError(
            "state_exposed",
            f"{path} can be read by others: pair again with a new key, or `chmod 600 {path}` if you are sure",
        )
    try:
        document = json.loads(text)
        if document.pop("format") != FORMAT:
            raise ValueError("format")
        document["private_key"] = _decode_key(document["private_key"])
        if document["next_private_key"] is not None:
            document["next_private_key"] = _decode_key(document["next_private_key"])
        document["server_keys"] = {name: _decode_key(key) for name, key in document["server_keys"].items()}
        return TerminalState(**document)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StateError("state_malformed", f"{path} is damaged ({error}): pair again") from error


def save_state(path: Path, state: TerminalState) -> None:
    """Write the whole file or nothing, mode 0600 from its first byte."""
    document = {
        "format": FORMAT,
        **{name: getattr(state, name) for name in TerminalState.__dataclass_fields__},
        "private_key": _encode_key(state.private_key),
        "next_private_key": None if state.next_private_key is None else _encode_key(state.next_private_key),
        "server_keys": {name: _encode_key(key) for name, key in state.server_keys.items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp gives 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(document, file, indent=2, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _encode_key(key: bytes) -> str:
    return base64.b64encode(key).decode("ascii")


def _decode_key(text: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("a key is not base64") from error
    if len(key) != 32:
        raise ValueError("a key has 32 bytes")
    return key
