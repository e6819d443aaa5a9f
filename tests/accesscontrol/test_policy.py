"""The policy against hours and calendars of real places, and against properties that no facts may break."""

from __future__ import annotations

import dataclasses
import math
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accesscontrol.policy import (
    ENOUGH,
    EXPLANATIONS,
    STEPS,
    Asked,
    CardFacts,
    Facts,
    Interval,
    Match,
    PersonFacts,
    PinState,
    Reason,
    RuleFacts,
    Shown,
    decide,
    is_open,
    rank,
    read_weekly,
    told,
)

NOW = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)  # Tuesday, 10:00 in Vienna
HOUR = timedelta(hours=1)
VIENNA = "Europe/Vienna"

ALWAYS = RuleFacts(True, None, None, None)
ALICE = PersonFacts("alice", True, None, None, True)


def facts(**changes: object) -> Facts:
    """Everything in order: Alice at her door."""
    base = Facts(
        deadline=NOW + timedelta(seconds=3),
        terminal_is_active=True,
        terminal_site="hq",
        door_site="hq",
        door_is_active=True,
        site_is_locked_down=False,
        time_zone=VIENNA,
        holidays=frozenset(),
        gallery_size=10,
        threshold=0.5,
        matches=(Match("alice", 0.8),),
        person=ALICE,
        rules=(ALWAYS,),
        anti_passback=False,
        is_inside=False,
    )
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def weekly(*intervals: tuple[int, str, str]) -> RuleFacts:
    document = [{"day": day, "from": start, "to": end} for day, start, end in intervals]
    return RuleFacts(True, None, None, read_weekly(document))


def in_vienna(*moment: int, fold: int = 0) -> datetime:
    return datetime(*moment, tzinfo=ZoneInfo(VIENNA), fold=fold).astimezone(UTC)  # type: ignore[arg-type]


def open_at(rule: RuleFacts, at: datetime, *holidays: date) -> Reason:
    return is_open(rule, at=at, time_zone=VIENNA, holidays=frozenset(holidays))


def test_alice_comes_in_when_everything_is_in_order() -> None:
    decision = decide(facts(), NOW)
    assert (decision.granted, decision.reason, decision.person_id) == (True, Reason.GRANTED, "alice")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"deadline": NOW}, Reason.DEADLINE_PASSED),
        ({"terminal_is_active": False}, Reason.TERMINAL_REVOKED),
        ({"terminal_site": "elsewhere"}, Reason.WRONG_SITE),
        ({"terminal_site": None}, Reason.WRONG_SITE),
        ({"door_is_active": False}, Reason.DOOR_INACTIVE),
        ({"site_is_locked_down": True}, Reason.SITE_LOCKED_DOWN),
        ({"fault": Reason.PAYLOAD_MISSING}, Reason.PAYLOAD_MISSING),
        ({"gallery_size": 0}, Reason.GALLERY_EMPTY),
        ({"matches": ()}, Reason.NO_MATCH),
        ({"matches": (Match("alice", 0.4999),)}, Reason.NO_MATCH),
        ({"matches": (Match("alice", math.nan),)}, Reason.RECOGNIZER_FAULT),
        ({"threshold": math.nan}, Reason.RECOGNIZER_FAULT),
        ({"matches": (Match("alice", 0.8), Match("bob", 0.79))}, Reason.AMBIGUOUS_MATCH),
        ({"matches": (Match("bob", 0.8), Match("bob", 0.3))}, Reason.PERSON_INACTIVE),
        ({"person": None}, Reason.PERSON_INACTIVE),
        ({"person": dataclasses.replace(ALICE, has_consent=False)}, Reason.CONSENT_MISSING),
        ({"person": dataclasses.replace(ALICE, is_active=False)}, Reason.PERSON_INACTIVE),
        ({"person": dataclasses.replace(ALICE, valid_from=NOW + HOUR)}, Reason.PERSON_NOT_YET_VALID),
        ({"person": dataclasses.replace(ALICE, valid_until=NOW)}, Reason.PERSON_EXPIRED),
        ({"rules": ()}, Reason.NO_RULE),
        ({"rules": (dataclasses.replace(ALWAYS, is_active=False),)}, Reason.NO_RULE),
        ({"rules": (dataclasses.replace(ALWAYS, valid_until=NOW),)}, Reason.NO_RULE),
        ({"rules": (weekly((2, "09:00", "17:00")),)}, Reason.OUTSIDE_SCHEDULE),
        (
            {"rules": (weekly((1, "09:00", "17:00")),), "holidays": frozenset({date(2026, 11, 24)})},
            Reason.HOLIDAY,
        ),
        ({"anti_passback": True, "is_inside": True}, Reason.ANTI_PASSBACK),
    ],
)
def test_one_thing_out_of_order_keeps_the_door_shut(change: dict[str, object], reason: Reason) -> None:
    decision = decide(facts(**change), NOW)
    assert (decision.granted, decision.reason) == (False, reason)


