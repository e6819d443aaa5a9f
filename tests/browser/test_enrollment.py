"""A person is enrolled through the pages, by a real browser with a camera, on a real server with the shipped model.

Two watches run beside it: no request goes anywhere else, and no request carries anything that is, or can be made into,
a picture. The watches prove first that they see what they should: the worker's own requests, and the captures.
"""

from __future__ import annotations

import base64
import binascii
import re
import urllib.parse
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest
from playwright.sync_api import Page, Request, Route, expect

from recognition.budget import load_profile
from recognition.checkpoint import model_folder
from recognition.detect import Detector
from recognition.payload import CONTENT_TYPE, check_noise, unpack
from tests.browser import films
from tests.browser.conftest import Server
from tests.browser.patience import hold_time
from tests.browser.watches import frames_of, watch_frames

MAGIC = {
    "JPEG": b"\xff\xd8\xff",
    "PNG": b"\x89PNG",
    "GIF": b"GIF8",
    "WebP or AVI": b"RIFF",
    "BMP": b"BM",
    "TIFF": b"II*\x00",
    "TIFF, big-endian": b"MM\x00*",
    "AVIF, HEIC or MP4": b"ftyp",
    "WebM": b"\x1a\x45\xdf\xa3",
    "JPEG XL": b"\x00\x00\x00\x0cJXL ",
}


class BodyWatch:
    """Every request of a page and its workers, with what it carried."""

    def __init__(self, page: Page) -> None:
        self.requests: list[tuple[str, str, str, bytes]] = []  # method, address, content type, body
        self.sockets: list[str] = []
        page.context.on("request", self._note)
        page.on("websocket", lambda socket: self.sockets.append(socket.url))

    def _note(self, request: Request) -> None:
        body = request.post_data_buffer or b""
        self.requests.append((request.method, request.url, request.headers.get("content-type", ""), body))

    @property
    def captures(self) -> list[bytes]:
        return [body for _, _, content_type, body in self.requests if content_type == CONTENT_TYPE]


def pictures_in(body: bytes, detector: Detector) -> list[str]:
    """Why this body might be a picture: it decodes as one, in part or through base64, or its raw bytes show a face."""
    found = []
    for decoded in _readings(body):
        for name, magic in MAGIC.items():
            at = decoded.find(magic)
            while at >= 0:
                start = at - 4 if name.startswith("AVIF") else at
                if _decodes(decoded[max(start, 0) :]):
                    found.append(f"{name} at {start}")
                at = decoded.find(magic, at + 1)
        found += [f"a face in raw bytes as {shape}" for shape in _raw_faces(decoded, detector)]
    return found


def _readings(body: bytes) -> list[bytes]:
    """The body itself, and every long run of base64 in it, decoded."""
    plain = urllib.parse.unquote_to_bytes(body)
    readings = [body]
    for run in re.findall(rb"[A-Za-z0-9+/_=-]{200,}", plain):
        try:
            readings.append(base64.b64decode(run.translate(bytes.maketrans(b"-_", b"+/")) + b"==="))
        except binascii.Error:
            continue
    return readings


def _decodes(data: bytes) -> bool:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is not None
    except cv2.error:
        return False


