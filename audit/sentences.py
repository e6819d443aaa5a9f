"""Entries in plain words. Pure; any app may add kinds of its own with `describe`.

A sentence is a template over the entry's facts ({actor}, {subject}, the details, the personal fields), or a
function of them. A kind without a sentence still reads well: `terminal.paired` with a name becomes "Terminal
paired: Lobby".
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

Facts = Mapping[str, Any]


class Tone(StrEnum):
    """How an entry is marked on the page."""

    PLAIN = "plain"
    YES = "yes"
    NO = "no"
    WARN = "warn"


@dataclass(frozen=True)
class Words:
    sentence: str | Callable[[Facts], str]
    tone: Tone | Callable[[Facts], Tone] = Tone.PLAIN


kinds: dict[str, Words] = {}
ABBREVIATIONS = frozenset({"api", "pin"})


def describe(
    kind: str, sentence: str | Callable[[Facts], str], tone: Tone | Callable[[Facts], Tone] = Tone.PLAIN
) -> None:
    """Registers the words for a kind; a later registration replaces an earlier one."""
    kinds[kind] = Words(sentence, tone)


class _Gaps(string.Formatter):
    """Fills a template; what is not there, or not any more, reads as an ellipsis."""

    def get_value(self, key: int | str, args: Any, kwargs: Facts) -> Any:
        return kwargs.get(str(key), "…")


def sentence_for(
    *,
    kind: str,
    actor: str,
    subject: str,
    details: Facts,
    personal: Facts,
    erased: frozenset[str] = frozenset(),
) -> str:
    """One sentence; `erased` are the personal fields that existed and are gone."""
    facts = {
        **details,
        **dict.fromkeys(erased, "(erased)"),
        **personal,
        "actor": actor,
        "subject": subject or "nobody in particular",
    }
    words = kinds.get(kind)
    if words is None:
        return _by_name(kind, facts)
    if callable(words.sentence):
        return words.sentence(facts)
    return _Gaps().vformat(words.sentence, (), facts)


def tone_for(*, kind: str, details: Facts) -> Tone:
    words = kinds.get(kind)
    if words is None:
        return Tone.PLAIN
    return words.tone(details) if callable(words.tone) else words.tone


def kind_in_words(kind: str) -> str:
    words = kind.replace(".", " ").replace("_", " ").capitalize().split()
    return " ".join(word.upper() if word.lower() in ABBREVIATIONS else word for word in words)


def _by_name(kind: str, facts: Facts) -> str:
    name = facts.get("name")
    return f"{kind_in_words(kind)}: {name}" if name else kind_in_words(kind)


def _spaced(code: Any) -> str:
    return str(code).replace("_", " ")


def _export(facts: Facts) -> str:
    extent = "with personal fields" if facts.get("with_personal") else "without personal fields"
    format_name = str(facts.get("format", "…")).upper()
    return f"{facts['actor']} exported {facts.get('entries', '…')} audit entries as {format_name}, {extent}"


def _sign_in_failed(facts: Facts) -> str:
    if facts.get("known_name") is False:
        return "Somebody failed to sign in with a name that no account has"
    return f"Somebody failed to sign in as {facts.get('username', '…')}"


describe("audit.exported", _export)
describe("person.registered", "{actor} registered {full_name}")
describe(
    "person.updated", lambda facts: f"{facts['actor']} changed a person's {_listed(facts.get('fields'))}"
)
describe("person.erased", "{actor} erased a person for good", Tone.WARN)
describe("person.expired", "A person's time was over: out of the gallery")
describe("person.pin_set", "{actor} set a person's PIN")
describe("person.pin_cleared", "{actor} took a person's PIN away", Tone.WARN)
describe("person.pin_locked", "A person's PIN was locked after wrong tries", Tone.WARN)
describe("person.card_added", "{actor} gave a person a card")
describe("person.card_blocked", "{actor} blocked a person's card", Tone.WARN)
describe("person.card_unblocked", "{actor} unblocked a person's card")
describe("person.card_removed", "{actor} took a card back from a person")
describe("consent.recorded", "{actor} recorded consent (version {version}, {language}, {method})")
describe(
    "consent.withdrawn", "{actor} withdrew a consent: {templates_deleted} templates destroyed", Tone.WARN
)
describe("enrollment.begun", "{actor} began an enrollment")
describe(
    "enrollment.refused",
    lambda facts: f"An enrollment was refused: {_spaced(facts.get('reason', '…'))}",
    Tone.NO,
)
describe("enrollment.duplicate_found", "An enrollment looks like somebody who is enrolled already", Tone.WARN)
describe(
    "enrollment.completed",
    "An enrollment was completed: {templates_added} templates in the gallery",
    Tone.YES,
)
describe("enrollment.retaken", "{actor} discarded the captures of an enrollment and took them again")
describe(
    "enrollment.attached",
    "{actor} said that the captures are of somebody who is enrolled already: added there",
)
describe("enrollment.cancelled", "{actor} cancelled an enrollment")
describe("people.imported", "{actor} registered {people} people from a file")
describe("invitation.created", "{actor} invited a person to enroll on their own phone")
describe("invitation.opened", "A person opened the link of their invitation")
describe("invitation.used", "A person enrolled through their invitation", Tone.YES)
describe("invitation.declined", "A person declined their invitation", Tone.WARN)
describe("invitation.revoked", "{actor} took an invitation back", Tone.WARN)
describe("gallery.reload_requested", "{actor} asked every worker to load the gallery anew")
describe(
    "retention.applied",
    "{actor} applied the retention rules: {people_erased} people erased, {people_expired} expired",
)
describe("presence.forgiven", "{actor} counted a person as outside {site}")
describe("site.locked_down", "{actor} locked the site down", Tone.WARN)
describe("site.lock_down_lifted", "{actor} lifted the lock-down", Tone.YES)
describe("user.signed_in", "{actor} signed in")
describe("user.signed_out", "{actor} signed out")
describe("user.sign_in_failed", _sign_in_failed, Tone.NO)
describe("user.password_changed", "{actor} changed their password")
describe("user.password_reset", "{actor} set a new password for a user", Tone.WARN)
describe("user.two_step_enabled", "{actor} turned two-step sign-in on", Tone.YES)
describe("user.two_step_disabled", "{actor} turned two-step sign-in off", Tone.WARN)
describe("user.recovery_codes_replaced", "{actor} made new recovery codes")
describe("terminal.revoked", "{actor} revoked the terminal {name}", Tone.WARN)
describe("group.member_added", "{actor} added a person to the group {name}")
describe("group.member_removed", "{actor} took a person out of the group {name}")


def _listed(names: Any) -> str:
    return ", ".join(_spaced(name) for name in names) if names else "record"
