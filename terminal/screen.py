"""What the person at the door reads: one state at a time, written only when it changes."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from rich.console import Console
from rich.markup import escape


class Show(Enum):
    """States of the screen, with the style each is written in."""

    READY = "cyan"
    ADVICE = "yellow"
    CHECKING = "blue"
    ASKING = "bold blue"
    OPEN = "bold green"
    SHUT = "bold red"
    ENROLLING = "magenta"
    OFFLINE = "bold yellow"
    FAULT = "bold white on red"


@dataclass
class Screen:
    console: Console = field(default_factory=Console)
    _now: tuple[Show, str] | None = field(default=None, init=False)

    def show(self, state: Show, message: str) -> None:
        if (state, message) != self._now:
            self._now = (state, message)
            self.console.print(f"[{state.value}]{state.name:<9}[/] {escape(message)}", highlight=False)
