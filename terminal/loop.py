"""The terminal at work: look, ask, obey, show. Whatever goes wrong, the door is locked and the loop goes
on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from terminal.camera import Frame
from terminal.capture import CaptureStation
from terminal.client import ClientError, EnrollmentTask, TerminalClient
from terminal.decision import VerifiedDecision
from terminal.door import Door, DoorError
from terminal.keypad import Keypad, NoKeypad
from terminal.offline import Connection
from terminal.screen import Screen, Show
from terminal.state import TerminalState

PAUSE_AFTER_ATTEMPT_S = 2.0  # before the same camera asks again
ENROLLMENT_POLL_S = 3.0
REFRESH_S = 60.0
BETWEEN_ENROLLMENT_CAPTURES_S = 1.0
TYPING_S = 20.0  # for a PIN or a card's number
#: Doors that a card and its PIN open without a face.
CARD_DOORS = frozenset({"card_and_pin", "face_or_card_and_pin"})
ASKED = {
    "pin_required": "This door asks for your PIN as well: type it, then Enter.",
    "card_required": "This door asks for your card as well: hold it to the reader.",
}
NO_KEYPAD = (
    "This door asks for a PIN or a card, and this terminal has no keypad: start it with --keypad console."
)

HINTS = {
    "clock_skew": "This terminal's clock is wrong: set it (NTP).",
    "key_unknown": "The server does not know this terminal: pair it again.",
    "terminal_revoked": "This terminal was revoked: ask an administrator to pair it again.",
    "too_many_requests": "Too many requests: wait a moment.",
    "invalid": "That is no PIN and no card number.",
    "proof_unavailable": "No PIN and no card can be checked: ask the administrator.",
    "recognition_unavailable": "Recognition is not available: ask the administrator.",
}


@dataclass
class TerminalLoop:
    """One frame at a time, see `step`. steady: seconds of a clock that never goes back."""

    client: TerminalClient
    station: CaptureStation
    door: Door
    screen: Screen
    connection: Connection
    steady: Callable[[], float]
    keep_state: Callable[[TerminalState], None]
    make_station: Callable[[str], CaptureStation]  # for the profile of that hash
    keypad: Keypad = field(default_factory=NoKeypad)
    _next_capture_at: float = field(default=0.0, init=False)
    _next_refresh_at: float = field(default=0.0, init=False)
    _next_poll_at: float = field(default=0.0, init=False)
    _task: EnrollmentTask | None = field(default=None, init=False)

    def step(self, frame: Frame) -> VerifiedDecision | None:
        """Handle one frame; never raises. Returns the decision if one was made."""
        try:
            return self._step(frame)
        except ClientError as error:
            self._note_failure(error)
        except DoorError as error:
            self.screen.show(Show.FAULT, f"The lock does not obey: {error}")
        except Exception as error:  # fail closed on what nobody thought of
            self.screen.show(Show.FAULT, f"Internal fault ({type(error).__name__}): the door stays shut.")
        self._shut()
        return None

    def _step(self, frame: Frame) -> VerifiedDecision | None:
        now = self.steady()
        if not self.connection.may_try(now):
            return None
        self._keep_up(now)
        if now < self._next_capture_at:
            return None
        if self._task is not None:
            self._enroll(frame, self._task, now)
            return None
        if self.client.state.door_id is None:
            self.screen.show(Show.READY, "Ready to enroll.")
            return None
        asks_for = self.client.state.asks_for
        if asks_for in CARD_DOORS and self.keypad.waiting():
            return self._by_card()
        if asks_for == "card_and_pin":  # nobody's face is looked at here
            if self.keypad.works:
                self.screen.show(Show.READY, "Hold your card to the reader.")
            else:
                self.screen.show(Show.FAULT, NO_KEYPAD)
            return None
        return self._attempt(frame)

    def _keep_up(self, now: float) -> None:
        """Every minute: who am I, which keys, which profile. Every few seconds: is there somebody to
        enroll?"""
        if now >= self._next_refresh_at:
            before = self.client.state
            state = self.client.refresh()
            self._answered(now)
            self._next_refresh_at = now + REFRESH_S
            if state != before:
                self.keep_state(state)
            if state.profile_hash != self.station.profile.hash:
                self.station = self.make_station(state.profile_hash)
        if now >= self._next_poll_at:
            self._task = self.client.enrollment()
            self._answered(now)
            self._next_poll_at = now + ENROLLMENT_POLL_S

    def _attempt(self, frame: Frame) -> VerifiedDecision | None:
        capture = self.station.capture(frame.pixels)
        if not capture.ok:
            self.screen.show(
                Show.READY if capture.quality.reason == "no_face" else Show.ADVICE, capture.advice
            )
            return None
        self.screen.show(Show.CHECKING, "One moment.")
        decision = self.client.attempt(capture)
        self._answered(self.steady())
        if decision.reason in ASKED and decision.proof_until is not None:
            return self._ask_for_more(decision)
        return self._obey(decision)

    def _ask_for_more(self, decision: VerifiedDecision) -> VerifiedDecision | None:
        """The second step, where the door wants a PIN or a card besides a face."""
        self._next_capture_at = self.steady() + PAUSE_AFTER_ATTEMPT_S
        if not self.keypad.works:
            self.screen.show(Show.FAULT, NO_KEYPAD)
            return decision
        self.screen.show(Show.ASKING, ASKED[decision.reason])
        typed = self.keypad.ask(TYPING_S)
        if typed is None:
            return self._nothing_came(decision)
        kind = "pin" if decision.reason == "pin_required" else "card"
        return self._obey(self.client.prove(attempt_id=decision.attempt_id, **{kind: typed}))

    def _by_card(self) -> VerifiedDecision | None:
        card = self.keypad.ask(TYPING_S)
        if card is None:
            return None
        self.screen.show(Show.ASKING, "Type your PIN, then Enter.")
        pin = self.keypad.ask(TYPING_S)
        if pin is None:
            return self._nothing_came(None)
        self.screen.show(Show.CHECKING, "One moment.")
        return self._obey(self.client.prove(card=card, pin=pin))

    def _nothing_came(self, decision: VerifiedDecision | None) -> VerifiedDecision | None:
        self.screen.show(Show.SHUT, "Nothing was entered.")
        return decision

    def _obey(self, decision: VerifiedDecision) -> VerifiedDecision:
        now = self.steady()
        self._answered(now)
        self._next_capture_at = now + PAUSE_AFTER_ATTEMPT_S
        opening = self.door.open(decision, now=self.client.now)
        if opening.opened:
            self.screen.show(Show.OPEN, decision.message or "Welcome.")
        else:
            self.screen.show(
                Show.SHUT, decision.message if not decision.granted else f"Shut: {opening.reason}."
            )
        return decision

    def _enroll(self, frame: Frame, task: EnrollmentTask, now: float) -> None:
        if task.state != "open":
            self.screen.show(Show.ENROLLING, f"{task.person_name}: {task.message or task.state}")
            self._task = None
            return
        if task.captures_pending or task.captures_accepted >= task.captures_wanted:
            self.screen.show(Show.ENROLLING, f"{task.person_name}: {task.message or 'one moment'}")
            self._task = self.client.enrollment_progress(task.enrollment_id)
            self._next_capture_at = now + BETWEEN_ENROLLMENT_CAPTURES_S
            return
        capture = self.station.capture(frame.pixels)
        if not capture.ok:
            self.screen.show(Show.ENROLLING, f"{task.person_name}: {capture.advice}")
            return
        self.screen.show(
            Show.ENROLLING,
            f"{task.person_name}: capture {task.captures_accepted + 1} of {task.captures_wanted}",
        )
        self._task = self.client.submit_enrollment_capture(task.enrollment_id, capture)
        self._next_capture_at = self.steady() + BETWEEN_ENROLLMENT_CAPTURES_S

    def _answered(self, now: float) -> None:
        if not self.connection.online:
            self.connection.succeeded()
            self.screen.show(Show.READY, "The server answers again.")

    def _note_failure(self, error: ClientError) -> None:
        now = self.steady()
        hint = HINTS.get(error.hint, "")
        if error.code == "refused":
            # The server is there and said no to this one thing: its word, and a pause.
            self._task = None
            self._next_capture_at = now + PAUSE_AFTER_ATTEMPT_S
            self.screen.show(Show.SHUT, hint or error.message)
            return
        wait = self.connection.failed(now)
        if error.code == "unverified":
            self.screen.show(
                Show.FAULT, hint or "The server's answer is not signed by its key: not believed."
            )
        else:
            self.screen.show(
                Show.OFFLINE, f"No connection: the door stays shut. Trying again ({wait:.0f} s)."
            )

    def _shut(self) -> None:
        try:
            self.door.shut()
        except Exception as error:
            self.screen.show(Show.FAULT, f"The lock does not obey: {error}")


def describe_decision(decision: VerifiedDecision, *, at: datetime, took_s: float) -> str:
    """One line for a log or a demonstration. Names nobody."""
    verdict = "granted" if decision.granted else "denied"
    return f"{at:%H:%M:%S} {verdict:<8} {decision.reason:<18} {took_s * 1000:5.0f} ms  {decision.attempt_id}"
