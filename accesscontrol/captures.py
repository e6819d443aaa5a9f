"""Which captures this server accepts, decided before a worker sees them. Knows the public profiles, never the
weights."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from django.conf import settings

import recognition.budget
from recognition.budget import PrivacyProfile, load_profile
from recognition.payload import check_noise, unpack

DEFAULT_PROFILE = "profile.json"
DESCRIPTION = "model.json"


class ProfilesMissingError(Exception):
    """The configured model has no privacy profile: nothing could ever be accepted, so the server must not
    start."""


def model_folder(name: str) -> Path:
    """The folder of a model by name (of those in the package) or by path."""
    path = Path(name)
    return path if path.is_absolute() else Path(recognition.budget.__file__).parent / "models" / name


def known_profiles() -> Mapping[str, PrivacyProfile]:
    """The profiles of the configured model by hash, the default first. Read once per process and model."""
    return _profiles_of(settings.LINTEL_MODEL)


def default_profile() -> PrivacyProfile:
    return next(iter(known_profiles().values()))


def check_capture(payload: bytes) -> PrivacyProfile:
    """The profile that this well-formed capture was drawn under. Raises recognition.payload.PayloadError."""
    profiles = known_profiles()
    perturbed = unpack(payload, profiles)
    profile = profiles[perturbed.profile_hash]
    check_noise(perturbed, profile)
    return profile


@cache
def _profiles_of(model: str) -> Mapping[str, PrivacyProfile]:
    folder = model_folder(model)
    others = sorted(path for path in folder.glob("*.json") if path.name not in (DEFAULT_PROFILE, DESCRIPTION))
    try:
        profiles = [load_profile(path) for path in (folder / DEFAULT_PROFILE, *others)]
    except (OSError, ValueError) as error:
        raise ProfilesMissingError(f"model {model}: {error}") from error
    return {profile.hash: profile for profile in profiles}
