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
NOISE_SIGMAS = 8.0  # a lawful capture is refused with probability below 1e-14


class PayloadError(ValueError):
    """Refused bytes. `code` is stable: not_a_capture, wrong_version, oversized, truncated, bad_checksum,
    unknown_profile,
    wrong_allocation, noise_contradiction."""

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

    Counts codes in the two outermost levels of the channels that have two or more bits and whose noise
    exceeds the signal
    (a clean picture hardly reaches those levels there). For any clipped value the chance of an outermost code is lowest
    at the middle, where noise alone must supply it. Catches broken terminals, not lying ones: whoever can
    forge noise can
    also sign without it. A profile without such a channel cannot be checked. Raises PayloadError(noise_contradiction).
    """
    wide = (profile.bits >= 2) & (profile.scale.min(axis=(1, 2)) > profile.deviation)
    if not wide.any():
        return
    levels = (1 << profile.bits[wide])[:, None, None]
    codes = perturbed.codes[wide]
    outermost = int(((codes == 0) | (codes == levels - 1)).sum())
    reach = ((levels / 2 - 1) * profile.step[wide][:, None, None]) / profile.scale[wide]
    chance = np.exp(-reach)  # two Laplace tails of one half each
    least = float(chance.sum()) - NOISE_SIGMAS * float(np.sqrt((chance * (1 - chance)).sum()))
    if outermost < least:
        raise PayloadError(
            "noise_contradiction", "this capture carries less noise than its privacy profile promises"
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