def _raw_faces(data: bytes, detector: Detector) -> list[str]:
    """Shapes in which the bytes, taken as pixels, show a face to our own detector."""
    shapes = [(112, 112, 1), (112, 112, 3), (64, 64, 3), (96, 96, 1), (160, 120, 1), (120, 160, 1)]
    shapes += [(480, 640, 3), (480, 640, 4), (720, 1280, 3)]
    seen = []
    for height, width, colours in shapes:
        needed = height * width * colours
        for start in {0, 52, max(len(data) - needed, 0)}:
            if len(data) - start < needed:
                continue
            pixels = np.frombuffer(data, np.uint8, needed, start).reshape(height, width, colours)
            rgb = np.repeat(pixels, 3, axis=2) if colours == 1 else pixels[..., :3]
            enlarged = cv2.resize(np.ascontiguousarray(rgb), None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
            if detector.find(enlarged):
                seen.append(f"{width}x{height}x{colours} from {start}")
    return seen


def start_camera(page: Page) -> None:
    """Where the browser has allowed the camera before, the page starts by itself, at a moment of its own.
    So the look at the state and the click are one step."""
    station = page.locator("#station")
    expect(station).to_be_visible()
    station.evaluate(
        "(one) => { if (one.dataset.state === 'idle') one.querySelector('[data-start]').click(); }"
    )


def enroll_here(page: Page, person: str) -> None:
    """Begins an enrollment with this browser's camera; what becomes of it is the caller's to see."""
    page.goto(f"/people/{person}/enroll/")
    page.get_by_role("button", name="Start", exact=True).click()
    start_camera(page)


@pytest.fixture(autouse=True)
def nobody_else(server: Server) -> Iterator[None]:
    """One portrait plays everybody: who was enrolled by another test would be a duplicate in this one."""
    server.erase_everybody()
    yield
    server.erase_everybody()


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector()


def test_the_watch_itself_recognizes_pictures_however_they_are_wrapped(detector: Detector) -> None:
    frame = next(films.portrait_frames())
    jpeg = cv2.imencode(".jpg", frame)[1].tobytes()
    png = cv2.imencode(".png", frame)[1].tobytes()
    face = cv2.cvtColor(frame[120:360, 200:440], cv2.COLOR_RGB2GRAY)
    raw = cv2.resize(face, (112, 112), interpolation=cv2.INTER_AREA).tobytes()
    assert pictures_in(jpeg, detector)
    assert pictures_in(b"LNTL" + bytes(60) + png, detector)
    assert pictures_in(b"frame=data:image/jpeg;base64," + base64.b64encode(jpeg), detector)
    assert pictures_in(raw, detector)
    assert pictures_in(frame.tobytes(), detector)
    assert not pictures_in(np.random.default_rng(1).bytes(20_000), detector)


def test_a_person_is_enrolled_with_the_browsers_camera_and_nothing_but_noise_is_sent(
    server: Server, open_page: Callable[..., Page], complaints: list[str], detector: Detector
) -> None:
    page = open_page(film="face")
    watch_frames(page)
    watch = BodyWatch(server.sign_in(page, "enroller"))

    page.goto("/people/")
    page.get_by_role("link", name="Add").first.click()
    page.get_by_label("Full name").fill("Eileen Example")
    page.get_by_role("button", name="Add").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Eileen Example")
    profile = page.url
    page.goto(f"{profile}enroll/")

    expect(page.get_by_role("heading", level=1)).to_have_text("Record consent")  # consent comes first
    page.get_by_role("link", name="Deutsch").click()
    expect(page.locator("article.consent-text")).to_contain_text("Ich willige ein")
    page.get_by_role("link", name="English").click()
    page.get_by_label("I agree").check()
    page.get_by_label("How it was given").select_option("online")
    page.get_by_role("button", name="Record consent and go on").click()

    expect(page.get_by_role("heading", level=1)).to_have_text("Enroll Eileen Example")
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Enrolling Eileen Example")
    start_camera(page)
    expect(page.locator("[data-guidance]")).to_have_text("You are enrolled.")
    expect(page.locator("#enrollment")).to_contain_text("Eileen Example is enrolled")

    frames = frames_of(
        page
    )  # the picture is seen in the video and by the worker: nothing else of the page has it
    assert frames["used"] == []
    assert frames["taken"] >= 3
    assert frames["kept"] == 0
    _nothing_is_stored(page)
    page.get_by_role("link", name="To the profile").click()
    expect(page.get_by_text("enrolled", exact=True).first).to_be_visible()

    assert complaints == []
    assert watch.sockets == []
    assert all(url.startswith((server.url, "data:")) for _, url, _, _ in watch.requests)
    # The watch sees the worker, too: its networks, and the frames' only way out.
    assert any(url.endswith("face_landmark.tflite") for _, url, _, _ in watch.requests)
    shipped = load_profile(model_folder("default") / "profile.json")
    assert 3 <= len(watch.captures) <= 12
    for body in watch.captures:
        # One valid encoding of one capture: there is no byte in it that could be something else.
        check_noise(unpack(body, {shipped.hash: shipped}), shipped)
    assert len(set(watch.captures)) == len(watch.captures)
    bodies = [body for _, _, _, body in watch.requests if body]
    assert len(bodies) > len(watch.captures)  # the forms' bodies are looked at as well
    assert [found for body in bodies for found in pictures_in(body, detector)] == []
    addresses = [url for _, url, _, _ in watch.requests]
    assert max(map(len, addresses)) < 500  # nor does an address carry one


def test_the_same_face_under_another_name_waits_for_a_decision_and_its_captures_go_where_they_belong(
    server: Server, open_page: Callable[..., Page], complaints: list[str]
) -> None:
    first = server.add_person("Erika First")
    page = server.sign_in(open_page(film="face"), "administrator")
    enrollment = page.locator("#enrollment")
    enroll_here(page, first)
    expect(enrollment).to_contain_text("Erika First is enrolled")

    enroll_here(page, server.add_person("Erika Second"))
    expect(enrollment).to_have_attribute("data-state", "duplicate_found")
    expect(page.locator("[data-guidance]")).to_have_text("Thank you. Please wait for the desk.")
    expect(enrollment.get_by_role("link", name="Erika First")).to_be_visible()
    enrollment.get_by_role("button", name="Add the captures to Erika First").click()
    expect(page.get_by_role("status").first).to_contain_text("Erika Second has no face on record")
    expect(page.get_by_role("heading", level=1)).to_have_text("Erika First")

    enroll_here(page, server.add_person("Erika Third"))
    expect(enrollment).to_have_attribute("data-state", "duplicate_found")
    with page.expect_console_message(lambda entry: "422" in entry.text):
        enrollment.get_by_role("button", name="Enroll Erika Third anyway").click()
    expect(enrollment).to_contain_text("Without a reason nobody can check this decision later.")
    complaints[:] = [text for text in complaints if "422" not in text]  # the browser's word for this refusal
    enrollment.get_by_label("Why are they two different people?").fill("Twins; both showed a passport.")
    enrollment.get_by_role("button", name="Enroll Erika Third anyway").click()
    expect(enrollment).to_contain_text("Erika Third is enrolled")

    # Told apart once, nobody is asked again: more captures of the first are simply added.
    page.goto(f"/people/{first}/enroll/")
    page.get_by_label("Keep them and add to them").check()
    page.get_by_label("Captures").fill("1")
    page.get_by_role("button", name="Start", exact=True).click()
    start_camera(page)
    expect(enrollment).to_contain_text("Erika First is enrolled")
    assert complaints == []

    page.goto(f"/people/{first}/consent/withdraw/")
    page.get_by_role("button", name="Withdraw consent").click()
    expect(page.get_by_role("status").first).to_contain_text("templates and their key are destroyed")
    page.goto(f"/people/{first}/erase/")
    page.get_by_label("full name to confirm").fill("Erika First")
    page.get_by_role("button", name="Erase for good").click()
    expect(page.get_by_role("heading", name="Certificate")).to_be_visible()


def test_the_captures_can_be_retaken_and_the_enrollment_cancelled(
    server: Server, open_page: Callable[..., Page], complaints: list[str]
) -> None:
    person = server.add_person("Rita Retake")
    page = server.sign_in(open_page(film="face", width=360, height=800), "enroller")
    page.goto(f"/people/{person}/enroll/")
    page.get_by_label("Captures").fill("10")
    page.get_by_role("button", name="Start", exact=True).click()
    start_camera(page)
    retake = page.get_by_role("button", name="Retake from the first")
    expect(retake).to_be_visible()
    # From here on captures lead nowhere: none is accepted, and no answer to one renews what is clicked on.
    kept: list[Route] = []
    page.route("**/captures/", lambda route: kept.append(route))
    page.reload()
    retake.click()
    expect(page.locator("#enrollment")).to_contain_text("0 of 10 captures accepted")
    page.get_by_role("button", name="Cancel this enrollment").click()
    expect(page.locator("#enrollment")).to_contain_text("Cancelled")
    assert complaints == []


def test_a_finger_on_cancel_cancels_although_a_capture_is_accepted_under_it(
    server: Server, open_page: Callable[..., Page]
) -> None:
    person = server.add_person("Fina Finger")
    page = server.sign_in(open_page(film="face"), "enroller")
    hold_time(page, at_least_ms=3000)  # the finger may rest for as long as this takes
    page.goto(f"/people/{person}/enroll/")
    page.get_by_label("Captures").fill("10")
    page.get_by_role("button", name="Start", exact=True).click()
    start_camera(page)
    expect(page.get_by_role("button", name="Retake from the first")).to_be_visible()
    page.get_by_role("button", name="Cancel this enrollment").hover()
    with page.expect_response("**/progress/") as renewed:
        page.mouse.down()
    renewed.value.finished()
    page.evaluate("0")  # the page has had its turn
    page.mouse.up()
    expect(page.locator("#enrollment")).to_contain_text("Cancelled")


def test_a_person_far_away_is_asked_to_come_closer_in_their_language_and_nothing_is_sent(
    server: Server, open_page: Callable[..., Page]
) -> None:
    person = server.add_person("Fern Fern", language="de")
    page = server.sign_in(open_page(film="far"), "enroller")
    watch = BodyWatch(page)
    page.goto(f"/people/{person}/enroll/")
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.locator("#station")).to_have_attribute("lang", "de")
    expect(page.locator("[data-start]")).to_have_text("Kamera starten")
    start_camera(page)
    expect(page.locator("[data-guidance]")).to_have_text("Bitte näher kommen.")
    expect(page.locator("[data-speaker]")).to_have_text("Bitte näher kommen.")
    assert watch.captures == []


