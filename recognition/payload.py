"""Wire format of one capture, version 1 (docs/protocol.md). All integers little-endian.

    offset  size  field
    0       4     magic "LNTL"
    4       1     version, 1
    5       3     zero
    8       32    SHA-256 of the privacy profile
    40      8     channels of 1, 2, 3 and 4 bits, uint16 each
    48      4     length of the body in bytes
    52      n     body: for each width 1..4, the codes of its channels in channel order, packed most
                  significant bit first, each width padded with zero bits to a whole byte
    52+n    4     CRC-32 of everything before it

There is one valid encoding of a capture: nonzero padding or a trailing byte is refused.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from recognition.budget import PrivacyProfile
from recognition.types import CODE_BITS_MAX, PerturbedFeatures

CONTENT_TYPE = "application/vnd.lintel.capture"
MAX_PAYLOAD_BYTES = 300_000
MAGIC = b"LNTL"
VERSION = 1
_HEADER = struct.Struct("<4sB3s32s4HI")
_CHECKSUM = struct.Struct("<I")
_WIDTHS = range(1, CODE_BITS_MAX + 1)
NOISE_SIGMAS = 8.0  # a lawful capture is refused with probability below 1e-12, by Chernoff's bound
_ROUNDS = 9  # in which channels are looked at; those of earlier rounds choose the places for the next
_CALM_SHARE = 8  # one block in so many is looked at
_CALMER = 0.8  # deviation of a calm part's coefficients, in that of a whole face's
_LEAST_WEIGHT = 0.01  # of a channel in the count: below it a clean picture looks like noise


class PayloadError(ValueError):
    """Refused bytes. `code` is stable: not_a_capture, wrong_version, oversized, truncated, bad_checksum,
    unknown_profile, wrong_allocation, noise_contradiction."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def pack(perturbed: PerturbedFeatures, profile: PrivacyProfile) -> bytes:
    """Encode one capture. Raises PayloadError(wrong_allocation) when codes and profile do not belong together."""
    if perturbed.profile_hash != profile.hash or perturbed.codes.shape != profile.shape:
        raise PayloadError("wrong_allocation", "these features were not drawn under this profile")
    by_width = {width: perturbed.codes[profile.bits == width] for width in _WIDTHS}
    silent = perturbed.codes[profile.bits == 0]
    if silent.any() or any((codes >> width).any() for width, codes in by_width.items()):
        raise PayloadError("wrong_allocation", "a code is wider than its channel allows")
    body = b"".join(_pack_width(codes, width) for width, codes in by_width.items())
    head = _HEADER.pack(
        MAGIC, VERSION, bytes(3), bytes.fromhex(profile.hash), *_channels_per_width(profile), len(body)
    )
    data = head + body
    data += _CHECKSUM.pack(zlib.crc32(data))
    if len(data) > MAX_PAYLOAD_BYTES:
        raise PayloadError("oversized", f"{len(data)} bytes; a capture has at most {MAX_PAYLOAD_BYTES}")
    return data


def unpack(data: bytes, profiles: Mapping[str, PrivacyProfile]) -> PerturbedFeatures:
    """Decode one capture against the profiles (by hash) that this server accepts. Raises PayloadError."""
    if len(data) > MAX_PAYLOAD_BYTES:
        raise PayloadError(
            "oversized", f"a capture has at most {MAX_PAYLOAD_BYTES} bytes, this has {len(data)}"
        )
    if data[:4] != MAGIC:
        raise PayloadError(
            "not_a_capture", "this is not a Lintel capture; pictures of faces are never accepted"
        )
    if len(data) < _HEADER.size + _CHECKSUM.size:
        raise PayloadError("truncated", "the capture ends within its header")
    _, version, zero, digest, *counts, body_length = _HEADER.unpack_from(data)
    if version != VERSION or zero != bytes(3):
        raise PayloadError(
            "wrong_version", f"this server reads version {VERSION} of the capture format, not {version}"
        )
    expected = _HEADER.size + body_length + _CHECKSUM.size
    if len(data) != expected:
        raise PayloadError(
            "truncated" if len(data) < expected else "oversized",
            f"{len(data)} bytes where {expected} were announced",
        )
    if zlib.crc32(data[: -_CHECKSUM.size]) != _CHECKSUM.unpack_from(data, len(data) - _CHECKSUM.size)[0]:
        raise PayloadError("bad_checksum", "the capture was damaged on its way")
    profile = profiles.get(digest.hex())
    if profile is None:
        raise PayloadError(
            "unknown_profile", "this server does not accept the privacy profile of this capture"
        )
    if tuple(counts) != _channels_per_width(profile):
        raise PayloadError("wrong_allocation", "the bit allocation is not the profile's")
    return PerturbedFeatures(profile.hash, _unpack_body(data[_HEADER.size : -_CHECKSUM.size], profile))


