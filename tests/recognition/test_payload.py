"""The wire format takes exactly one encoding of a capture and names what is wrong with any other bytes."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recognition.align import align
from recognition.budget import PrivacyProfile, load_profile
from recognition.checkpoint import MODELS
from recognition.detect import Detector
from recognition.fetch_models import models_folder
from recognition.frequency import SHAPES, to_frequency
from recognition.noise import perturb
from recognition.payload import MAX_PAYLOAD_BYTES, PayloadError, check_noise, pack, unpack
from recognition.types import FaceCrop, FrequencyFeatures, PerturbedFeatures
from tests.recognition import faces
from tests.recognition.profiles import make_profile, mixed_bits, recorded_randomness

PROFILE = make_profile(bits=mixed_bits())
PROFILES = {PROFILE.hash: PROFILE}


def capture(seed: int = 0, profile=PROFILE) -> PerturbedFeatures:  # type: ignore[no-untyped-def]
    values = np.random.default_rng(seed).normal(0, 10, SHAPES[profile.transform]).astype(np.float32)
    return perturb(FrequencyFeatures(profile.transform, values), profile, recorded_randomness(seed))


def resealed(data: bytes) -> bytes:
    return data[:-4] + struct.pack("<I", zlib.crc32(data[:-4]))


def code_of(data: bytes) -> str:
    with pytest.raises(PayloadError) as refused:
        unpack(data, PROFILES)
    return refused.value.code


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 50))
def test_what_is_packed_comes_back_whatever_the_allocation(seed: int, allocation: int) -> None:
    profile = make_profile(bits=mixed_bits(allocation))
    sent = capture(seed, profile)
    got = unpack(pack(sent, profile), {profile.hash: profile})
    assert (got.codes == sent.codes).all()
    assert got.profile_hash == profile.hash


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_refused_with_a_code(data: bytes) -> None:
    assert code_of(data) in {"not_a_capture", "truncated"}


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_altered_byte_is_refused(data: st.DataObject) -> None:
    good = bytearray(pack(capture(), PROFILE))
    position = data.draw(st.integers(0, len(good) - 1))
    good[position] ^= data.draw(st.integers(1, 255))
    code_of(bytes(good))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 20_000))
def test_any_truncation_is_refused(length: int) -> None:
    good = pack(capture(), PROFILE)
    if length < len(good):
        assert code_of(good[:length]) in {"truncated", "not_a_capture"}


def test_a_picture_is_not_a_capture() -> None:
    jpeg = cv2.imencode(".jpg", np.full((112, 112, 3), 127, np.uint8))[1].tobytes()
    assert code_of(jpeg) == "not_a_capture"


def test_an_oversized_body_is_refused_before_it_is_read() -> None:
    assert code_of(b"LNTL" + bytes(MAX_PAYLOAD_BYTES)) == "oversized"


def test_trailing_bytes_are_refused() -> None:
    assert code_of(pack(capture(), PROFILE) + b"\0") == "oversized"


def test_another_version_is_refused() -> None:
    data = bytearray(pack(capture(), PROFILE))
    data[4] = 2
    assert code_of(resealed(bytes(data))) == "wrong_version"


def test_an_unknown_profile_is_refused() -> None:
    other = make_profile(name="other")
    assert code_of(pack(capture(profile=other), other)) == "unknown_profile"


def test_another_bit_allocation_is_refused() -> None:
    data = bytearray(pack(capture(), PROFILE))
    data[40] ^= 1
    assert code_of(resealed(bytes(data))) == "wrong_allocation"


def test_nonzero_padding_is_refused_so_that_there_is_one_encoding() -> None:
    profile = make_profile(bits=np.where(np.arange(189) < 1, 1, 0))  # 196 bits: four bits of padding
    data = bytearray(pack(capture(profile=profile), profile))
    data[-5] |= 1
    with pytest.raises(PayloadError) as refused:
        unpack(resealed(bytes(data)), {profile.hash: profile})
    assert refused.value.code == "not_a_capture"


def test_a_code_wider_than_its_channel_cannot_be_packed() -> None:
    codes = np.full(PROFILE.shape, 15, np.uint8)
    with pytest.raises(PayloadError) as refused:
        pack(PerturbedFeatures(PROFILE.hash, codes), PROFILE)
    assert refused.value.code == "wrong_allocation"


def test_lawful_captures_pass_the_noise_check_even_of_nothing_at_all() -> None:
    for value in (0.0, 5.0, 90.0, -1e6):
        flat = FrequencyFeatures("critical", np.full(SHAPES["critical"], value, np.float32))
        for seed in range(20):
            check_noise(perturb(flat, PROFILE, recorded_randomness(seed)), PROFILE)


def test_a_terminal_that_adds_no_noise_is_found_out() -> None:
    values = np.random.default_rng(1).laplace(0, 10 / 2**0.5, SHAPES["critical"]).astype(np.float32)
    clean = perturb(
        FrequencyFeatures("critical", values), PROFILE, lambda n: np.full(n // 2, 1 << 15, "<u2").tobytes()
    )
    with pytest.raises(PayloadError) as refused:
        check_noise(clean, PROFILE)
    assert refused.value.code == "noise_contradiction"


SHIPPED = [path for path in sorted((MODELS / "default").glob("*.json")) if path.name != "model.json"]


@pytest.fixture(scope="module")
def portrait() -> FaceCrop:
    frame = faces.portrait()
    (face,) = Detector(models=models_folder()).find(frame)
    return align(frame, face.points)


def with_less_noise(features: FrequencyFeatures, profile: PrivacyProfile, share: float) -> PerturbedFeatures:
    """Codes of clipped values with `share` of the noise that the profile promises; 0 is none at all."""
    low, high, centre = (each[:, None, None] for each in (profile.low, profile.high, profile.centre))
    scale = np.where(np.isfinite(profile.scale), profile.scale, 0)
    values = np.clip(features.values.astype(np.float64), low, high)
    values += share * scale * np.random.default_rng(7).laplace(size=values.shape)
    levels = (1 << profile.bits)[:, None, None]
    step = np.where(profile.sent, profile.step, 1.0)[:, None, None]
    codes = np.clip(np.floor((values - centre) / step + levels / 2), 0, levels - 1)
    return PerturbedFeatures(profile.hash, np.where(profile.sent[:, None, None], codes, 0).astype(np.uint8))


@pytest.mark.parametrize("file", SHIPPED, ids=lambda path: path.stem)
@pytest.mark.parametrize("share", [0.0, 0.25])
def test_a_face_with_too_little_noise_for_a_profile_that_ships_is_found_out(
    portrait: FaceCrop, file: Path, share: float
) -> None:
    profile = load_profile(file)
    features = to_frequency(portrait, profile.transform)
    with pytest.raises(PayloadError) as refused:
        check_noise(with_less_noise(features, profile, share), profile)
    assert refused.value.code == "noise_contradiction"


@pytest.mark.parametrize("file", SHIPPED, ids=lambda path: path.stem)
def test_a_lawful_capture_under_a_profile_that_ships_is_never_refused(portrait: FaceCrop, file: Path) -> None:
    """Of a face, and of values that leave all the spreading to the noise."""
    profile = load_profile(file)
    middle = np.broadcast_to(profile.centre[:, None, None], profile.shape).astype(np.float32)
    for features in (
        to_frequency(portrait, profile.transform),
        FrequencyFeatures(profile.transform, middle.copy()),
    ):
        for seed in range(20):
            check_noise(perturb(features, profile, recorded_randomness(seed)), profile)


def test_a_capture_whose_noise_stops_where_the_picture_is_calm_is_found_out(portrait: FaceCrop) -> None:
    """Noise in most of the face does not make up for none in the rest of it."""
    profile = load_profile(SHIPPED[0])
    features = to_frequency(portrait, profile.transform)
    lawful = perturb(features, profile, recorded_randomness(1)).codes
    clean = with_less_noise(features, profile, 0.0).codes
    energy = ((features.values / np.maximum(profile.deviation, 1e-9)[:, None, None]) ** 2).sum(axis=0)
    calm = energy < np.quantile(energy, 0.25)
    with pytest.raises(PayloadError):
        check_noise(PerturbedFeatures(profile.hash, np.where(calm, clean, lawful)), profile)