def test_before_an_empty_chair_the_page_asks_for_a_face(
    server: Server, open_page: Callable[..., Page]
) -> None:
    person = server.add_person("Nemo Nobody")
    page = server.sign_in(open_page(film="empty"), "enroller")
    watch = BodyWatch(page)
    page.goto(f"/people/{person}/enroll/")
    page.get_by_role("button", name="Start", exact=True).click()
    start_camera(page)
    expect(page.locator("[data-guidance]")).to_have_text("Look into the camera.")
    assert watch.captures == []


def test_without_a_camera_the_page_says_what_to_do_and_the_keyboard_starts_it_again(
    server: Server, open_page: Callable[..., Page]
) -> None:
    person = server.add_person("Cara Camera")
    page = server.sign_in(open_page(film=None), "enroller")
    page.goto(f"/people/{person}/enroll/")
    page.get_by_role("button", name="Start", exact=True).press("Enter")
    start = page.get_by_role("button", name="Start the camera")
    start.press("Enter")
    guidance = page.locator("[data-guidance]")
    expect(guidance).to_have_text(re.compile("No camera was found|The camera is blocked"))
    again = page.get_by_role("button", name="Start again")
    again.focus()
    expect(again).to_be_focused()
    # What the browser may also answer, each with a sentence of its own.
    for error, sentence in (
        ("NotAllowedError", "The camera is blocked for this page."),
        ("NotFoundError", "No camera was found."),
        ("NotReadableError", "The camera gives no picture."),
    ):
        page.evaluate(
            "(name) => { navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', name)); }",
            error,
        )
        again.press("Enter")
        expect(guidance).to_contain_text(sentence)
        expect(page.locator("[data-speaker]")).to_contain_text(sentence)


