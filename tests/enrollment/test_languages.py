"""One file is one language: nothing missing, nothing extra, every placeholder, and the choice made from the files."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.test import Client
from django.urls import reverse

from accesscontrol.policy import Reason
from enrollment import languages, services
from enrollment.models import Consent
from recognition.quality import ADVICE
from tests.enrollment.support import somebody
from tests.languages import ENGLISH, another, spelled, written
from tests.pages.support import make_user

ROOT = Path(languages.__file__).resolve().parents[2]
PAGES = {path: path.read_text(encoding="utf-8") for path in (ROOT / "templates").rglob("*.html")}
KIOSK = "".join(path.read_text() for path in (ROOT / "accesscontrol/static/kiosk").glob("*.js"))
KIOSK += (ROOT / "accesscontrol/views/kiosk.py").read_text()
DESK = "".join(path.read_text() for path in (ROOT / "enrollment/static/enrollment").glob("*.js"))


@pytest.fixture
def own(tmp_path: Path, settings: Any) -> Path:
    settings.LINTEL_LANGUAGES_DIR = str(tmp_path)
    return tmp_path


def test_every_shipped_language_says_everything_and_nothing_else() -> None:
    """Whatever is missing, extra or lacks a placeholder is named here by file and key."""
    assert languages.problems() == []


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda one: one["kiosk"].pop("pad_back"), "kiosk.pad_back is missing"),
        (lambda one: one.pop("guest"), "guest.hello is missing"),
        (lambda one: one["camera"].update(sneeze="Hatschi."), "camera.sneeze is no key of English"),
        (lambda one: one["guest"].update(hello="Salut"), "guest.hello lacks {name}"),
        (
            lambda one: one["guest"].update(thanks="Merci {nom}"),
            "guest.thanks has {nom}, which nothing fills in",
        ),
        (lambda one: one["kiosk"].update(granted=" "), "kiosk.granted says nothing"),
        (lambda one: one["kiosk"].update(granted=3), "kiosk.granted says nothing"),
        (lambda one: one.update(direction="down"), 'direction is neither "ltr" nor "rtl"'),
        (lambda one: one.pop("name"), "name is missing"),
        (lambda one: one.update(desk={}), "desk is no key of a language"),
        (lambda one: one["consent"].update(version="x" * 41), "consent.version has more than 40 characters"),
    ],
)
def test_whatever_is_wrong_with_a_file_is_named_by_its_key(spoil: Any, problem: str) -> None:
    document = another()
    assert languages.problems_of("fr", document, ENGLISH) == []
    spoil(document)
    assert problem in languages.problems_of("fr", document, ENGLISH)


def test_a_file_that_is_put_there_is_a_language_and_its_gaps_are_filled_in_english_and_named(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = another()
    del document["kiosk"]["pad_back"]
    (own / "he-x-test.toml").write_text(written(document), encoding="utf-8")
    tags = [language.tag for language in languages.known()]
    assert tags[0] == "en" and "he-x-test" in tags
    spoken = languages.find("he-X-test")
    assert spoken is not None and spoken.direction == "rtl"
    assert spoken.say("kiosk", "pad_clear") == spelled("Clear")
    assert spoken.say("kiosk", "pad_back") == "Back"
    assert spoken.say("guest", "hello", name="{Ada}") == f"{spelled('Hello')} \u2068{{Ada}}\u2069"
    call_command("check")
    assert "he-x-test.toml: kiosk.pad_back is missing" in capsys.readouterr().err


def test_a_file_of_ones_own_takes_the_place_of_a_shipped_one(own: Path) -> None:
    theirs = {**ENGLISH, "consent": {**ENGLISH["consent"], "text": "I agree, at Example Ltd."}}
    (own / "en.toml").write_text(written(theirs), encoding="utf-8")
    assert languages.reference().consent.text == "I agree, at Example Ltd."


def test_an_english_file_of_ones_own_may_hold_the_consent_alone(own: Path) -> None:
    """It takes the place of ours and not of the reference: its gaps are filled and named like any other's."""
    theirs = {"name": "English", "direction": "ltr", "consent": ENGLISH["consent"], "kiosk": {"granted": 3}}
    theirs = {"name": "English", "direction": "ltr", "consent": {**ENGLISH["consent"], "text": "I agree."}}
    (own / "en.toml").write_text(f"{written(theirs)}[kiosk]\ngranted = 3\n", encoding="utf-8")
    english = languages.reference()
    assert english.consent.text == "I agree."
    assert english.say("guest", "hello", name="Ada") == ENGLISH["guest"]["hello"].replace("{name}", "Ada")
    assert english.say("kiosk", "granted") == ENGLISH["kiosk"]["granted"]
    assert "en.toml: guest.hello is missing" in languages.problems(own)


