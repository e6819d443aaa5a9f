"""The kiosk between attempts, in a real Chromium: it wakes when somebody comes, enrolls whom the desk sends, and keeps
nothing of anybody.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from recognition.budget import load_profile
from recognition.checkpoint import model_folder
from recognition.detect import Detector
from recognition.payload import check_noise, unpack
from tests.browser.conftest import Server
from tests.browser.patience import hold_time
from tests.browser.test_enrollment import BodyWatch, pictures_in
from tests.browser.test_kiosk import SHELL, kept_urls, make_terminal, pair, server  # noqa: F401
from tests.browser.watches import frames_of, watch_frames

#: Time on the page's steady clock passes five times as fast: an idle kiosk darkens after nine seconds.
HURRY = "{ const real = performance.now.bind(performance); performance.now = () => real() * 5; }"
#: On the root element: how the idle screen went dark, and what came after that.
DIARY = """
  Object.defineProperty(navigator, "wakeLock", { value: { request: async (kind) => {
    document.documentElement.dataset.awake = kind;
    return {};
  } } });
  addEventListener("DOMContentLoaded", () => {
    let dark = false;
    new MutationObserver(() => {
      const { view, dim } = document.body.dataset;
      if (view === "idle" && dim) {
        dark = true;
        document.documentElement.dataset.dark = "yes";
      } else if (dark && view === "look" && !dim) {
        document.documentElement.dataset.woke = "yes";
      }
    }).observe(document.body, { attributes: true });
  });
"""
#: How many captures the kiosk said were accepted, each time that it said something else.
STEPS = """
  window.steps = [];
  addEventListener("DOMContentLoaded", () => {
    new MutationObserver(() => {
      const list = document.querySelector("#steps");
      const done = list.querySelectorAll(".done").length;
      if (!list.hidden && window.steps.at(-1) !== done) window.steps.push(done);
    }).observe(document.querySelector("#steps"), { attributes: true, childList: true });
  });
