"""The browser's edge path against Python's: coefficients within rounding; the same thresholds, codes and bytes.

What is compared exactly and what within rounding, and why: a coefficient is a sum of products that BLAS and
JavaScript add up in different orders, so it differs in the last float32 digits. A code is a comparison of integers:
given the same coefficients and the same random bytes it must be equal. From a picture, a code may differ where the
random integer falls between two thresholds that differ by that rounding; those places are counted below.
"""

from __future__ import annotations

import base64
import hashlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page

from recognition.align import align
from recognition.budget import PrivacyProfile, load_profile
from recognition.checkpoint import model_folder
from recognition.detect import Detector
from recognition.frequency import to_frequency
from recognition.payload import check_noise, unpack
from recognition.quality import assess
from recognition.recognizer import Recognizer
from recognition.types import FaceCrop, FrequencyFeatures
from tests.browser import films
from tests.recognition.definition import codes_from, thresholds_of, undecided
from tests.vectors import make_vectors as vectors

#: float32 keeps 24 bits; a sum of 64 products of 255 and 1 in single precision is off by less than this.
ROUNDING = 0.002  # coefficient units, of coefficients up to 2,000

#: Helpers on the page: base64 both ways, a source of given random bytes, and the modules.
PRELUDE = """
  const bytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const floats = (text) => new Float32Array(bytes(text).buffer);
  const text = (array) => {
    const raw = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
    let words = "";
    for (let at = 0; at < raw.length; at += 8192) words += String.fromCharCode(...raw.subarray(at, at + 8192));
    return btoa(words);
  };
  const reader = (text) => {
    const all = bytes(text);
    let at = 0;
    return (count) => all.slice(at, (at += count));
  };
  const [frequency, noise, payload, profiles] = await Promise.all(
    ["frequency", "noise", "payload", "profile"].map((name) => import(`/enrollment/${name}.js`)),
  );
"""


def on_page(page: Page, body: str, argument: Any = None) -> Any:
    return page.evaluate(f"async (given) => {{ {PRELUDE} {body} }}", argument)


@pytest.mark.parametrize("name", sorted(vectors.VECTORS))
def test_the_committed_vectors_are_what_python_makes_today(name: str) -> None:
    made, kept = vectors.VECTORS[name](), vectors.load(name)
    assert _without_floats(made) == _without_floats(kept)
    for first, second in zip(_floats_of(made), _floats_of(kept), strict=True):
        np.testing.assert_allclose(first, second, atol=ROUNDING, rtol=0)


def test_every_coefficient_of_the_critical_transform_is_pythons_within_rounding(modules: Page) -> None:
    for case in [*vectors.load("transform_critical")["cases"], vectors.load("captures")["cases"][0]]:
        found = on_page(
            modules, "return text(frequency.toFrequency(bytes(given), 'critical'));", case["crop"]
        )
        expected = vectors.floats(case["values_float32"])
        values = vectors.floats(found)
        assert values.shape == expected.shape == (189 * 14 * 14,)
        assert np.abs(expected).max() > 50  # the comparison below says something
        np.testing.assert_allclose(values, expected, atol=ROUNDING, rtol=0)


def test_a_sample_of_the_paper_transform_is_pythons_within_rounding(modules: Page) -> None:
    case = vectors.load("transform_paper")
    found = on_page(
        modules,
        "const values = frequency.toFrequency(bytes(given.crop), 'paper');"
        "return [values.length, given.indices.map((at) => values[at])];",
        case,
    )
    assert found[0] == 189 * 112 * 112
    np.testing.assert_allclose(found[1], case["values"], atol=ROUNDING, rtol=0)


def test_every_threshold_is_pythons_to_the_last_of_its_32_bits_but_one(modules: Page) -> None:
    """V8's exp and numpy's may differ in the last of 53 bits: an integer of 32 bits then differs by one, rarely."""
    cases = vectors.load("thresholds")["cases"]
    found = on_page(
        modules,
        "return given.map(([value, centre, step, scale, bits, expected]) =>"
        " expected.map((_, at) => noise.codeThreshold(value, at + 1, centre, step, scale, bits)));",
        cases,
    )
    expected = [case[5] for case in cases]
    difference = np.abs(np.concatenate(found) - np.concatenate(expected))
    assert difference.max() <= 1
    assert (difference == 0).mean() > 0.999


def test_given_the_same_coefficients_and_random_bytes_the_browser_sends_the_same_bytes(modules: Page) -> None:
    case = vectors.load("captures")["cases"][0]
    found = on_page(
        modules,
        "const profile = await profiles.PrivacyProfile.fromText(given.profile, { hash: given.profile_hash });"
        "const codes = noise.perturb(floats(given.values_float32), profile, reader(given.random));"
        "return text(payload.pack(codes, profile));",
        {**case, "random": vectors.text(vectors.stream(case["seed"])(189 * 14 * 14 * 4))},  # more than enough
    )
    assert found == case["payload"]


