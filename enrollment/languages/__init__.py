"""Every sentence that Lintel says to a person in the person's own language: one file a language, `en.toml` the first.

A file `<tag>.toml` in this folder is a language, by that alone: the desk, the guest's pages and the kiosk offer
whatever files there are. A folder of one's own (LINTEL_LANGUAGES_DIR) adds files, or takes the place of one of these:
an installation's own consent text, say. docs/languages.md says how to write one.

A sentence that a file lacks is said in the English that is shipped, an English file of one's own included; `problems`
names it, and so do the tests and `manage.py check`. A file that cannot be read, is not named by a language tag or has
no consent text stops the server: nobody agrees to words that are not there.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

SHIPPED = Path(__file__).resolve().parent
REFERENCE = "en"
SECTIONS = ("consent", "camera", "guest", "kiosk")
DIRECTIONS = ("ltr", "rtl")
FINGERPRINT = 8  # hexadecimal digits of the text's SHA-256 in its version
LONGEST_VERSION = 40  # of what a file declares: with the fingerprint it fits models.Consent.version
LONGEST_TAG = 20  # models.Consent.language
NO_TAG = f"its name is no language tag such as fr.toml or pt-BR.toml, of {LONGEST_TAG} characters at most"
_TAG = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{1,8})*")
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class ConsentText:
    """What a person agrees to. `version` ends in a fingerprint of the words: changed words are another version, whether
    or not somebody thought of it, and recorded consents keep the words they were given in."""

    language: str  # BCP 47
    language_name: str
    direction: str
    version: str
    text: str
    agreement: str  # what the box beside the text says


@dataclass(frozen=True)
class Language:
    tag: str  # BCP 47, the name of its file
    name: str  # as its own speakers write it
    direction: str  # ltr or rtl, for `dir`
    consent: ConsentText
    sections: Mapping[str, Mapping[str, str]]

    def say(self, section: str, key: str, **facts: object) -> str:
        """One sentence, with its placeholders filled in. From right to left they are isolated: a name or a number keeps
        its own direction."""
        before, after = ("\u2068", "\u2069") if self.direction == "rtl" else ("", "")
        return _PLACEHOLDER.sub(
            lambda found: f"{before}{facts.get(found[1], found[0])}{after}", self.sections[section][key]
        )

    def for_browser(self, section: str) -> dict[str, Any]:
        return {
            "tag": self.tag,
            "name": self.name,
            "direction": self.direction,
            "sentences": dict(self.sections[section]),
        }


def known() -> tuple[Language, ...]:
    """Every language there is, English first and the rest by tag. Read once: a new file counts from the next start."""
    return _read(str(getattr(settings, "LINTEL_LANGUAGES_DIR", "") or ""))


def reference() -> Language:
    return known()[0]


def find(tag: str) -> Language | None:
    """Exactly this language."""
    return next((language for language in known() if language.tag.lower() == tag.lower()), None)


def nearest(tag: str) -> Language | None:
    """This language, or the one it is a kind of: de for de-AT, pt-BR for pt where there is no other Portuguese."""
    primary = tag.lower().partition("-")[0]
    kin = (language for language in known() if language.tag.lower().partition("-")[0] == primary)
    return find(tag) or find(primary) or next(kin, None)


def preferred(accept_language: str) -> Language:
    """The language that a browser's header likes best of those there are; English where it likes none."""
    wanted = sorted(_weighted(accept_language), key=lambda pair: -pair[0])
    found = (nearest(tag) for weight, tag in wanted if weight > 0)
    return next((language for language in found if language is not None), reference())


def _weighted(header: str) -> Iterator[tuple[float, str]]:
    for part in header.split(","):
        tag, _, parameter = (piece.strip() for piece in part.partition(";"))
        weight = re.fullmatch(r"q\s*=\s*(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)", parameter)
        if _TAG.fullmatch(tag.lower()):
            yield (float(weight[1]) if weight else 1.0), tag


# Reading the files


def files(own: Path | None = None) -> dict[str, Path]:
    """Language tag -> its file. Files of one's own come before the shipped ones."""
    folders = [SHIPPED, *([own] if own is not None else [])]
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.toml"))}