def check_noise(perturbed: PerturbedFeatures, profile: PrivacyProfile) -> None:
    """Refuse a capture whose codes vary less than the profile's noise alone would make them (a terminal without noise).

    Counts codes far from the middle. Whatever the clipped value, the chance of one is lowest where the value lies at
    the middle and noise alone must supply it. Two counts: over the whole face, in channels whose noise exceeds the
    signal; and in its calmest parts, where a clean picture has next to nothing in any channel. Catches broken
    terminals, not lying ones: whoever can forge noise can also sign without it. A profile that sends single bits only
    cannot be checked. Raises PayloadError(noise_contradiction).
    """
    if not (_varies_enough(perturbed.codes, profile) and _calm_parts_vary_enough(perturbed.codes, profile)):
        raise PayloadError(
            "noise_contradiction", "this capture carries less noise than its privacy profile promises"
        )


def _varies_enough(all_codes: NDArray[np.uint8], profile: PrivacyProfile) -> bool:
    wide = (profile.bits >= 2) & (profile.scale.min(axis=(1, 2)) > profile.deviation)
    if not wide.any():
        return True
    levels = (1 << profile.bits[wide])[:, None, None]
    codes = all_codes[wide]
    outermost = int(((codes == 0) | (codes == levels - 1)).sum())
    reach = ((levels / 2 - 1) * profile.step[wide][:, None, None]) / profile.scale[wide]
    chance = np.exp(-reach)  # two Laplace tails of one half each
    least = float(chance.sum()) - NOISE_SIGMAS * float(np.sqrt((chance * (1 - chance)).sum()))
    return outermost >= least


def _calm_parts_vary_enough(codes: NDArray[np.uint8], profile: PrivacyProfile) -> bool:
    """Channels in rounds: each is counted in those blocks that were calmest in the rounds before. As noise is drawn
    afresh for every element, choosing so says nothing about the noise that is counted, only about the picture."""
    calm = _calm_count(profile)
    if calm is None:
        return True
    chosen = codes.reshape(codes.shape[0], -1)[calm.channels]
    outside = (chosen < calm.first_inside) | (chosen > calm.last_inside)
    excess = np.add.reduceat(outside * calm.weight, calm.rounds, axis=0) - calm.least  # (rounds, H * W)
    before = np.cumsum(excess[:-1], axis=0)
    places = np.argpartition(before, calm.blocks - 1, axis=1)[:, : calm.blocks]
    found = float(np.take_along_axis(excess[1:], places, axis=1).sum())
    variance = float(np.take_along_axis(calm.variance[1:], places, axis=1).sum())
    return found >= -NOISE_SIGMAS * float(np.sqrt(variance))


@dataclass(frozen=True, eq=False)
class _CalmCount:
    """What does not change from capture to capture. K channels take part, ordered by round."""

    channels: NDArray[np.int64]  # (K,)
    rounds: NDArray[np.int64]  # (rounds,), where each begins
    first_inside: NDArray[np.uint8]  # (K, 1), codes within one noise scale of the middle, about
    last_inside: NDArray[np.uint8]  # (K, 1)
    weight: NDArray[np.float32]  # (K, 1), how much more seldom a clean picture is outside
    least: NDArray[np.float64]  # (rounds, H * W), weighted count that noise alone brings
    variance: NDArray[np.float64]  # (rounds, H * W), of that count
    blocks: int  # looked at in each round