CARDED = dataclasses.replace(ALICE, has_pin=True, has_card=True)
WITH_PIN = {
    "asks_for": Asked.FACE_AND_PIN,
    "shown": Shown.FACE_AND_PIN,
    "person": CARDED,
    "pin": PinState.RIGHT,
}
WITH_CARD = {
    "asks_for": Asked.FACE_AND_CARD, "shown": Shown.FACE_AND_CARD, "person": CARDED, "card": CardFacts("alice"),
}  # fmt: skip
NO_FACE = {
    "asks_for": Asked.CARD_AND_PIN, "shown": Shown.CARD_AND_PIN, "matches": (), "gallery_size": 0,
    "threshold": math.inf, "person": dataclasses.replace(CARDED, has_consent=False), "card": CardFacts("alice"),
    "pin": PinState.RIGHT,
}  # fmt: skip


@pytest.mark.parametrize(
    "complete", [WITH_PIN, WITH_CARD, NO_FACE, NO_FACE | {"asks_for": Asked.FACE_OR_CARD_AND_PIN}]
)
def test_alice_comes_in_with_everything_that_a_door_asks_for(complete: dict[str, object]) -> None:
    decision = decide(facts(**complete), NOW)
    assert (decision.granted, decision.reason, decision.person_id) == (True, Reason.GRANTED, "alice")


@pytest.mark.parametrize(
    ("complete", "change", "reason"),
    [
        (WITH_PIN, {"shown": Shown.FACE, "pin": None}, Reason.PIN_REQUIRED),
        (WITH_PIN, {"pin": None}, Reason.PIN_WRONG),
        (WITH_PIN, {"pin": PinState.WRONG}, Reason.PIN_WRONG),
        (WITH_PIN, {"pin": PinState.LOCKED}, Reason.PIN_LOCKED),
        (WITH_PIN, {"person": ALICE}, Reason.PIN_MISSING),
        (WITH_PIN, {"person": ALICE, "shown": Shown.FACE}, Reason.PIN_MISSING),
        (WITH_PIN, {"step_is_open": False}, Reason.STEP_EXPIRED),
        (WITH_PIN, {"shown": Shown.FACE, "rules": ()}, Reason.NO_RULE),
        (WITH_PIN, {"asks_for": Asked.FACE}, Reason.METHOD_REFUSED),
        (WITH_PIN, {"asks_for": Asked.FACE_AND_CARD}, Reason.METHOD_REFUSED),
        (WITH_PIN, {"asks_for": Asked.CARD_AND_PIN}, Reason.METHOD_REFUSED),
        (WITH_CARD, {"shown": Shown.FACE, "card": None}, Reason.CARD_REQUIRED),
        (WITH_CARD, {"shown": Shown.FACE, "person": ALICE}, Reason.CARD_MISSING),
        (WITH_CARD, {"card": None}, Reason.CARD_UNKNOWN),
        (WITH_CARD, {"card": CardFacts(None)}, Reason.CARD_UNKNOWN),
        (WITH_CARD, {"card": CardFacts("bob")}, Reason.CARD_OF_ANOTHER),
        (WITH_CARD, {"card": CardFacts("alice", is_blocked=True)}, Reason.CARD_BLOCKED),
        (WITH_CARD, {"pin": PinState.RIGHT, "card": None}, Reason.CARD_UNKNOWN),
        (NO_FACE, {"asks_for": Asked.FACE}, Reason.METHOD_REFUSED),
        (NO_FACE, {"asks_for": Asked.FACE_AND_PIN}, Reason.METHOD_REFUSED),
        (NO_FACE, {"asks_for": Asked.FACE_AND_CARD}, Reason.METHOD_REFUSED),
        (NO_FACE, {"card": None}, Reason.CARD_UNKNOWN),
        (NO_FACE, {"card": CardFacts("bob")}, Reason.CARD_UNKNOWN),
        (NO_FACE, {"person": None}, Reason.CARD_UNKNOWN),
        (NO_FACE, {"card": CardFacts("alice", is_blocked=True)}, Reason.CARD_BLOCKED),
        (NO_FACE, {"pin": PinState.WRONG, "rules": ()}, Reason.PIN_WRONG),
        (NO_FACE, {"rules": ()}, Reason.NO_RULE),
        (NO_FACE, {"anti_passback": True, "is_inside": True}, Reason.ANTI_PASSBACK),
        (NO_FACE, {"site_is_locked_down": True}, Reason.SITE_LOCKED_DOWN),
        (NO_FACE, {"deadline": NOW}, Reason.DEADLINE_PASSED),
    ],
)
def test_a_pin_or_card_out_of_order_keeps_the_door_shut(
    complete: dict[str, object], change: dict[str, object], reason: Reason
) -> None:
    decision = decide(facts(**complete | change), NOW)
    assert (decision.granted, decision.reason) == (False, reason)