def test_the_browser_asks_for_the_lower_halves_of_the_same_elements_in_the_same_order(modules: Page) -> None:
    """Half of the upper halves lie where a threshold does: whoever misses one reads all that follow wrongly."""
    case = vectors.load("captures")["cases"][0]
    profile = PrivacyProfile.from_json(case["profile"])
    features = FrequencyFeatures("critical", vectors.floats(case["values_float32"]).reshape(profile.shape))
    rng = np.random.default_rng(16)
    shape = (int(profile.sent.sum()), *profile.shape[1:])
    upper = rng.integers(0, 1 << 16, shape, dtype=np.uint16)
    for row, channel in enumerate(np.flatnonzero(profile.sent)):
        thresholds = thresholds_of(features, profile, channel)
        chosen = rng.random(shape[1:]) < 0.5
        upper[row][chosen] = (thresholds[rng.integers(len(thresholds))] >> 16)[chosen]
    needed = int(undecided(features, profile, upper).sum())
    assert needed > upper.size / 3
    random = upper.tobytes() + rng.bytes(2 * needed)
    found = on_page(
        modules,
        "const profile = await profiles.PrivacyProfile.fromText(given.profile);"
        "const [read, asked] = [reader(given.random), []];"
        "const source = (count) => { asked.push(count); return read(count); };"
        "return [text(noise.perturb(floats(given.values_float32), profile, source)), asked];",
        {**case, "random": vectors.text(random)},
    )
    assert found[1] == [2 * upper.size, 2 * needed]
    codes = np.frombuffer(base64.b64decode(found[0]), np.uint8).reshape(profile.shape)
    source = BytesIO(random)
    assert np.array_equal(codes, codes_from(features, profile, source.read))


@pytest.mark.parametrize("number", range(3))
def test_from_the_same_picture_and_random_bytes_only_codes_on_a_boundary_differ(
    modules: Page, number: int
) -> None:
    case = vectors.load("captures")["cases"][number]
    profile = PrivacyProfile.from_json(case["profile"])
    enough = int(profile.sent.sum()) * profile.shape[1] * profile.shape[2] * 4
    random = vectors.text(vectors.stream(case["seed"])(enough))
    found = on_page(
        modules,
        "const profile = await profiles.PrivacyProfile.fromText(given.profile);"
        "const values = frequency.toFrequency(bytes(given.crop), profile.transform);"
        "const codes = noise.perturb(values, profile, reader(given.random));"
        "return [text(payload.pack(codes, profile)), profile.transform === 'paper' ? '' : text(values)];",
        {"profile": case["profile"], "crop": case["crop"], "random": random},
    )
    data = base64.b64decode(found[0])
    assert len(data) == case["payload_bytes"]
    codes = unpack(data, {profile.hash: profile}).codes.astype(int)
    if hashlib.sha256(data).hexdigest() == case["payload_sha256"]:
        return
    crop = FaceCrop(np.frombuffer(base64.b64decode(case["crop"]), np.uint8).reshape(112, 112, 3))
    features = to_frequency(crop, profile.transform)
    reference = codes_from(features, profile, vectors.stream(case["seed"])).astype(int)
    differing = codes != reference
    # A boundary: the two thresholds around u differ by rounding alone. Expected are well below one in a capture of
    # 37,044 coefficients and a few in one of 2.4 million; neighbouring codes, never more.
    assert np.abs(codes - reference).max() <= 1
    assert differing.sum() <= max(3, 2e-5 * differing.size), (
        f"{differing.sum()} of {differing.size} codes differ"
    )
    print(f"{differing.sum()} of {differing.size} codes lie on a boundary")


def test_a_profile_under_another_name_is_refused(modules: Page) -> None:
    case = vectors.load("captures")["cases"][0]
    refused = on_page(
        modules,
        "const read = profiles.PrivacyProfile.fromText(given, { hash: '0'.repeat(64) });"
        "return read.then(() => '', (error) => error.message);",
        case["profile"],
    )
    assert "not the privacy profile that was asked for" in refused


@pytest.mark.parametrize(
    ("field", "value"),
    [("bits", 5), ("bits", 1.5), ("low", 1e9), ("channel_epsilon", 0), ("step", -1), ("position_weight", 0)],
)
def test_a_contradictory_profile_takes_no_capture(modules: Page, field: str, value: float) -> None:
    refused = on_page(
        modules,
        "const document = JSON.parse(given.profile);"
        "const at = document.bits.findIndex((bits) => bits > 0);"
        "if (given.field === 'position_weight') document.position_weight[0][0] = given.value;"
        "else document[given.field][at] = given.value;"
        "try { new profiles.PrivacyProfile(document, 'x'); return ''; } catch (error) { return error.message; }",
        {"profile": vectors.load("captures")["cases"][0]["profile"], "field": field, "value": value},
    )
    assert refused