@pytest.mark.parametrize("tag", ['"><b>', "fr old", "FR", "zh-Hant-TW-x-a-long-house-name"])
def test_a_file_whose_name_is_no_language_tag_stops_the_server(own: Path, tag: str) -> None:
    """Pages say it as `lang`, and a consent is recorded with it."""
    (own / f"{tag}.toml").write_text(written(another()), encoding="utf-8")
    with pytest.raises(ImproperlyConfigured, match="no language tag"):
        languages.known()
    with pytest.raises(SystemCheckError, match="no language tag"):
        call_command("check")


@pytest.mark.parametrize(
    "text",
    ["name = ", written(another(consent={"text": "Yes."})), written(another(consent={}))],
    ids=["no TOML", "a consent without a version", "no consent at all"],
)
def test_a_language_in_which_nobody_could_agree_stops_the_server(own: Path, text: str) -> None:
    (own / "fr.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ImproperlyConfigured, match=r"fr\.toml"):
        languages.known()
    with pytest.raises(SystemCheckError, match=r"fr\.toml"):
        call_command("check")


def test_a_folder_that_is_not_there_is_said_and_not_passed_over(settings: Any) -> None:
    settings.LINTEL_LANGUAGES_DIR = "/nowhere/at/all"
    with pytest.raises(ImproperlyConfigured, match="LINTEL_LANGUAGES_DIR"):
        languages.known()


def test_changed_words_are_another_version_even_if_nobody_said_so(own: Path) -> None:
    seen = set()
    for change in ({}, {"text": "I agree, a little."}, {"agreement": "Yes."}, {"version": "2027-01"}):
        consent = {**ENGLISH["consent"], **change}
        (own / "en.toml").write_text(written({**ENGLISH, "consent": consent}), encoding="utf-8")
        languages._read.cache_clear()
        version = languages.reference().consent.version
        assert re.fullmatch(rf"{re.escape(consent['version'])}\.[0-9a-f]{{8}}", version)
        seen.add(version)
    assert len(seen) == 4
    languages._read.cache_clear()


@pytest.mark.parametrize(
    ("header", "tag"),
    [
        ("de-AT,fr;q=0.5", "de"),
        ("en;q=0.2, de;q=0.9", "de"),
        ("xx, de;q=0.1", "de"),
        ("de;q=0, en;q=0.1", "en"),
        ("DE", "de"),
        ("xx", "en"),
        ("", "en"),
        ("*", "en"),
        ("de;q=nonsense", "de"),
        (";;,,\x00", "en"),
    ],
)
def test_a_browser_gets_the_language_it_likes_best_of_those_there_are(header: str, tag: str) -> None:
    assert languages.preferred(header).tag == tag


def test_kinds_of_one_language_stand_in_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    english = languages.reference()
    brazil = replace(english, tag="pt-BR")
    monkeypatch.setattr(languages, "known", lambda: (english, brazil))
    for tag in ("pt-BR", "pt-br", "pt", "pt-PT"):
        assert languages.nearest(tag) == brazil
    assert languages.nearest("en-GB") == english
    assert languages.nearest("fi") is None
    assert languages.find("pt") is None


# What the code says is in the files, and what is in the files is said


def test_every_sentence_that_a_template_says_is_there() -> None:
    said = {
        (section, key)
        for text in PAGES.values()
        for section, key in re.findall(r'\{% say "(\w+)" "(\w+)"', text)
    }
    assert len(said) > 60
    assert [f"{section}.{key}" for section, key in sorted(said) if key not in ENGLISH[section]] == []


def test_no_sentence_of_english_is_said_by_nobody() -> None:
    """Each is worth a translator's time: it stands in a template, a module, or answers a code of the server."""
    pages, modules = "".join(PAGES.values()), KIOSK + DESK
    codes = {reason.value for reason in Reason} | set(services.MESSAGES) | set(ADVICE)
    codes |= {"invitation_unknown", "invitation_used", "invitation_declined", "invitation_revoked"}
    codes |= {"invitation_expired", "too_many_requests", "enrollment_in_progress", "too_many_tries"}
    codes |= {"otherwise", "too_close", "clock_skew", "key_unknown", "recognition_unavailable"}
    codes |= {"terminal_without_door", "proof_used", "proof_unavailable", "failed"}
    silent = []
    for section in ("camera", "guest", "kiosk"):
        for key in ENGLISH[section]:
            code = re.sub(r"^(hint|advice|enrollment|camera|pad)_|_(next|hint|empty|short)$", "", key)
            named = re.search(rf'[" .]{key}[",.:]|"{key}"|\b{key}\b:', pages + modules)
            composed = code in codes or f'"{code}"' in modules or code in ("pin", "card", "not_live")
            if not named and not composed and key.removesuffix("_next") not in codes:
                silent.append(f"{section}.{key}")
    assert silent == []


def test_every_sentence_that_a_module_says_is_there() -> None:
    asked = set(re.findall(r'words\.say\("(\w+)"', KIOSK)) | set(
        re.findall(r'data-text="(\w+)"', "".join(PAGES.values()))
    )
    assert asked - set(ENGLISH["kiosk"]) == set()
    guided = set(re.findall(r'guide\.say\("(\w+)"', DESK)) | set(re.findall(r'CameraProblem\("(\w+)"', DESK))
    assert guided - set(ENGLISH["camera"]) == set()


def test_no_sentence_for_a_person_is_left_in_the_pages_or_the_modules() -> None:
    """The guests' pages and the kiosk hold no words of their own: what stands between two tags comes from the files."""
    for path, text in PAGES.items():
        if not (path.name.startswith(("guest_", "_guest")) or path.parent.name == "kiosk"):
            continue
        bare = re.sub(r"\{%.*?%\}|\{\{.*?\}\}|<script.*?</script>", "", text, flags=re.DOTALL)
        between = re.findall(r">([^<>]*[A-Za-z]{2}[^<>]*)<", bare)
        assert [words.strip() for words in between if words.strip() not in ("Lintel", "· Lintel")] == [], (
            path.name
        )
        labels = re.findall(r'(?:aria-label|placeholder|title|alt)="([^"]+)"', bare)
        assert labels == [], path.name


@pytest.mark.django_db
def test_a_tick_at_the_desk_does_not_count_for_words_that_came_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk, ada = Client(), somebody("Ada Example", consents=False)
    desk.force_login(make_user("desk", "enroller"))
    page, before = reverse("consent_create", args=[ada.pk]), languages.reference()
    said = {"language": "en", "method": "signed", "agreed": "on"}
    reworded = replace(before.consent, text="I agree to more.", version="2026-11.00000000")
    monkeypatch.setattr(languages, "known", lambda: (replace(before, consent=reworded),))
    answer = desk.post(page, {**said, "version": before.consent.version})
    html = answer.content.decode()
    assert answer.status_code == 422 and "I agree to more." in html and reworded.version in html
    assert 'name="agreed"' in html and " checked" not in html
    assert not Consent.objects.exists()
    assert desk.post(page, {**said, "version": reworded.version}).status_code == 302
    assert Consent.objects.get().text == "I agree to more."