def test_of_a_card_a_door_tells_nothing_finer_than_that_it_was_not_accepted() -> None:
    about_cards = {Reason.CARD_UNKNOWN, Reason.CARD_BLOCKED, Reason.CARD_OF_ANOTHER}
    about_pins = {Reason.PIN_MISSING, Reason.PIN_WRONG, Reason.PIN_LOCKED}
    for shown in Shown:
        said = {told(reason, shown) for reason in about_cards}
        assert said == {Reason.PROOF_REFUSED}
    assert {told(reason, Shown.CARD_AND_PIN) for reason in about_pins} == {Reason.PROOF_REFUSED}
    for reason in set(Reason) - about_cards:
        assert told(reason, Shown.FACE_AND_PIN) == reason


def test_every_kind_of_door_names_what_is_enough_and_no_half_is() -> None:
    assert set(ENOUGH) == set(Asked) and all(ENOUGH.values())
    for asked in STEPS:
        assert Shown.FACE not in ENOUGH[asked]


def test_two_who_score_alike_are_told_apart_when_one_is_below_the_threshold() -> None:
    assert decide(facts(matches=(Match("alice", 0.51), Match("bob", 0.49))), NOW).granted


def test_a_lost_consent_weighs_more_than_an_expired_pass() -> None:
    person = dataclasses.replace(ALICE, has_consent=False, valid_until=NOW - HOUR, is_active=False)
    assert decide(facts(person=person), NOW).reason == Reason.CONSENT_MISSING


def test_one_open_rule_among_closed_ones_is_enough() -> None:
    assert decide(facts(rules=(weekly((4, "09:00", "17:00")), ALWAYS)), NOW).granted


def test_hours_follow_the_clock_of_the_site_and_end_before_their_last_minute() -> None:
    rule = weekly((1, "10:00", "11:00"))
    assert open_at(rule, in_vienna(2026, 11, 24, 9, 59)) == Reason.OUTSIDE_SCHEDULE
    assert open_at(rule, in_vienna(2026, 11, 24, 10, 0)) == Reason.GRANTED
    assert open_at(rule, in_vienna(2026, 11, 24, 10, 59, 59)) == Reason.GRANTED
    assert open_at(rule, in_vienna(2026, 11, 24, 11, 0)) == Reason.OUTSIDE_SCHEDULE


def test_a_night_shift_runs_over_midnight_into_the_next_day_only() -> None:
    rule = weekly((6, "22:00", "06:00"))  # Sunday night
    assert open_at(rule, in_vienna(2026, 11, 22, 23, 0)) == Reason.GRANTED
    assert open_at(rule, in_vienna(2026, 11, 23, 5, 59)) == Reason.GRANTED
    assert open_at(rule, in_vienna(2026, 11, 23, 6, 0)) == Reason.OUTSIDE_SCHEDULE
    assert open_at(rule, in_vienna(2026, 11, 22, 5, 0)) == Reason.OUTSIDE_SCHEDULE


