"""The wire format takes exactly one encoding of a capture and names what is wrong with any other bytes."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recognition.frequency import SHAPES
from recognition.noise import perturb
from recognition.payload import MAX_PAYLOAD_BYTES, PayloadError, check_noise, pack, unpack
from recognition.types import FrequencyFeatures, PerturbedFeatures
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
        FrequencyFeatures("critical", values), PROFILE, lambda n: np.full(n // 4, 1 << 31, "<u4").tobytes()
    )
    with pytest.raises(PayloadError) as refused:
        check_noise(clean, PROFILE)
    assert refused.value.code == "noise_contradiction"