"""
#: Everything in every place in which a browser keeps things, down to what the database of the terminal holds.
STORED = """async () => {
  const databases = {};
  for (const { name } of await indexedDB.databases()) {
    const database = await new Promise((resolve, reject) => {
      const request = indexedDB.open(name);
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => reject(request.error);
    });
    databases[name] = {};
    for (const store of database.objectStoreNames) {
      const rows = await new Promise((resolve, reject) => {
        const request = database.transaction(store).objectStore(store).getAll();
        request.onsuccess = () => resolve(request.result);
        request.onerror = () => reject(request.error);
      });
      databases[name][store] = rows.map((row) => Object.entries(row).map(([key, value]) =>
        [key, Object.prototype.toString.call(value).slice(8, -1), (JSON.stringify(value) ?? "").length]));
    }
    database.close();
  }
  const files = [];
  for await (const name of (await navigator.storage.getDirectory()).keys()) files.push(name);
  return { databases, files, local: Object.keys(localStorage), session: Object.keys(sessionStorage),
    cookie: document.cookie };
}"""


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector()


def test_an_idle_kiosk_darkens_stays_on_and_wakes_when_somebody_comes(
    server: Server,  # noqa: F811
    open_page: Callable[..., Page],
) -> None:
    page = open_page(film="visitor", width=1280, height=800)
    page.add_init_script(f"{{ {HURRY} {DIARY} }}")
    pair(page, make_terminal(server, "Kiosk that rests"))
    expect(page.locator("html[data-awake=screen]")).to_be_attached()
    expect(page.locator("html[data-dark]")).to_be_attached()
    expect(page.locator("html[data-woke]")).to_be_attached()
    # Nobody touched anything, and whoever came was asked about.
    expect(page.locator("#sentence")).to_be_visible()


def test_attempts_send_noise_alone_and_the_kiosk_keeps_its_key_and_nothing_of_a_face(
    server: Server,  # noqa: F811
    open_page: Callable[..., Page],
    complaints: list[str],
    detector: Detector,
) -> None:
    page = open_page(film="face", width=1280, height=800)
    hold_time(page)
    watch = BodyWatch(page)
    watch_frames(page)
    pair(page, make_terminal(server, "Kiosk that keeps nothing"))
    again = page.get_by_role("button", name="Try again")
    expect(again).to_be_visible()
    with page.expect_request("**/api/v1/attempts"):
        again.click()
    expect(page.locator("#answer")).to_be_visible()

    shipped = load_profile(model_folder("default") / "profile.json")
    assert len(watch.captures) >= 2
    for body in watch.captures:
        check_noise(unpack(body, {shipped.hash: shipped}), shipped)
    assert len(set(watch.captures)) == len(watch.captures)
    bodies = [body for _, _, _, body in watch.requests if body]
    assert len(bodies) > len(watch.captures)  # pairing, too
    assert [found for body in bodies for found in pictures_in(body, detector)] == []
    assert watch.sockets == []
    assert max(len(url) for _, url, _, _ in watch.requests) < 500

    frames = frames_of(page)
    assert frames["used"] == []
    assert frames["taken"] >= 2
    assert frames["kept"] <= 1

    stored = page.evaluate(STORED)
    databases = stored.pop("databases")
    assert stored == {"files": [], "local": [], "session": [], "cookie": ""}
    assert list(databases) == ["lintel-kiosk"] and list(databases["lintel-kiosk"]) == ["terminal"]
    (terminal,) = databases["lintel-kiosk"]["terminal"]
    assert {"privateKey": "CryptoKey"}.items() <= {name: kind for name, kind, _ in terminal}.items()
    #  Names, addresses and keys of a hundred letters or so: no capture (thousands of bytes) hides among them.
    assert {kind for _, kind, _ in terminal} <= {"String", "Number", "CryptoKey", "Null", "Object", "Array"}
    assert max(length for _, _, length in terminal) < 1000
    assert [url for url in kept_urls(page) if not SHELL.search(url)] == []
    assert complaints == []


def test_a_person_is_enrolled_at_a_door_while_the_desk_watches(
    server: Server,  # noqa: F811
    open_page: Callable[..., Page],
    complaints: list[str],
    detector: Detector,
) -> None:
    person = server.add_person("Tara Example")
    kiosk = open_page(film="face", width=360, height=740)
    hold_time(kiosk)  # its last sentence stays: nobody is asked at the door after that
    watch = BodyWatch(kiosk)
    kiosk.add_init_script(f"{{ {STEPS} }}")
    made = make_terminal(server, "Kiosk that enrolls")
    kiosk.goto("/kiosk/")
    kiosk.get_by_label("Pairing code").fill(made["code"])
    kiosk.get_by_role("button", name="Pair", exact=True).click()
    begin = kiosk.get_by_role("button", name="They match: start")
    expect(begin).to_be_visible()

    desk = server.sign_in(open_page(), "enroller")
    desk.goto(f"/people/{person}/enroll/")
    desk.get_by_label("Camera").select_option(made["terminal"])
    desk.get_by_role("button", name="Start", exact=True).click()
    progress = desk.locator("#enrollment")
    expect(progress).to_contain_text("0 of 3 captures accepted")
    expect(progress).to_contain_text("Ask Tara Example to look into its camera")
    desk.evaluate("window.sameDocument = true")

    begin.click()
    expect(kiosk.locator("#sentence")).to_have_text("Tara Example is enrolled.")
    expect(progress).to_contain_text("Tara Example is enrolled")
    assert desk.evaluate("window.sameDocument") is True  # it came by itself
    assert kiosk.evaluate("window.steps")[:3] == [0, 1, 2]
    addresses = [url for method, url, _, body in watch.requests if method == "POST" and body]
    assert len([url for url in addresses if re.search(r"/enrollments/[^/]+/captures$", url)]) >= 3
    assert [url for url in addresses if url.endswith("/attempts")] == []
    assert [found for _, _, _, body in watch.requests if body for found in pictures_in(body, detector)] == []
    assert server.api("GET", f"people/{person}")["is_enrolled"] is True
    server.api("POST", f"people/{person}/erase", {})
    assert complaints == []
