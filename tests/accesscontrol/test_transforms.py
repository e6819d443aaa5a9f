"""The profile chooses the transform, and whatever follows takes its shape from there: the whole way to a decision under
a model of each, from a crop to the reply."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.core.cache import cache
from django.utils import timezone

from accesscontrol.models import AccessAttempt
from enrollment import gallery, payloads
from enrollment import services as enrollment
from recognition.budget import PrivacyProfile
from recognition.checkpoint import load_model
from recognition.frequency import SHAPES
from recognition.payload import MAX_PAYLOAD_BYTES, pack
from tests.accesscontrol import support
from tests.accesscontrol.support import ALICE, MALLORY, believed, new_nonce
from tests.tiny_model import capture_of, make_tiny_model, synthetic_picture, tiny_profile


@pytest.fixture(params=sorted(SHAPES))
def model_of(request: pytest.FixtureRequest, tmp_path: Path, settings: Any) -> PrivacyProfile:
    """The server's model is of this transform; its profile."""
    folder = make_tiny_model(tmp_path / "model", transform=request.param)
    settings.LINTEL_MODEL = str(folder)
    gallery.forget()
    payloads._in_process_store.cache_clear()
    cache.clear()
    request.addfinalizer(gallery.forget)
    (accepted,) = load_model(folder).accepted
    assert (accepted.profile.transform, accepted.profile.shape) == (request.param, SHAPES[request.param])
    return accepted.profile


def test_a_door_opens_under_a_profile_of_either_transform(
    model_of: PrivacyProfile, db: None, tasks_run_inline: None
) -> None:
    def payload(picture: int) -> bytes:
        return pack(capture_of(synthetic_picture(picture), model_of), model_of)

    assert model_of.hash == tiny_profile(transform=model_of.transform).hash
    assert len(payload(ALICE)) <= MAX_PAYLOAD_BYTES
    with support.commits_at_once():
        place, alice = support.make_place(), support.somebody("Alice Example")
        place.group.members.add(alice)
        assert place.device.get("/api/v1/terminals/me").json()["profile_hash"] == model_of.hash
        offered = place.device.get(f"/api/v1/profiles/{model_of.hash}").content.decode()
        assert PrivacyProfile.from_json(offered).shape == model_of.shape
        begun = enrollment.begin_enrollment(person=alice, captures_wanted=2, actor="desk", at=timezone.now())
        for _ in range(2):
            enrollment.submit_capture(enrollment=begun, payload=payload(ALICE), at=timezone.now())
        begun.refresh_from_db()
        assert begun.state == "completed", begun.last_reason
        nonce = new_nonce()
        answer = believed(place.device.attempt(payload(ALICE), nonce=nonce), nonce=nonce)
        assert (answer["granted"], answer["reason"]) == (True, "granted")
        assert place.device.attempt(payload(MALLORY)).json()["reason"] == "no_match"
    assert set(AccessAttempt.objects.values_list("profile_hash", flat=True)) == {model_of.hash}