def test_a_holiday_closes_the_shift_that_begins_on_it_and_not_the_one_that_runs_into_it() -> None:
    rule = weekly((2, "22:00", "06:00"), (3, "22:00", "06:00"))  # Wednesday and Thursday nights
    holiday = date(2026, 11, 26)  # Thursday
    assert open_at(rule, in_vienna(2026, 11, 26, 3, 0), holiday) == Reason.GRANTED
    assert open_at(rule, in_vienna(2026, 11, 26, 23, 0), holiday) == Reason.HOLIDAY
    assert open_at(rule, in_vienna(2026, 11, 27, 3, 0), holiday) == Reason.HOLIDAY


def test_when_clocks_go_back_the_hour_that_comes_twice_is_open_twice() -> None:
    rule = weekly((6, "02:00", "03:00"))  # Sunday 25 October 2026
    assert open_at(rule, in_vienna(2026, 10, 25, 2, 30, fold=0)) == Reason.GRANTED
    assert open_at(rule, in_vienna(2026, 10, 25, 2, 30, fold=1)) == Reason.GRANTED
    assert in_vienna(2026, 10, 25, 2, 30, fold=1) - in_vienna(2026, 10, 25, 2, 30, fold=0) == HOUR


def test_when_clocks_go_forward_the_hour_that_does_not_exist_is_never_open() -> None:
    rule = weekly((6, "02:00", "03:00"))  # Sunday 29 March 2026
    midnight = in_vienna(2026, 3, 29, 0, 0)
    answers = {open_at(rule, midnight + timedelta(minutes=minute)) for minute in range(6 * 60)}
    assert answers == {Reason.OUTSIDE_SCHEDULE}


def test_the_same_moment_is_another_hour_at_another_site() -> None:
    rule = weekly((1, "10:00", "11:00"))
    assert is_open(rule, at=NOW, time_zone=VIENNA, holidays=frozenset()) == Reason.GRANTED
    assert (
        is_open(rule, at=NOW, time_zone="America/New_York", holidays=frozenset()) == Reason.OUTSIDE_SCHEDULE
    )


def test_a_whole_day_is_written_to_twenty_four_hundred() -> None:
    rule = weekly((1, "00:00", "24:00"))
    assert open_at(rule, in_vienna(2026, 11, 24, 0, 0)) == Reason.GRANTED
    assert open_at(rule, in_vienna(2026, 11, 24, 23, 59, 59)) == Reason.GRANTED
    assert open_at(rule, in_vienna(2026, 11, 25, 0, 0)) == Reason.OUTSIDE_SCHEDULE


