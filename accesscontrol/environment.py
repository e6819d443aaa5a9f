"""Typed, loud reading of the environment, and the secrets that live in it. Pure: the mapping is an argument.

Every problem is collected, so that a person who configures Lintel sees all of them at once and not one per start.
Keys are lists, newest first, written `id:base64,id:base64`; rotation prepends one.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

KEY_BYTES = 32
SECRET_KEY_MIN_CHARACTERS = 50
SECRET_KEY_MIN_DISTINCT = 12
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off", ""})

#: Secrets that a running Lintel needs. The value is how many random bytes a fresh one has.
KEY_LISTS = ("LINTEL_KEY_ENCRYPTION_KEYS", "LINTEL_GALLERY_KEYS", "LINTEL_SIGNING_KEYS")

Key = tuple[str, bytes]


class EnvironmentProblems(ValueError):
    """All that is wrong with the environment, one line each."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("Lintel's settings are wrong:\n" + "\n".join(f"  - {line}" for line in problems))


@dataclass
class Environment:
    """Reads names from `values`; remembers what was wrong until `refuse_problems` is called."""

    values: Mapping[str, str]
    problems: list[str] = field(default_factory=list)

    def text(self, name: str, default: str = "") -> str:
        return self.values.get(name, default).strip()

    def required(self, name: str, why: str) -> str:
        value = self.text(name)
        if not value:
            self.problems.append(f"{name} is missing: {why}")
        return value

    def choice(self, name: str, default: str, choices: tuple[str, ...]) -> str:
        value = self.text(name, default)
        if value not in choices:
            self.problems.append(f"{name} is {value!r}; it must be one of {', '.join(choices)}")
            return default
        return value

    def flag(self, name: str, default: bool) -> bool:
        value = self.text(name, "true" if default else "false").lower()
        if value in _TRUE:
            return True
        if value not in _FALSE:
            self.problems.append(f"{name} is {value!r}; it must be true or false")
        return False

    def integer(self, name: str, default: int, *, minimum: int, maximum: int) -> int:
        return int(self._number(name, default, minimum, maximum, int))

    def number(self, name: str, default: float, *, minimum: float, maximum: float) -> float:
        return self._number(name, default, minimum, maximum, float)

    def _number(
        self, name: str, default: float, minimum: float, maximum: float, kind: Callable[[str], float]
    ) -> float:
        value = self.text(name, str(default))
        try:
            number = kind(value)
        except ValueError:
            self.problems.append(f"{name} is {value!r}; it must be a number")
            return default
        if not minimum <= number <= maximum:
            self.problems.append(f"{name} is {value}; it must lie between {minimum} and {maximum}")
            return default
        return number

    def words(self, name: str, default: tuple[str, ...] = ()) -> list[str]:
        value = self.text(name)
        return [word.strip() for word in value.split(",") if word.strip()] if value else list(default)

    def keys(self, name: str) -> list[Key]:
        """A key list, newest first; empty when unset. Each weak or malformed key is a problem."""
        try:
            return parse_keys(self.text(name))
        except ValueError as problem:
            self.problems.append(f"{name}: {problem}")
            return []

    def database(self, name: str) -> dict[str, object]:
        """Django's settings for a Postgres URL; empty when unset."""
        value = self.text(name)
        if not value:
            return {}
        try:
            return parse_database_url(value)
        except ValueError as problem:
            self.problems.append(f"{name}: {problem}")
            return {}

    def refuse_problems(self) -> None:
        if self.problems:
            raise EnvironmentProblems(self.problems)


def parse_keys(text: str) -> list[Key]:
    """`id:base64,id:base64` -> [(id, 32 bytes)]. Raises ValueError, never with the key in the message."""
    keys: list[Key] = []
    for part in (part.strip() for part in text.split(",")):
        if not part:
            continue
        key_id, separator, encoded = part.partition(":")
        if not separator or not key_id:
            raise ValueError("a key is written id:base64")
        try:
            key = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError(f"key {key_id!r} is not valid base64") from None
        if len(key) != KEY_BYTES:
            raise ValueError(f"key {key_id!r} has {len(key)} bytes; it must have {KEY_BYTES}")
        if len(set(key)) < KEY_BYTES // 3:
            raise ValueError(f"key {key_id!r} is weak: too few different bytes to be random")
        if any(key_id == known for known, _ in keys):
            raise ValueError(f"key id {key_id!r} appears twice")
        if any(key == known for _, known in keys):
            raise ValueError(f"key {key_id!r} repeats another key")
        keys.append((key_id, key))
    return keys


def format_keys(keys: list[Key]) -> str:
    return ",".join(f"{key_id}:{base64.b64encode(key).decode()}" for key_id, key in keys)


def secret_key_problem(value: str) -> str | None:
    """Why `value` must not sign sessions, or None."""
    if len(value) < SECRET_KEY_MIN_CHARACTERS:
        return f"it has {len(value)} characters; at least {SECRET_KEY_MIN_CHARACTERS} are needed"
    if len(set(value)) < SECRET_KEY_MIN_DISTINCT:
        return "it is not random: too few different characters"
    if "insecure" in value or "change" in value.lower():
        return "it is the example's"
    return None


def parse_database_url(url: str) -> dict[str, object]:
    """`postgresql://user:password@host:port/name?sslmode=require` -> an entry of Django's DATABASES."""
    parts = urlsplit(url)
    if parts.scheme not in ("postgres", "postgresql"):
        raise ValueError("it must begin with postgresql:// (SQLite needs no URL: leave it unset)")
    options = dict(parse_qsl(parts.query))
    name = unquote(parts.path.lstrip("/"))
    if not name:
        raise ValueError("it names no database")
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": name,
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": options.pop("host", parts.hostname or ""),
        "PORT": str(parts.port or ""),
        "OPTIONS": options,
    }


def generate_secrets(randomness: Callable[[int], bytes], *, key_id: str) -> dict[str, str]:
    """Fresh secrets for one installation, as environment values. `key_id` names the first key of every list."""
    secrets = {"LINTEL_SECRET_KEY": base64.urlsafe_b64encode(randomness(48)).decode()}
    for name in KEY_LISTS:
        secrets[name] = format_keys([(key_id, randomness(KEY_BYTES))])
    return secrets


def parse_env_file(text: str) -> dict[str, str]:
    """`NAME=value` lines; `#` begins a comment line. Raises ValueError with the line's number, not its content."""
    values: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, separator, value = line.partition("=")
        if not separator or not name.strip().isidentifier():
            raise ValueError(f"line {number} is not NAME=value")
        values[name.strip()] = value.strip()
    return values
