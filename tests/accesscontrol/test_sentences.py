"""The log's words about an attempt, as the site registers them."""

from __future__ import annotations

from typing import Any

import pytest

from audit import sentences
from audit.sentences import Tone


@pytest.mark.parametrize(
    ("facts", "sentence", "tone"),
    [
        ({"granted": True, "reason": "granted"}, "Let in at a door", Tone.YES),  # before doors asked for more
        ({"granted": True, "reason": "granted", "shown": "face"}, "Let in at a door", Tone.YES),
        (
            {"granted": True, "reason": "granted", "shown": "card_and_pin"},
            "Let in at a door with a card and its PIN",
            Tone.YES,
        ),
        (
            {"granted": False, "reason": "pin_required", "shown": "face"},
            "A door asked for the PIN of whom it recognised",
            Tone.PLAIN,
        ),
        (
            {"granted": False, "reason": "card_required", "shown": "face"},
            "A door asked for the card of whom it recognised",
            Tone.PLAIN,
        ),
        (
            {"granted": False, "reason": "pin_wrong", "shown": "face_and_pin"},
            "Kept out at a door: wrong PIN",
            Tone.NO,
        ),
        ({"granted": False}, "Kept out at a door: no reason recorded", Tone.NO),
    ],
)
def test_an_attempt_in_the_log_reads_as_what_happened(
    facts: dict[str, Any], sentence: str, tone: Tone
) -> None:
    kind = "attempt.settled"
    said = sentences.sentence_for(kind=kind, actor="lintel", subject="", details=facts, personal={})
    assert (said, sentences.tone_for(kind=kind, details=facts)) == (sentence, tone)


def test_an_alarm_in_the_log_says_what_happened_and_who_saw_it() -> None:
    facts = {"kind": "terminal_silent", "message": "Roof camera is silent"}

    def said(what: str, **more: Any) -> str:
        return sentences.sentence_for(
            kind=what, actor="ada", subject="alarm:7", details={**facts, **more}, personal={}
        )

    assert said("alarm.raised") == "Roof camera is silent"
    assert said("alarm.raised", message="") == "A terminal is silent"
    assert said("alarm.acknowledged") == "ada saw an alarm: A terminal is silent"
    assert said("alarm.acknowledged", kind="of_a_later_version") == "ada saw an alarm: of a later version"
    assert sentences.tone_for(kind="alarm.raised", details=facts) == Tone.WARN
