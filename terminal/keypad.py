"""Where a PIN or a card's number comes from: a keyboard, a keypad or a reader that types and ends with Enter."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

LONGEST_LINE = 128  # bytes; a card's number has 32 characters at most


class Keypad(Protocol):
    """`works` False: there is none, and a door that asks for one stays shut."""

    @property
    def works(self) -> bool: ...

    def waiting(self) -> bool:
        """Whether somebody began to type."""

    def ask(self, seconds: float) -> str | None:
        """One line; None when nothing came in time."""


@dataclass(frozen=True)
class NoKeypad:
    works: bool = False

    def waiting(self) -> bool:
        return False

    def ask(self, seconds: float) -> str | None:
        return None


@dataclass
class ConsoleKeypad:
    """Standard input, read past Python's own buffer so that it can be waited for."""

    descriptor: int = field(default_factory=lambda: sys.stdin.fileno())
    _typed: bytes = field(default=b"", init=False, repr=False)
    _ended: bool = field(default=False, init=False)

    @property
    def works(self) -> bool:
        return not self._ended

    def waiting(self) -> bool:
        return b"\n" in self._typed or (not self._ended and self._readable(0))

    def ask(self, seconds: float) -> str | None:
        until = time.monotonic() + seconds
        while b"\n" not in self._typed:
            left = until - time.monotonic()
            if self._ended or left <= 0 or not self._readable(left):
                self._typed = b""  # half a number belongs to nobody who comes later
                return None
            piece = os.read(self.descriptor, 256)
            self._ended = not piece
            self._typed = (self._typed + piece)[-LONGEST_LINE:]
        line, _, self._typed = self._typed.partition(b"\n")
        return line.decode("ascii", "ignore").strip() or None

    def _readable(self, seconds: float) -> bool:
        return bool(select.select([self.descriptor], [], [], seconds)[0])


@contextmanager
def unseen() -> Iterator[None]:
    """Nothing that is typed appears on the screen, where standard input is one."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    silent = termios.tcgetattr(sys.stdin)
    silent[3] &= ~termios.ECHO
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def make_keypad(choice: str) -> Keypad:
    """`auto`: a console where there is one."""
    if choice == "console" or (choice == "auto" and sys.stdin is not None and sys.stdin.isatty()):
        return ConsoleKeypad()
    return NoKeypad()