def problems(own: Path | None = None) -> list[str]:
    """What is wrong with the files there are, one sentence each, by file and key. Empty when nothing is."""
    english = _english()
    wrong: list[str] = []
    for tag, path in files(own).items():
        try:
            wrong += [f"{path.name}: {problem}" for problem in problems_of(tag, _parsed(path), english)]
        except ImproperlyConfigured as error:
            wrong.append(str(error))
    return wrong


def problems_of(tag: str, document: Mapping[str, Any], english: Mapping[str, Any]) -> list[str]:
    """What is wrong with one language, held against English."""
    wrong = [] if _is_tag(tag) else [NO_TAG]
    wrong += [f"{key} is missing" for key in ("name", "direction") if not document.get(key)]
    if document.get("direction") not in (None, "", *DIRECTIONS):
        wrong.append('direction is neither "ltr" nor "rtl"')
    wrong += [f"{key} is no key of a language" for key in set(document) - {"name", "direction", *SECTIONS}]
    for section in SECTIONS:
        ours, theirs = _table(document, section), _table(english, section)
        wrong += [f"{section}.{key} is missing" for key in theirs if key not in ours]
        wrong += [f"{section}.{key} is no key of English" for key in ours if key not in theirs]
        for key in (key for key in theirs if key in ours):
            wrong += [f"{section}.{key} {problem}" for problem in _sentence_problems(ours[key], theirs[key])]
    version = _table(document, "consent").get("version")
    if isinstance(version, str) and len(version) > LONGEST_VERSION:
        wrong.append(f"consent.version has more than {LONGEST_VERSION} characters")
    return wrong


def _sentence_problems(ours: object, theirs: object) -> Iterator[str]:
    if not isinstance(ours, str) or not ours.strip():
        yield "says nothing"
        return
    here, there = set(_PLACEHOLDER.findall(ours)), set(_PLACEHOLDER.findall(str(theirs)))
    yield from (f"lacks {{{name}}}" for name in sorted(there - here))
    yield from (f"has {{{name}}}, which nothing fills in" for name in sorted(here - there))


@lru_cache(maxsize=8)
def _read(own: str) -> tuple[Language, ...]:
    folder = Path(own) if own else None
    if folder is not None and not folder.is_dir():
        raise ImproperlyConfigured(f"LINTEL_LANGUAGES_DIR: there is no folder {folder}")
    found, english = files(folder), _english()
    tags: Iterable[str] = sorted(found, key=lambda tag: (tag != REFERENCE, tag))
    return tuple(_language(tag, found[tag], english) for tag in tags)


def _language(tag: str, path: Path, english: Mapping[str, Any]) -> Language:
    if not _is_tag(tag):
        raise ImproperlyConfigured(f"{path}: {NO_TAG}")
    document = _parsed(path)
    consent = _table(document, "consent")
    for key in ("version", "text", "agreement"):
        if not isinstance(consent.get(key), str) or not consent[key].strip():
            raise ImproperlyConfigured(f"{path}: consent.{key} is missing, and nobody can agree without it")
    if len(consent["version"]) > LONGEST_VERSION:
        raise ImproperlyConfigured(f"{path}: consent.version has more than {LONGEST_VERSION} characters")
    name, direction = str(document.get("name") or tag), document.get("direction")
    direction = direction if direction in DIRECTIONS else DIRECTIONS[0]
    sections = {
        section: {
            key: ours
            if isinstance(ours := _table(document, section).get(key), str) and ours.strip()
            else text
            for key, text in _table(english, section).items()
        }
        for section in SECTIONS
    }
    text, agreement = consent["text"].strip(), consent["agreement"].strip()
    digest = hashlib.sha256(f"{text}\n\n{agreement}".encode()).hexdigest()
    version = f"{consent['version'].strip()}.{digest[:FINGERPRINT]}"
    return Language(
        tag, name, direction, ConsentText(tag, name, direction, version, text, agreement), sections
    )


def _is_tag(tag: str) -> bool:
    return _TAG.fullmatch(tag) is not None and len(tag) <= LONGEST_TAG


def _english() -> dict[str, Any]:
    """The reference: what is shipped, because a file of one's own may lack whatever it does not change."""
    return _parsed(SHIPPED / f"{REFERENCE}.toml")


def _parsed(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ImproperlyConfigured(f"{path} cannot be read as a language: {error}") from error


def _table(document: Mapping[str, Any], section: str) -> dict[str, Any]:
    found = document.get(section)
    return found if isinstance(found, dict) else {}