def test_a_lost_connection_is_told_and_the_enrollment_goes_on_afterwards(
    server: Server, open_page: Callable[..., Page]
) -> None:
    person = server.add_person("Otto Offline")
    page = server.sign_in(open_page(film="face"), "enroller")
    page.route(
        "**/captures/", lambda route: route.abort()
    )  # before the page is there: in between it may not hold
    page.goto(f"/people/{person}/enroll/")
    page.get_by_role("button", name="Start", exact=True).click()
    start_camera(page)
    expect(page.locator("[data-guidance]")).to_have_text("No connection to the server. Trying again.")
    page.unroute("**/captures/")
    expect(page.locator("#enrollment")).to_have_attribute(
        "data-state", re.compile("completed|duplicate_found")
    )


def _nothing_is_stored(page: Page) -> None:
    stored = page.evaluate(
        """async () => ({
          local: Object.keys(localStorage), session: Object.entries(sessionStorage),
          databases: (await indexedDB.databases()).map(({ name }) => name), caches: await caches.keys(),
          files: await (async () => {
            const names = [];
            for await (const name of (await navigator.storage.getDirectory()).keys()) names.push(name);
            return names;
          })(),
          workers: (await navigator.serviceWorker.getRegistrations()).length,
        })"""
    )
    # The list of people, opened before, left where it was: htmx keeps the address for the way back, nothing else.
    stored["session"] = [
        pair for pair in stored["session"] if pair != ["htmx-current-path-for-history", "/people/"]
    ]
    assert stored == {"local": [], "session": [], "databases": [], "caches": [], "files": [], "workers": 0}
