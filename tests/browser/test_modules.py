"""The browser modules one by one, in a real browser: liveness, guidance, words, and a camera that comes and goes."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from playwright.sync_api import Page

from enrollment import languages
from recognition.checkpoint import model_folder
from recognition.quality import ADVICE

START = """
  const { Capture } = await import("/enrollment/capture.js");
  const problems = [];
  const seen = [];
  const capture = new Capture({
    video: document.querySelector("video"),
    profile: { text: given },
    folder: "/enrollment/networks/",
    onQuality: (one) => seen.push(one),
    onProblem: (problem) => problems.push(problem.code ?? problem.message),
  });
"""


@pytest.fixture(scope="module")
def profile() -> str:
    return (model_folder("default") / "profile.json").read_text()


def run(page: Page, body: str, given: Any = None) -> Any:
    return page.evaluate(f"async (given) => {{ {body} }}", given)


def test_a_picture_at_rest_is_not_live_and_a_face_that_sways_is(modules: Page) -> None:
    found = run(
        modules,
        """
        const { makeLiveness } = await import("/enrollment/liveness.js");
        const points = [[100, 100], [160, 100], [130, 130], [110, 160], [150, 160]];
        const face = (shift) => points.map(([x, y]) => [x + shift, y]);
        const judge = (shifts) => {
          const motion = makeLiveness("motion");
          for (const shift of shifts) motion.observe(shift === null ? null : face(shift));
          return motion.isLive;
        };
        let unknown = "";
        try { makeLiveness("moton"); } catch (error) { unknown = error.message; }
        return [judge([0, 0, 0, 0]), judge([0, 0.3, 0.1, 0.2]), judge([0, 0.5, 1, 0.4]), judge([0, 1, 2]),
          judge([0, 1, 2, 3, null, 4]), makeLiveness("none").isLive, unknown];
        """,
    )
    assert found[:6] == [False, False, True, False, False, True]
    assert "none or motion" in found[6]


def test_a_sentence_stands_long_enough_to_be_read_and_odd_frames_change_nothing(modules: Page) -> None:
    shown, spoken = run(
        modules,
        """
        const { Guide } = await import("/enrollment/guide.js");
        let clock = 0;
        const [shown, spoken] = [[], []];
        const guide = new Guide({
          show: (code) => shown.push(code), speak: (code) => spoken.push(code), now: () => clock,
        });
        const see = (reason, more = {}) => {
          clock += 100;
          guide.see({ ok: reason === "good", live: true, reason, ...more });
        };
        see("too_small"); see("too_small");                       // shown with the second frame
        see("too_dark"); see("too_small"); see("too_dark");       // one odd frame at a time
        for (let n = 0; n < 12; n += 1) see("too_dark");          // shown once the first has stood for 900 ms
        for (let n = 0; n < 12; n += 1) see("good", { live: false });
        guide.say("completed");                                   // at once
        return [shown, spoken];
        """,
    )
    assert shown == ["too_small", "too_dark", "still", "completed"]
    assert spoken[0] == "too_small"
    assert spoken[-1] == "completed"
    assert len(spoken) < len(shown)  # what is spoken changes less often


def test_every_reason_has_a_sentence_in_every_language_of_the_consent(modules: Page) -> None:
    codes = [
        *ADVICE,
        "too_close",
        "still",
        "denied",
        "missing",
        "busy",
        "lost",
        "insecure",
        "unsupported",
        "unloaded",
    ]
    codes += ["captures_disagree", "captures_restarted", "recognizer_fault", "payload_missing", "completed"]
    for language in languages.known():
        carried = language.sections["camera"]
        said = run(
            modules,
            """
            const { readSentences } = await import("/enrollment/words.js");
            const element = document.createElement("script");
            element.type = "application/json";
            element.textContent = given.carried;
            const sentence = readSentences(element);
            return [given.codes.map(sentence), sentence("nonsense"), readSentences(null)("good")];
            """,
            {"carried": json.dumps(dict(carried)), "codes": codes},
        )
        assert said == [[carried[code] for code in codes], "", ""]
        assert all(re.search(r"[.]$", carried[code]) for code in codes), language.tag


def test_captures_come_one_at_a_time_and_only_when_asked_for(modules: Page, profile: str) -> None:
    found = run(
        modules,
        START
        + """
        await capture.start();
        const first = capture.takeCapture();
        const second = await capture.takeCapture().catch((error) => error.message);
        const one = await first;
        const gone = new AbortController();
        const third = capture.takeCapture({ signal: gone.signal }).catch((error) => error.name);
        gone.abort();
        const name = await third;
        const left = capture.takeCapture().catch((error) => error.name);
        const tracks = document.querySelector("video").srcObject.getTracks();
        await capture.stop();
        const { srcObject } = document.querySelector("video");
        return [second, one.bytes.length, String.fromCharCode(...one.bytes.slice(0, 4)), one.score, name, await left,
          tracks.map((track) => track.readyState), srcObject, seen.some((each) => each.bytes)];
        """,
        profile,
    )
    assert found[0] == "a capture is being taken already"
    assert found[1] > 1000
    assert found[2] == "LNTL"
    assert 0 < found[3] <= 1
    assert found[4:] == ["AbortError", "AbortError", ["ended"], None, False]


def test_a_camera_that_is_pulled_out_is_told_and_can_be_started_again(modules: Page, profile: str) -> None:
    found = run(
        modules,
        START
        + """
        await capture.start();
        const waiting = capture.takeCapture().then(() => capture.takeCapture()).catch((error) => error.code);
        const [track] = document.querySelector("video").srcObject.getVideoTracks();
        track.dispatchEvent(new Event("ended"));
        const code = await waiting;
        const running = capture.running;
        await capture.start();
        const again = await capture.takeCapture();
        await capture.stop();
        return [problems, code, running, again.bytes.length > 1000];
        """,
        profile,
    )
    assert found == [["lost"], "lost", False, True]


def test_a_page_without_its_networks_says_so_and_lets_go_of_the_camera(modules: Page, profile: str) -> None:
    modules.route("**/face_landmark.tflite", lambda route: route.fulfill(status=404))
    found = run(
        modules,
        START
        + """
        const problem = await capture.start().then(() => "", (error) => error.message);
        return [problem, capture.running, document.querySelector("video").srcObject];
        """,
        profile,
    )
    assert found == ["face_landmark.tflite is missing on the server", False, None]