def test_short_randomness_gives_no_capture(modules: Page) -> None:
    refused = on_page(
        modules,
        "const profile = await profiles.PrivacyProfile.fromText(given.profile);"
        "try { noise.perturb(floats(given.values_float32), profile, (count) => new Uint8Array(count - 1)); return ''; }"
        "catch (error) { return error.message; }",
        vectors.load("captures")["cases"][0],
    )
    assert refused == "the source of randomness ran short"


def test_the_browsers_randomness_is_the_systems_and_every_byte_is_drawn(modules: Page) -> None:
    first, second = (
        base64.b64decode(on_page(modules, "return text(noise.systemRandomness(200001));")) for _ in range(2)
    )
    assert len(first) == 200_001
    assert first != second
    counts = np.bincount(np.frombuffer(first, np.uint8), minlength=256)
    assert counts.min() > 550  # 781 expected; eight standard deviations
    assert set(first[65536:65600]) != {0}
    assert set(first[-64:]) != {0}


def test_what_a_browser_packs_with_the_shipped_profile_is_read_and_recognized(modules: Page) -> None:
    profile = load_profile(model_folder("default") / "profile.json")
    crop = vectors.synthetic_crop(11)
    found = on_page(
        modules,
        "const profile = await profiles.PrivacyProfile.fromText(given.profile, { hash: given.hash });"
        "const values = frequency.toFrequency(bytes(given.crop), profile.transform);"
        "return [1, 2].map(() => text(payload.pack(noise.perturb(values, profile), profile)));",
        {"profile": profile.to_json(), "hash": profile.hash, "crop": vectors.text(crop.pixels.tobytes())},
    )
    captures = [unpack(base64.b64decode(one), {profile.hash: profile}) for one in found]
    assert (captures[0].codes != captures[1].codes).any()
    for capture in captures:
        check_noise(capture, profile)
    recognizer = Recognizer.load("default")
    first, second = (embedding.vector for embedding in recognizer.embed(captures))
    threshold = recognizer.threshold_for(gallery_size=1, target_fpir=0.01, profile_hash=profile.hash)
    assert first @ second > threshold


def test_the_browser_finds_the_face_where_python_does_and_cuts_the_same_crop(modules: Page) -> None:
    """The same networks in two engines, over frames that two libraries shrink: a pixel of difference is allowed."""
    detector = Detector()
    for frame in (next(films.portrait_frames()), next(films.portrait_frames(zoom=0.6, centre=(0.3, 0.4)))):
        rgba = np.dstack([frame, np.full(frame.shape[:2], 255, np.uint8)])
        found = modules.evaluate(
            """async ({ pixels, width, height }) => {
              const bytes = Uint8Array.from(atob(pixels), (character) => character.charCodeAt(0));
              const frame = { width, height, data: new Uint8ClampedArray(bytes.buffer) };
              const [{ Detector }, { align }, { assess }] = await Promise.all(
                ["detect", "align", "quality"].map((name) => import(`/enrollment/${name}.js`)),
              );
              window.detector ??= await Detector.load(new URL("/enrollment/networks/", location).href);
              const faces = await window.detector.find(frame);
              const crop = align(frame, faces[0].points);
              return { faces, crop: Array.from(crop), quality: assess(frame, faces, crop) };
            }""",
            {"pixels": vectors.text(rgba.tobytes()), "width": frame.shape[1], "height": frame.shape[0]},
        )
        expected = detector.find(frame)
        assert len(found["faces"]) == len(expected) == 1
        points = np.array(found["faces"][0]["points"])
        assert np.abs(points - expected[0].points).max() < 1.0
        crop = np.array(found["crop"], np.uint8).reshape(112, 112, 3)
        reference = align(frame, points).pixels  # the browser's points: alignment alone is compared
        assert np.abs(crop.astype(int) - reference).mean() < 0.5
        assert np.abs(crop.astype(int) - reference).max() <= 12
        quality = assess(frame, expected, FaceCrop(reference))
        assert (found["quality"]["ok"], found["quality"]["reason"]) == (quality.ok, quality.reason)
        for name, value in quality.measures.items():
            there = found["quality"]["measures"]["eyeDistance" if name == "eye_distance" else name]
            assert there == pytest.approx(value, rel=0.05, abs=0.05), name


def _without_floats(document: Any) -> Any:
    """Everything that must be equal to the letter."""
    if isinstance(document, dict):
        return {
            key: _without_floats(value)
            for key, value in document.items()
            if key not in ("values_float32", "values", "payload", "payload_sha256")
        }
    return [_without_floats(one) for one in document] if isinstance(document, list) else document


def _floats_of(document: Any) -> list[np.ndarray]:
    if isinstance(document, list):
        return [found for one in document for found in _floats_of(one)]
    if not isinstance(document, dict):
        return []
    here = [vectors.floats(document["values_float32"])] if "values_float32" in document else []
    here += [np.array(document["values"])] if "values" in document else []
    return here + [found for value in document.values() for found in _floats_of(value)]