@pytest.mark.parametrize(
    "document",
    [
        "monday",
        [{"day": 7, "from": "09:00", "to": "17:00"}],
        [{"day": True, "from": "09:00", "to": "17:00"}],
        [{"day": 0, "from": "9", "to": "17:00"}],
        [{"day": 0, "from": "24:00", "to": "17:00"}],
        [{"day": 0, "from": "09:00", "to": "09:00"}],
        [{"day": 0, "from": "09:00"}],
        [{"day": 0, "from": "25:00", "to": "26:00"}],
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(document: object) -> None:
    with pytest.raises(ValueError):
        read_weekly(document)


def test_every_reason_has_a_sentence_and_every_refusal_says_what_to_do() -> None:
    assert set(EXPLANATIONS) == set(Reason)
    for reason, explanation in EXPLANATIONS.items():
        assert explanation.sentence.endswith(".")
        assert bool(explanation.next_step) == (reason != Reason.GRANTED)


# Properties

#: A busy machine is slow to draw, which says nothing about the policy.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


moments = st.integers(-3, 3).map(lambda hours: NOW + hours * HOUR)
maybe_moments = st.none() | moments
scores = st.floats(-1, 1) | st.just(math.nan)
people = st.sampled_from(["alice", "bob", "carol"])
matches = st.lists(st.builds(Match, people, scores), max_size=4).map(tuple)
intervals = st.builds(
    lambda day, start, length: Interval(day, start, (start + length) % 1440 or 1440),
    st.integers(0, 6),
    st.integers(0, 1439),
    st.integers(1, 1439),
)
rules = st.lists(
    st.builds(
        RuleFacts,
        st.booleans(),
        maybe_moments,
        maybe_moments,
        st.none() | st.lists(intervals, max_size=3).map(tuple),
    ),
    max_size=3,
).map(tuple)
anything = st.builds(
    Facts,
    deadline=moments,
    terminal_is_active=st.booleans(),
    terminal_site=st.sampled_from(["hq", "elsewhere", None]),
    door_site=st.just("hq"),
    door_is_active=st.booleans(),
    site_is_locked_down=st.booleans(),
    time_zone=st.sampled_from([VIENNA, "UTC", "America/New_York"]),
    holidays=st.sets(st.sampled_from([NOW.date(), NOW.date() - timedelta(days=1)])).map(frozenset),
    gallery_size=st.integers(0, 2),
    threshold=st.floats(-1, 1) | st.sampled_from([math.nan, math.inf]),
    matches=matches,
    person=st.none()
    | st.builds(
        PersonFacts,
        people,
        st.booleans(),
        maybe_moments,
        maybe_moments,
        st.booleans(),
        st.booleans(),
        st.booleans(),
    ),
    rules=rules,
    anti_passback=st.booleans(),
    is_inside=st.booleans(),
    fault=st.none()
    | st.sampled_from([Reason.PAYLOAD_MISSING, Reason.PAYLOAD_REFUSED, Reason.RECOGNIZER_FAULT]),
    asks_for=st.sampled_from(Asked),
    shown=st.sampled_from(Shown),
    pin=st.none() | st.sampled_from(PinState),
    card=st.none() | st.builds(CardFacts, st.none() | people, st.booleans()),
    step_is_open=st.booleans(),
)
#: Mostly in order, so that granted decisions are common enough to learn from.
nearly = st.builds(
    lambda found, inside, holidays, rules_, margin: facts(
        matches=found, anti_passback=True, is_inside=inside, holidays=holidays, rules=rules_, margin=margin
    ),
    matches,
    st.booleans(),
    st.sets(st.just(NOW.date())).map(frozenset),
    rules | st.just((ALWAYS,)),
    st.floats(0, 0.2),
)


#: Doors that ask for more than a face, and people who have it, mostly.
proving = st.builds(
    lambda asked, shown, pin, owner, blocked, has_pin, has_card, consents, rules_: facts(
        asks_for=asked,
        shown=shown,
        pin=pin,
        card=CardFacts(owner, blocked),
        person=dataclasses.replace(ALICE, has_pin=has_pin, has_card=has_card, has_consent=consents),
        rules=rules_,
    ),
    st.sampled_from(Asked),
    st.sampled_from(Shown),
    st.sampled_from([PinState.RIGHT, PinState.RIGHT, PinState.WRONG, PinState.LOCKED, None]),
    st.sampled_from(["alice", "alice", "bob", None]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    rules | st.just((ALWAYS,)),
)


@patient
@given(proving | anything, moments)
def test_nobody_comes_in_without_what_the_door_asks_for(given_facts: Facts, at: datetime) -> None:
    decision = decide(given_facts, at)
    if not decision.granted:
        return
    person, card = given_facts.person, given_facts.card
    assert person is not None and person.person_id == decision.person_id and person.is_active
    assert given_facts.shown in ENOUGH[given_facts.asks_for] and given_facts.step_is_open
    if given_facts.shown in (Shown.FACE_AND_PIN, Shown.CARD_AND_PIN):
        assert person.has_pin and given_facts.pin == PinState.RIGHT
    if given_facts.shown in (Shown.FACE_AND_CARD, Shown.CARD_AND_PIN):
        assert card is not None and card.person_id == person.person_id and not card.is_blocked
    assert (decision.score is None) == (given_facts.shown == Shown.CARD_AND_PIN)


@patient
@given(anything | nearly | proving, moments)
def test_nobody_comes_in_without_everything_that_it_takes(given_facts: Facts, at: datetime) -> None:
    decision = decide(given_facts, at)
    assert decision.granted == (decision.reason == Reason.GRANTED)
    if not decision.granted:
        return
    person = given_facts.person
    assert at < given_facts.deadline
    assert given_facts.terminal_is_active and given_facts.terminal_site == given_facts.door_site
    assert given_facts.door_is_active and not given_facts.site_is_locked_down
    assert given_facts.fault is None
    assert person is not None and person.person_id == decision.person_id and person.is_active
    assert person.valid_from is None or person.valid_from <= at
    assert person.valid_until is None or at < person.valid_until
    assert any(
        is_open(rule, at=at, time_zone=given_facts.time_zone, holidays=given_facts.holidays) == Reason.GRANTED
        for rule in given_facts.rules
    )
    assert not (given_facts.anti_passback and given_facts.is_inside)
    if given_facts.shown == Shown.CARD_AND_PIN:
        return  # no face was looked at
    assert person.has_consent and given_facts.gallery_size > 0
    assert decision.score is not None and decision.score >= given_facts.threshold
    assert decision.score == max(match.score for match in given_facts.matches)
    rivals = [match.score for match in given_facts.matches if match.person_id != person.person_id]
    for rival in rivals:
        assert rival < given_facts.threshold or decision.score - rival >= given_facts.margin


@patient
@given(anything | nearly, moments)
def test_every_answer_comes_with_an_explanation_and_the_same_facts_give_the_same_answer(
    given_facts: Facts, at: datetime
) -> None:
    decision = decide(given_facts, at)
    assert decision.reason in EXPLANATIONS
    again = decide(dataclasses.replace(given_facts, matches=given_facts.matches[::-1]), at)
    assert (again.granted, again.reason, again.person_id) == (
        decision.granted,
        decision.reason,
        decision.person_id,
    )


@patient
@given(anything | nearly, moments, st.floats(0, 1))
def test_a_higher_threshold_never_opens_a_door(given_facts: Facts, at: datetime, more: float) -> None:
    """Except that it can settle an ambiguity: a rival who falls below it is no rival any more."""
    stricter = dataclasses.replace(given_facts, threshold=given_facts.threshold + more)
    if decide(stricter, at).granted:
        assert decide(given_facts, at).reason in (Reason.GRANTED, Reason.AMBIGUOUS_MATCH)


@patient
@given(anything | nearly | proving, moments)
def test_taking_something_away_never_opens_a_door(given_facts: Facts, at: datetime) -> None:
    if decide(given_facts, at).granted:
        return
    person = given_facts.person
    poorer = [
        dataclasses.replace(given_facts, rules=given_facts.rules[1:]),
        dataclasses.replace(given_facts, person=None),
        dataclasses.replace(given_facts, door_is_active=False),
        dataclasses.replace(given_facts, terminal_is_active=False),
        dataclasses.replace(given_facts, site_is_locked_down=True),
        dataclasses.replace(given_facts, gallery_size=0),
        dataclasses.replace(given_facts, pin=None),
        dataclasses.replace(given_facts, pin=PinState.WRONG),
        dataclasses.replace(given_facts, card=None),
        dataclasses.replace(given_facts, card=CardFacts("alice", is_blocked=True)),
        dataclasses.replace(given_facts, step_is_open=False),
        dataclasses.replace(given_facts, deadline=given_facts.deadline - HOUR),
        dataclasses.replace(given_facts, holidays=given_facts.holidays | {at.date()}),
        dataclasses.replace(given_facts, anti_passback=True, is_inside=True),
        dataclasses.replace(given_facts, margin=given_facts.margin + 0.1),
    ]
    if person is not None:
        poorer.append(dataclasses.replace(given_facts, person=dataclasses.replace(person, has_consent=False)))
    assert not any(decide(less, at).granted for less in poorer)


@patient
@given(matches)
def test_ranking_keeps_the_best_of_each_person_in_order(found: tuple[Match, ...]) -> None:
    finite = tuple(match for match in found if math.isfinite(match.score))
    ranked = rank(finite)
    assert {match.person_id for match in ranked} == {match.person_id for match in finite}
    assert [match.score for match in ranked] == sorted((match.score for match in ranked), reverse=True)
    for match in ranked:
        assert match.score == max(other.score for other in finite if other.person_id == match.person_id)
