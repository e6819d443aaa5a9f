"""The browser modules one by one, in a real browser: liveness, guidance, words, and a camera that comes and goes."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page

from enrollment import languages
from recognition.checkpoint import model_folder
from recognition.quality import ADVICE
from tests.browser import films

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


def test_a_frame_is_overwritten_wherever_it_was_drawn_before_anything_is_said_about_it(
    modules: Page, profile: str
) -> None:
    """The worker's script on the page, so that a test can look into what it draws on."""
    pixels = np.dstack([next(films.portrait_frames()), np.full((films.HEIGHT, films.WIDTH), 255, np.uint8)])
    found = run(
        modules,
        """
        const [canvases, read, said] = [[], [], []];
        const filled = (data) => data.some((value, at) => at % 4 < 3 && value !== 0);
        const Real = OffscreenCanvas;
        window.OffscreenCanvas = class extends Real {
          constructor(...size) {
            super(...size);
            canvases.push(this);
          }
          getContext(...how) {
            const context = super.getContext(...how);
            const real = context.getImageData.bind(context);
            context.getImageData = (...where) => {
              const image = real(...where);
              read.push({ data: image.data, hadPicture: filled(image.data), real });
              return image;
            };
            return context;
          }
        };
        window.postMessage = (message) => said.push({
          message,
          drawn: read.map(({ data, hadPicture, real }) => [hadPicture, filled(data),
            filled(real(0, 0, canvases[0].width, canvases[0].height).data)]),
        });
        await import("/enrollment/capture-worker.js");
        const hear = window.onmessage;
        const folder = new URL("/enrollment/networks/", location).href;
        await hear({ data: { type: "begin", folder, profile: { text: given.profile } } });
        const bytes = Uint8Array.from(atob(given.pixels), (letter) => letter.charCodeAt(0));
        const image = new ImageData(new Uint8ClampedArray(bytes.buffer), given.width, given.height);
        for (const wanted of [true, false]) {
          const bitmap = await createImageBitmap(image);
          await hear({ data: { type: "frame", bitmap, wanted } });
          said.at(-1).closed = bitmap.width === 0;
        }
        const kinds = (message) => Object.fromEntries(Object.entries(message).map(([name, value]) =>
          [name, Object.prototype.toString.call(value).slice(8, -1)]));
        return {
          canvases: canvases.length,
          said: said.map(({ message, drawn, closed }) => ({ type: message.type, kinds: kinds(message), drawn, closed,
            ok: message.ok, start: message.bytes ? String.fromCharCode(...message.bytes.slice(0, 4)) : null })),
        };
        """,
        {
            "profile": profile,
            "pixels": base64.b64encode(pixels.tobytes()).decode(),
            "width": films.WIDTH,
            "height": films.HEIGHT,
        },
    )
    ready, first, second = found["said"]
    assert (ready["type"], first["type"], second["type"]) == ("ready", "seen", "seen"), found
    assert (first["ok"], first["start"], second["start"]) == (True, "LNTL", None)
    assert found["canvases"] == 1
    # What was read showed a picture; when the answer is given it does not, and nor does the canvas.
    assert first["drawn"] == [[True, False, False]]
    assert second["drawn"] == [[True, False, False]] * 2
    assert first["closed"] and second["closed"]
    assert first["kinds"] == {**second["kinds"], "bytes": "Uint8Array"}
    assert set(first["kinds"]) == {
        "type", "ok", "live", "reason", "score", "measures", "face", "milliseconds", "bytes"
    }  # fmt: skip
    assert set(second["kinds"].values()) <= {"String", "Boolean", "Number", "Object", "Null"}