@lru_cache(maxsize=16)
def _calm_count(profile: PrivacyProfile) -> _CalmCount | None:
    half = np.where(profile.bits >= 2, (1 << profile.bits) // 2, 0)
    step = np.where(profile.sent, profile.step, 1.0)
    in_codes = np.rint(profile.scale.min(axis=(1, 2)) / step)
    near = np.clip(in_codes, 1, np.maximum(half - 1, 1)).astype(np.int64)
    chance = np.exp(-(near * step)[:, None, None] / profile.scale).reshape(half.size, -1)  # at the middle
    # of a clean picture's coefficients, which are about Laplacian too
    clean = np.exp(-(2.0**0.5) * near * step / (_CALMER * np.maximum(profile.deviation, 1e-9)))
    weight = np.where(half > 0, chance.min(axis=1) - clean, 0.0)
    telling = np.flatnonzero(weight > _LEAST_WEIGHT)
    if telling.size < _ROUNDS:
        return None
    by_round = [telling[number::_ROUNDS] for number in range(_ROUNDS)]
    channels = np.concatenate(by_round)
    rounds = np.cumsum([0, *(part.size for part in by_round[:-1])])
    half, near, weight = (each[channels, None] for each in (half, near, weight))
    chance = chance[channels]
    return _CalmCount(
        channels=channels,
        rounds=rounds,
        first_inside=(half - near).astype(np.uint8),
        last_inside=(half + near - 1).astype(np.uint8),
        weight=weight.astype(np.float32),
        least=np.add.reduceat(chance * weight, rounds, axis=0),
        variance=np.add.reduceat(chance * (1 - chance) * weight**2, rounds, axis=0),
        blocks=max(1, chance.shape[1] // _CALM_SHARE),
    )


def _channels_per_width(profile: PrivacyProfile) -> tuple[int, ...]:
    return tuple(int((profile.bits == width).sum()) for width in _WIDTHS)


def _pack_width(codes: NDArray[np.uint8], width: int) -> bytes:
    """Codes in one row of bits, most significant first; the last byte is filled with zeros."""
    flat = codes.reshape(-1)
    together = 8 // width  # codes in a byte
    if 8 % width or flat.size % together:
        shifts = np.arange(width - 1, -1, -1, dtype=np.uint8)
        return np.packbits((flat.reshape(-1, 1) >> shifts) & 1).tobytes()
    if width == 1:
        return np.packbits(flat).tobytes()
    packed = flat[0::together].copy()
    for place in range(1, together):
        packed = np.asarray((packed << width) | flat[place::together], np.uint8)
    return packed.tobytes()


def _unpack_body(body: bytes, profile: PrivacyProfile) -> NDArray[np.uint8]:
    _, height, width_px = profile.shape
    codes = np.zeros(profile.shape, np.uint8)
    start = 0
    for width in _WIDTHS:
        channels = profile.bits == width
        bits = int(channels.sum()) * height * width_px * width
        end = start + (bits + 7) // 8
        if end > len(body):
            raise PayloadError("wrong_allocation", "the body is shorter than the profile's allocation")
        unpacked = np.unpackbits(np.frombuffer(body[start:end], np.uint8))
        if unpacked[bits:].any():
            raise PayloadError("not_a_capture", "padding bits are zero in a well-formed capture")
        rows = unpacked[:bits].reshape(-1, width)
        values = rows[:, 0].copy()
        for place in range(1, width):  # ten times as fast as a weighted sum over so short an axis
            values = np.asarray((values << 1) | rows[:, place], np.uint8)
        codes[channels] = values.reshape(-1, height, width_px)
        start = end
    if start != len(body):
        raise PayloadError("wrong_allocation", "the body is longer than the profile's allocation")
    return codes
