"""How the audit log says what came of an attempt. The log itself knows no doors, so it is told when the site starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from accesscontrol.models import IN_WORDS, Alarm
from accesscontrol.policy import STEPS, Reason, Shown
from accesscontrol.templatetags.lintel import reason_words
from audit.sentences import Tone, describe

Facts = Mapping[str, Any]


def tell_the_log() -> None:
    describe("attempt.settled", _attempt, _tone)
    describe("alarm.raised", lambda facts: str(facts.get("message") or _alarm(facts)), Tone.WARN)
    describe("alarm.acknowledged", lambda facts: f"{facts['actor']} saw an alarm: {_alarm(facts)}")


def _alarm(facts: Facts) -> str:
    kind = str(facts.get("kind", ""))
    return Alarm.Kind(kind).label if kind in Alarm.Kind.values else kind.replace("_", " ") or "Alarm"


def _attempt(facts: Facts) -> str:
    if facts.get("granted") is True:
        shown = str(
            facts.get("shown", Shown.FACE.value)
        )  # entries from before doors asked for more say nothing
        return "Let in at a door" + ("" if shown == Shown.FACE else f" with {IN_WORDS[Shown(shown)]}")
    reason = str(facts.get("reason") or "no reason recorded")
    if reason in STEPS.values():
        what = "PIN" if reason == Reason.PIN_REQUIRED else "card"
        return f"A door asked for the {what} of whom it recognised"
    return f"Kept out at a door: {reason_words(reason)}"


def _tone(facts: Facts) -> Tone:
    if facts.get("granted") is True:
        return Tone.YES
    return Tone.PLAIN if facts.get("reason") in STEPS.values() else Tone.NO
