"""The kiosk in a real Chromium: a tablet that is paired, asks, believes only the server's signature, and stays shut."""

from __future__ import annotations

import base64
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from accesscontrol.environment import parse_env_file, parse_keys
from accesscontrol.policy import Reason
from enrollment import languages
from recognition.quality import ADVICE
from terminal.decision import Pending, read_decision
from terminal.protocol import (
    ProtocolError,
    key_id_of,
    public_key_of,
    sign_reply,
    sign_request,
    verify_reply,
    verify_request,
)
from tests.browser.conftest import Server
from tests.browser.patience import hold_time, let_time_pass

NOW = 1_795_000_000
NONCE = "bm9uY2Utbm9uY2Utbm9u"
OTHER_NONCE = "b3RoZXItb3RoZXItb3Ro"
SERVER, STRANGER = bytes(range(32)), bytes(range(1, 33))  # seeds of keys
DOOR = "0a6f7f0e-52a0-4c55-9f7e-2c1f5b0e9d11"
SHELL = re.compile(r"/kiosk/$|/static/")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A Lintel of this module's own: who its gallery knows decides these tests. A busy machine gets its time."""
    with tempfile.TemporaryDirectory(prefix="lintel-kiosk-", ignore_cleanup_errors=True) as folder:
        running = Server(Path(folder))
        running.environment["LINTEL_ATTEMPT_DEADLINE_MS"] = "30000"
        running.environment["LINTEL_PAYLOAD_TTL_S"] = "120"
        running.environment["LINTEL_PROOF_TTL_S"] = "300"
        try:
            running.start()
            yield running
        finally:
            running.stop()


@pytest.fixture(scope="module")
def gallery_with_somebody_else(server: Server) -> str:
    """Sam Example is enrolled, with a picture that is no portrait at all: a gallery that is not empty."""
    return server.run(
        "from django.utils import timezone\n"
        "from accesscontrol.celery import wait_for_embedded_tasks\n"
        "from accesscontrol.captures import default_profile\n"
        "from enrollment import services\n"
        "from recognition.payload import pack\n"
        "from tests.tiny_model import capture_of, synthetic_picture\n"
        "now = timezone.now()\n"
        "sam = services.register_person(full_name='Sam Example', actor='test', at=now)\n"
        "services.record_consent(person=sam, text='I agree.', version='1', method='signed', actor='test', at=now)\n"
        "e = services.begin_enrollment(person=sam, captures_wanted=1, actor='test', at=now)\n"
        "profile = default_profile()\n"
        "payload = pack(capture_of(synthetic_picture(1), profile), profile)\n"
        "services.submit_capture(enrollment=e, payload=payload, at=now)\n"
        "wait_for_embedded_tasks(120)\n"
        "e.refresh_from_db()\n"
        "assert e.state == 'completed', e.last_reason\n"
        "print(sam.pk)\n"
    )


@pytest.fixture
def ada(server: Server) -> Iterator[str]:
    """Ada Example looks like the film: enrolled for one test, in a group for which every door is open."""
    person_id = server.run(
        "from itertools import islice\n"
        "from django.utils import timezone\n"
        "from accesscontrol.captures import default_profile\n"
        "from accesscontrol.celery import wait_for_embedded_tasks\n"
        "from accesscontrol.models import AccessGroup, AccessRule, Door\n"
        "from enrollment import services\n"
        "from recognition.detect import Detector\n"
        "from recognition.fetch_models import models_folder\n"
        "from terminal.capture import CaptureStation\n"
        "from tests.browser.films import portrait_frames\n"
        "now = timezone.now()\n"
        "ada = services.register_person(full_name='Ada Example', actor='test', at=now)\n"
        "services.record_consent(person=ada, text='I agree.', version='1', method='signed', actor='test', at=now)\n"
        "e = services.begin_enrollment(person=ada, actor='test', at=now)\n"
        "station = CaptureStation(default_profile(), Detector(models=models_folder()))\n"
        "for frame in islice(portrait_frames(), 30):\n"
        "    e.refresh_from_db()\n"
        "    capture = station.capture(frame)\n"
        "    if e.has_all_captures or not capture.ok:\n"
        "        continue\n"
        "    services.submit_capture(enrollment=e, payload=capture.payload, at=timezone.now())\n"
        "    wait_for_embedded_tasks(120)\n"
        "e.refresh_from_db()\n"
        "assert e.state == 'completed', e.last_reason\n"
        "group, _ = AccessGroup.objects.get_or_create(name='Everywhere')\n"
        "group.members.add(ada)\n"
        "rule, _ = AccessRule.objects.get_or_create(name='Everywhere always', group=group)\n"
        "rule.doors.set(Door.objects.all())\n"
        "print(ada.pk)\n"
    ).split()[-1]
    yield person_id
    server.run(
        "from django.utils import timezone\n"
        "from enrollment import services\n"
        f"services.erase_person(person_id='{person_id}', actor='test', at=timezone.now())\n"
    )


@dataclass
class Paired:
    """A kiosk that works, and what the server knows of it."""

    page: Page
    terminal_id: str
    door_id: str


def make_terminal(server: Server, name: str) -> dict[str, str]:
    """A door, a terminal at it, and a pairing code for it."""
    return json.loads(
        server.run(
            "import json\n"
            "from django.utils import timezone\n"
            "from accesscontrol.models import Door, Site, Terminal\n"
            "from accesscontrol.services import issue_pairing_code\n"
            "site = Site.objects.first()\n"
            f"door, _ = Door.objects.get_or_create(site=site, name='Door of {name}')\n"
            f"row, _ = Terminal.objects.get_or_create(name='{name}', defaults={{'door': door}})\n"
            "code = issue_pairing_code(terminal=row, actor='test', at=timezone.now())\n"
            "print(json.dumps({'code': code, 'terminal': str(row.pk), 'door': str(door.pk)}))\n"
        ).splitlines()[-1]
    )


def pair(page: Page, made: dict[str, str]) -> Paired:
    """Types the code of `make_terminal` and starts the kiosk."""
    page.goto("/kiosk/")
    page.get_by_label("Pairing code").fill(made["code"])
    page.get_by_role("button", name="Pair", exact=True).click()
    page.get_by_role("button", name="They match: start").click()
    return Paired(page, made["terminal"], made["door"])


def key_of(server: Server, terminal_id: str) -> str:
    return server.run(
        f"from accesscontrol.models import Terminal\nprint(Terminal.objects.get(pk='{terminal_id}').key_id)\n"
    ).split()[-1]


def signing_key(server: Server) -> tuple[str, bytes]:
    text = (Path(server.environment["LINTEL_DATA_DIR"]) / "secrets.env").read_text()
    return parse_keys(parse_env_file(text)["LINTEL_SIGNING_KEYS"])[0]


# The protocol, held against Python's


def reply_of(
    body: bytes,
    *,
    seed: bytes = SERVER,
    key_id: str = "server-1",
    nonce: str = NONCE,
    status: int = 200,
    created: int = NOW,
    lifetime: int = 5,
) -> dict[str, Any]:
    headers = sign_reply(
        status=status,
        body=body,
        request_nonce=nonce,
        key_id=key_id,
        private_key=seed,
        created=created,
        expires=created + lifetime,
    )
    return {"status": status, "headers": headers, "body": body.decode("latin-1")}


def decision_body(**changes: Any) -> bytes:
    expires = datetime.fromtimestamp(NOW, UTC) + timedelta(seconds=5)
    document = {
        "attempt_id": "6d1c6f0e-3c0f-4a1a-9c58-0a5f4d3f7b21",
        "granted": True,
        "reason": "granted",
        "message": "Welcome.",
        "next_step": "",
        "door_id": DOOR,
        "nonce": NONCE,
        "expires_at": expires.isoformat(),
    }
    return json.dumps({**document, **changes}).encode()


def altered(reply: dict[str, Any], **changes: Any) -> dict[str, Any]:
    headers = {**reply["headers"], **changes.pop("headers", {})}
    return {
        **reply,
        **changes,
        "headers": {name: value for name, value in headers.items() if value is not None},
    }


def attacks() -> dict[str, dict[str, Any]]:
    """Replies by what is the matter with them. The first ones are to be believed, nothing else is."""
    honest = reply_of(decision_body())
    given = honest["headers"]["Signature-Input"]
    signature = honest["headers"]["Signature"]
    return {
        "an honest yes": honest,
        "an honest no": reply_of(decision_body(granted=False, reason="no_match")),
        "not decided yet": reply_of(decision_body(), status=202),
        "a microsecond in the time": reply_of(decision_body(expires_at="2026-11-18T11:06:43.123456Z")),
        "altered body": altered(honest, body=honest["body"].replace("Welcome", "Welc0me")),
        "altered status": altered(honest, status=202),
        "another key with the pinned name": reply_of(decision_body(), seed=STRANGER),
        "a key nobody pinned": reply_of(decision_body(), seed=STRANGER, key_id="stranger"),
        "the answer to another request": reply_of(decision_body(), nonce=OTHER_NONCE),
        "expired": reply_of(decision_body(), created=NOW - 10),
        "from the future": reply_of(decision_body(), created=NOW + 3600),
        "lives too long": reply_of(decision_body(), lifetime=600),
        "no signature": altered(honest, headers={"Signature": None}),
        "no signature input": altered(honest, headers={"Signature-Input": None}),
        "no digest": altered(honest, headers={"Content-Digest": None}),
        "another digest": altered(honest, headers={"Content-Digest": "sha-256=:AAAA:"}),
        "a digest that is none": altered(honest, headers={"Content-Digest": "sha-256"}),
        "a digest of another kind": altered(honest, headers={"Content-Digest": "md5=:AAAA:"}),
        "two signatures": altered(honest, headers={"Signature-Input": f"{given}, other=();alg=1"}),
        "another label": altered(honest, headers={"Signature": signature.replace("lintel=", "other=")}),
        "signature is not base64": altered(honest, headers={"Signature": "lintel=:AAA:"}),
        "signature of nothing": altered(honest, headers={"Signature": "lintel=::"}),
        "another algorithm": altered(honest, headers={"Signature-Input": given.replace("ed25519", "rsa")}),
        "a request's tag": altered(honest, headers={"Signature-Input": given.replace("-reply", "-request")}),
        "status not covered": altered(honest, headers={"Signature-Input": given.replace('"@status" ', "")}),
        "a parameter twice": altered(honest, headers={"Signature-Input": f"{given};created=1"}),
        "an unknown parameter": altered(honest, headers={"Signature-Input": f"{given};more=1"}),
        "no expiry": altered(honest, headers={"Signature-Input": re.sub(r";expires=\d+", "", given)}),
        "endless headers": altered(honest, headers={"Signature-Input": given + " " * 10 + "x" * 3000}),
        "another door": reply_of(decision_body(door_id="elsewhere")),
        "no door": reply_of(decision_body(door_id=None)),
        "another nonce inside": reply_of(decision_body(nonce=OTHER_NONCE)),
        "granted is a word": reply_of(decision_body(granted="true")),
        "granted is a number": reply_of(decision_body(granted=1)),
        "granted is missing": reply_of(
            json.dumps({"nonce": NONCE, "door_id": DOOR, "attempt_id": "a"}).encode()
        ),
        "no reason": reply_of(decision_body(reason=None)),
        "no attempt": reply_of(decision_body(attempt_id="")),
        "decision expired": reply_of(decision_body(expires_at="2026-01-01T00:00:00Z")),
        "decision without a zone": reply_of(decision_body(expires_at="2030-01-01T00:00:00")),
        "decision lives for years": reply_of(decision_body(expires_at="2030-01-01T00:00:00Z")),
        "decision without an end": reply_of(decision_body(expires_at=None)),
        "not JSON": reply_of(b"yes"),
        "a list": reply_of(b"[true]"),
        "nothing": reply_of(b""),
        "a refusal": reply_of(b'{"code": "terminal_without_door", "detail": "no door"}', status=403),
    }


def python_says(reply: dict[str, Any]) -> str:
    try:
        decision = read_decision(
            status=reply["status"],
            headers=reply["headers"],
            body=reply["body"].encode("latin-1"),
            request_nonce=NONCE,
            server_keys={"server-1": public_key_of(SERVER)},
            door_id=DOOR,
            now=NOW,
        )
    except ProtocolError as error:
        return error.code
    return "pending" if isinstance(decision, Pending) else f"granted={decision.granted}"


def test_the_browser_believes_exactly_the_replies_that_the_terminal_believes(server, open_page):
    page = open_page()
    page.goto("/kiosk/")
    replies = attacks()
    said = page.evaluate(
        """async ({replies, key, door, nonce, now}) => {
          const { importPublicKey, fromBase64 } = await import("/static/kiosk/sign.js");
          const { readDecision } = await import("/static/kiosk/decision.js");
          const publicKeys = new Map([["server-1", await importPublicKey(fromBase64(key))]]);
          const said = {};
          for (const [name, { status, headers, body }] of Object.entries(replies)) {
            try {
              const decision = await readDecision({
                status, headers: new Headers(headers), publicKeys, doorId: door, requestNonce: nonce, now,
                body: Uint8Array.from(body, (letter) => letter.charCodeAt(0)),
              });
              said[name] = decision.pending ? "pending" : `granted=${decision.granted ? "True" : "False"}`;
            } catch (error) {
              said[name] = error.code ?? String(error);
            }
          }
          return said;
        }""",
        {
            "replies": replies,
            "key": base64.b64encode(public_key_of(SERVER)).decode(),
            "door": DOOR,
            "nonce": NONCE,
            "now": NOW,
        },
    )
    expected = {name: python_says(reply) for name, reply in replies.items()}
    assert said == expected
    believed = {name for name, verdict in expected.items() if verdict == "granted=True"}
    assert believed == {"an honest yes", "a microsecond in the time"}
    assert len(set(expected.values())) > 15  # the table reaches the rules, not one rule forty times


REQUESTS = [
    ("GET", "https://Doors.Example.org/api/v1/terminals/me", b"", None),
    ("GET", "http://127.0.0.1:8000/api/v1/profiles/abc?x=1&y=%20", b"", None),
    (
        "POST",
        "https://doors.example.org:8443/api/v1/attempts",
        b"\x00\xff\x10",
        "application/vnd.lintel.capture",
    ),
    ("POST", "https://doors.example.org:443/", b"{}", "application/json"),
    ("GET", "http://[::1]:8000", b"", None),
]


def test_the_browser_signs_every_request_as_the_terminal_does(server, open_page):
    page = open_page()
    page.goto("/kiosk/")
    # WebCrypto takes a seed only in this wrapping (RFC 8410); the kiosk itself never imports one.
    pkcs8 = bytes.fromhex("302e020100300506032b657004220420") + SERVER
    signed = page.evaluate(
        """async ({requests, pkcs8, keyId, nonce, created}) => {
          const { fromBase64, keyIdOf, signRequest } = await import("/static/kiosk/sign.js");
          const algorithm = { name: "Ed25519" };
          const privateKey = await crypto.subtle.importKey("pkcs8", fromBase64(pkcs8), algorithm, false, ["sign"]);
          const all = [];
          for (const [method, url, body, contentType] of requests) {
            all.push(await signRequest({
              method, url, contentType, keyId, privateKey, created, nonce, body: fromBase64(body),
            }));
          }
          return { all, keyId: await keyIdOf(new Uint8Array(32).fill(7)) };
        }""",
        {
            "requests": [
                (method, url, base64.b64encode(body).decode(), content_type)
                for method, url, body, content_type in REQUESTS
            ],
            "pkcs8": base64.b64encode(pkcs8).decode(),
            "keyId": key_id_of(public_key_of(SERVER)),
            "nonce": NONCE,
            "created": NOW,
        },
    )
    assert signed["keyId"] == key_id_of(bytes([7]) * 32)
    for (method, url, body, content_type), headers in zip(REQUESTS, signed["all"], strict=True):
        expected = sign_request(
            method=method,
            url=url,
            body=body,
            content_type=content_type,
            key_id=key_id_of(public_key_of(SERVER)),
            private_key=SERVER,
            created=NOW,
            nonce=NONCE,
        )
        assert headers == expected, url
        verify_request(
            method=method, url=url, headers=headers, body=body, public_key=public_key_of(SERVER), now=NOW
        )


def test_the_kiosk_carries_every_language_there_is_and_every_reason_and_advice_has_its_sentence(open_page):
    page = open_page()
    page.goto("/kiosk/")
    carried = page.evaluate(
        "import('/static/kiosk/texts.js').then(({ LANGUAGES }) => Object.fromEntries(LANGUAGES))"
    )
    assert {tag: told["sentences"] for tag, told in carried.items()} == {
        language.tag: dict(language.sections["kiosk"]) for language in languages.known()
    }
    told = set(languages.reference().sections["kiosk"])
    reasons = {reason.value for reason in Reason} - {Reason.GRANTED}
    assert {f"{reason}_next" for reason in reasons} | reasons <= told
    assert {f"advice_{reason}" for reason in ADVICE} <= told
    assert set(re.findall(r'data-text="(\w+)"', page.content())) <= told


# Pairing, and the key


def test_a_kiosk_pairs_with_a_code_once_and_its_key_cannot_be_exported(server, open_page, complaints):
    page = open_page(width=1280, height=800)
    kiosk = pair(page, make_terminal(server, "Kiosk that pairs"))
    expect(page.locator("#door")).to_have_text("Door of Kiosk that pairs")
    found = page.evaluate(
        """async () => {
          const { loadTerminal } = await import("/static/kiosk/store.js");
          const terminal = await loadTerminal();
          const refusals = [];
          for (const format of ["pkcs8", "jwk", "raw"]) {
            await crypto.subtle.exportKey(format, terminal.privateKey).catch((error) => refusals.push(error.name));
          }
          const { extractable, type, usages } = terminal.privateKey;
          return { keyId: terminal.keyId, extractable, type, usages, refusals, names: Object.keys(terminal) };
        }"""
    )
    assert found["keyId"] == key_of(server, kiosk.terminal_id)
    assert (found["extractable"], found["type"], found["usages"]) == (False, "private", ["sign"])
    assert found["refusals"] == ["InvalidAccessError"] * 3
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    assert complaints == []


def test_a_wrong_code_is_refused_in_words_and_the_kiosk_stays_unpaired(server, open_page):
    page = open_page(width=360, height=740, scheme="dark")
    page.goto("/kiosk/")
    expect(page.get_by_label("Pairing code")).to_be_focused()  # once the kiosk has found that it has no key
    page.keyboard.type("aaaa-aaaaaa")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("This code is not valid.")
    expect(page.get_by_label("Pairing code")).to_be_focused()
    page.get_by_label("Pairing code").fill("")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("Type the code that Lintel shows.")
    page.get_by_role("button", name="Language English").press("Enter")
    page.get_by_role("button", name="Deutsch").press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Dieses Tablet mit einer Tür koppeln")
    assert page.evaluate("import('/static/kiosk/store.js').then((store) => store.loadTerminal())") is None


def test_a_reload_keeps_the_key_and_goes_on_without_a_question(server, open_page):
    page = open_page()
    kiosk = pair(page, make_terminal(server, "Kiosk that reloads"))
    expect(page.locator("#idle, #camera").first).to_be_attached()
    page.reload()
    expect(page.locator("#door")).to_have_text("Door of Kiosk that reloads")
    # There is no camera on this browser, so the kiosk says so; what matters is that it did not ask for a code.
    expect(page.get_by_role("heading", name="The camera cannot be used")).to_be_visible()
    stored = page.evaluate(
        "import('/static/kiosk/store.js').then(async (s) => (await s.loadTerminal()).keyId)"
    )
    assert stored == key_of(server, kiosk.terminal_id)


# At the door


def test_a_stranger_is_refused_kindly_and_told_what_to_do(
    server, gallery_with_somebody_else, open_page, complaints
):
    page = open_page(film="face", width=1280, height=800)
    hold_time(page)
    pair(page, make_terminal(server, "Kiosk for strangers"))
    expect(page.locator("#sentence")).to_have_text("You were not recognised.")
    expect(page.locator("#next")).to_have_text("Face the camera and try again, or ask at the desk.")
    expect(page.locator("body")).to_have_attribute("data-tone", "no")
    expect(page.get_by_role("button", name="Try again")).to_be_visible()
    assert complaints == []


def test_the_door_opens_for_the_person_who_is_enrolled(
    server, gallery_with_somebody_else, open_page, complaints, ada
):
    page = open_page(film="face", width=360, height=740, scheme="dark")
    hold_time(page)  # one answer, and no second attempt after it
    sent: list[bytes] = []
    page.on("request", lambda request: sent.append(request.post_data_buffer or b""))
    made = make_terminal(server, "Kiosk that opens")
    server.run(
        "from accesscontrol.models import AccessRule, Door\n"
        f"AccessRule.objects.get(name='Everywhere always').doors.add(Door.objects.get(pk='{made['door']}'))\n"
    )
    kiosk = pair(page, made)
    expect(page.locator("#sentence")).to_have_text("Welcome.")  # no name: this server's policy sends none
    expect(page.locator("body")).to_have_attribute("data-tone", "yes")
    told = server.run(
        "from accesscontrol.models import AccessAttempt\n"
        f"a = AccessAttempt.objects.filter(terminal='{kiosk.terminal_id}', granted=True).get()\n"
        "print(a.person_id)\n"
    )
    assert told.split()[-1] == ada
    captures = [body for body in sent if body.startswith(b"LNTL")]
    assert captures
    for body in sent:
        assert not body.startswith((b"\xff\xd8", b"\x89PNG", b"RIFF", b"GIF8"))
    assert overflow(page) <= 0
    assert complaints == []


def overflow(page: Page) -> int:
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


def answer_attempts(page: Page, answer: Callable[[Route, str], None]) -> list[str]:
    """A man in the middle: `answer` gets every attempt and its nonce. Returns the nonces as they come."""
    nonces: list[str] = []

    def handle(route: Route) -> None:
        found = re.search(r'nonce="([^"]+)"', route.request.headers["signature-input"])
        assert found is not None
        nonces.append(found[1])
        answer(route, found[1])

    page.route("**/api/v1/attempts", handle)
    return nonces


def yes(door_id: str, nonce: str, **changes: Any) -> bytes:
    expires = datetime.now(UTC) + timedelta(seconds=30)
    document = {
        "attempt_id": "6d1c6f0e-3c0f-4a1a-9c58-0a5f4d3f7b21",
        "granted": True,
        "reason": "granted",
        "message": "Welcome.",
        "next_step": "",
        "door_id": door_id,
        "nonce": nonce,
        "expires_at": expires.isoformat(),
    }
    return json.dumps({**document, **changes}).encode()


def signed_by(key_id: str, seed: bytes, *, nonce: str, body: bytes, lifetime: int = 60) -> dict[str, str]:
    created = int(datetime.now(UTC).timestamp())
    return sign_reply(
        status=200,
        body=body,
        request_nonce=nonce,
        key_id=key_id,
        private_key=seed,
        created=created,
        expires=created + lifetime,
    )


FORGERIES: dict[str, Callable[[tuple[str, bytes], str, str], tuple[bytes, dict[str, str]]]] = {
    "nobody signed it": lambda key, door, nonce: (yes(door, nonce), {}),
    "a stranger signed it under the server's name": lambda key, door, nonce: (
        yes(door, nonce),
        signed_by(key[0], STRANGER, nonce=nonce, body=yes(door, nonce)),
    ),
    "it answers another request": lambda key, door, nonce: (
        yes(door, OTHER_NONCE),
        signed_by(*key, nonce=OTHER_NONCE, body=yes(door, OTHER_NONCE)),
    ),
    "it is about another door": lambda key, door, nonce: (
        yes(DOOR, nonce),
        signed_by(*key, nonce=nonce, body=yes(DOOR, nonce)),
    ),
    "its yes is a word": lambda key, door, nonce: (
        yes(door, nonce, granted="yes"),
        signed_by(*key, nonce=nonce, body=yes(door, nonce, granted="yes")),
    ),
}


def test_a_yes_that_cannot_be_believed_leaves_the_door_shut(server, open_page):
    page = open_page(film="face", width=1280, height=800)
    key, made = signing_key(server), make_terminal(server, "Kiosk that is lied to")
    now_told: list[str] = []

    def lie(route: Route, nonce: str) -> None:
        body, headers = FORGERIES[now_told[-1]](key, made["door"], nonce)
        route.fulfill(status=200, body=body, headers={"Content-Type": "application/json", **headers})

    nonces = answer_attempts(page, lie)
    watch_for_welcome(page)
    for forgery in FORGERIES:
        now_told.append(forgery)
        asked = len(nonces)
        if asked:
            page.reload()  # a kiosk that was lied to waits longer and longer; a fresh one asks at once
        else:
            pair(page, made)
        expect(page.locator("#sentence")).to_have_text("The door stays shut.")
        expect(page.locator("#next")).to_contain_text("not believed")
        expect(page.locator("body")).to_have_attribute("data-view", "idle")
        assert len(nonces) > asked, forgery
        assert page.evaluate("window.welcomed") == 0, forgery


def watch_for_welcome(page: Page) -> None:
    """Counts how often the page turned green, however short."""
    page.add_init_script(
        """window.welcomed = 0;
        addEventListener("DOMContentLoaded", () => new MutationObserver(() => {
          if (document.body.dataset.tone === "yes") window.welcomed += 1;
        }).observe(document.body, { attributes: true }));"""
    )


def test_a_name_is_spoken_only_when_the_signed_reply_carries_one(server, open_page):
    page = open_page(film="face", width=1280, height=800)
    key, made = signing_key(server), make_terminal(server, "Kiosk that greets")

    def greet(route: Route, nonce: str) -> None:
        body = yes(made["door"], nonce, name="Ada")
        headers = signed_by(*key, nonce=nonce, body=body)
        route.fulfill(status=200, body=body, headers={"Content-Type": "application/json", **headers})

    answer_attempts(page, greet)
    pair(page, made)
    expect(page.locator("#sentence")).to_have_text("Welcome, Ada.")


# When things break


def test_a_revoked_kiosk_opens_nothing_says_so_and_can_be_paired_again(server, open_page):
    page = open_page(film="empty", width=360, height=740)
    kiosk = pair(page, make_terminal(server, "Kiosk that is lost"))
    expect(page.locator("#prompt")).to_be_visible()
    first = key_of(server, kiosk.terminal_id)
    server.run(
        "from django.utils import timezone\n"
        "from accesscontrol.models import Terminal\n"
        "from accesscontrol.services import revoke_terminal\n"
        f"row = Terminal.objects.get(pk='{kiosk.terminal_id}')\n"
        "revoke_terminal(terminal=row, actor='test', at=timezone.now())\n"
    )
    expect(page.locator("#notice")).to_have_text(re.compile("This tablet was revoked"))
    assert overflow(page) <= 0
    made = make_terminal(server, "Kiosk that is lost")
    page.get_by_role("button", name="Pair again").click()
    page.get_by_label("Pairing code").fill(made["code"])
    page.keyboard.press("Enter")
    page.get_by_role("button", name="They match: start").press("Enter")
    expect(page.locator("#prompt")).to_be_visible()
    expect(page.locator("#notice")).to_be_hidden()
    assert key_of(server, kiosk.terminal_id) not in (first, "None")


def test_what_the_kiosk_was_about_to_say_covers_no_form_of_whoever_pairs_it_again(server, open_page):
    """Neither an answer whose time is over only now, nor a reply that comes after the touch."""
    page = open_page(width=360, height=740)
    hold_time(page)
    made = make_terminal(server, "Kiosk paired again")
    server.run(
        "from accesscontrol.models import Door\n"
        f"Door.objects.filter(pk='{made['door']}').update(asks_for='card_and_pin')\n"  # no camera comes into it
    )
    me, code = re.compile("/api/v1/terminals/me"), page.get_by_label("Pairing code")
    again, begin = (page.get_by_role("button", name=name) for name in ("Pair again", "They match: start"))
    honest, waiting = Route.continue_, list[Route]()
    answer: list[Callable[[Route], Any]] = [honest]
    page.route(me, lambda route: answer[-1](route))

    def refuse(route: Route) -> None:
        route.fulfill(status=401, json={"code": "terminal_revoked", "detail": "revoked"})

    pair(page, made)
    expect(page.locator("#prompt")).to_be_visible()
    answer.append(refuse)
    expect(page.locator("#answer")).to_be_visible()
    again.click()
    code.fill(make_terminal(server, "Kiosk paired again")["code"])
    code.press("Enter")
    expect(begin).to_be_visible()
    let_time_pass(page)
    expect(page.locator("body")).to_have_attribute("data-view", "paired")
    answer.append(honest)
    begin.click()

    expect(page.locator("#prompt")).to_be_visible()
    answer.append(refuse)
    expect(page.locator("#answer")).to_be_visible()
    answer.append(waiting.append)
    with page.expect_request(me):
        let_time_pass(page)  # the kiosk asks once more
    again.click()
    expect(code).to_be_focused()
    answer.append(honest)
    with page.expect_response(me):
        waiting[0].continue_()
    code.fill(make_terminal(server, "Kiosk paired again")["code"])
    code.press("Enter")
    begin.click()
    expect(page.locator("#prompt")).to_be_visible()


def test_without_a_network_the_kiosk_says_so_survives_a_reload_and_recovers_by_itself(server, open_page):
    page = open_page(film="empty", width=1280, height=800)
    pair(page, make_terminal(server, "Kiosk without a network"))
    expect(page.locator("#prompt")).to_be_visible()
    wait_until_kept(page, "/kiosk/", *loaded(page))
    server.stop()
    try:
        expect(page.locator("#notice")).to_have_text(re.compile("No connection: the door stays shut"))
        page.reload()
        expect(page.locator("#door")).to_have_text("Door of Kiosk without a network")
        expect(page.locator("#notice")).to_have_text(re.compile("No connection: the door stays shut"))
    finally:
        server.start()
    expect(page.locator("#notice")).to_be_hidden()
    expect(page.locator("#prompt")).to_be_visible()
    assert [url for url in kept_urls(page) if not SHELL.search(url)] == []


def loaded(page: Page) -> list[str]:
    """The scripts and styles that the page has loaded: without one of them it would not open."""
    found: list[str] = page.evaluate(
        """() => performance.getEntriesByType("resource").map((entry) => new URL(entry.name).pathname)
          .filter((path) => /^\\/static\\/.*\\.(js|css)$/.test(path))"""
    )
    assert {f"/static/kiosk/{name}" for name in ("kiosk.js", "kiosk.css", "connection.js")} <= set(found)
    assert "/static/enrollment/camera.js" in found  # what is imported by what is imported
    return found


def wait_until_kept(page: Page, *paths: str) -> None:
    """Until the service worker is in charge and has all of these. (The policy lets no test poll by eval.)"""
    page.evaluate(
        """async (paths) => {
          for (;;) {
            const cache = await caches.open("lintel-kiosk-1");
            const kept = (await cache.keys()).map((request) => new URL(request.url).pathname);
            if (navigator.serviceWorker.controller && paths.every((path) => kept.includes(path))) return;
            await new Promise((resolve) => setTimeout(resolve, 200));
          }
        }""",
        list(paths),
    )


def kept_urls(page: Page) -> list[str]:
    """Everything that any cache of this origin holds."""
    return list(
        page.evaluate(
            """async () => {
              const caches_ = await Promise.all((await caches.keys()).map((name) => caches.open(name)));
              const requests = await Promise.all(caches_.map((cache) => cache.keys()));
              return requests.flat().map((request) => new URL(request.url).pathname);
            }"""
        )
    )


def test_no_answer_of_the_api_is_ever_kept(server, open_page):
    page = open_page(film="empty")
    asked: list[str] = []
    page.on("response", lambda response: asked.append(response.url))
    pair(page, make_terminal(server, "Kiosk that forgets"))
    expect(page.locator("#prompt")).to_be_visible()
    wait_until_kept(page, "/kiosk/")
    page.reload()
    expect(page.locator("#prompt")).to_be_visible()
    with page.expect_response("**/api/v1/terminals/me/enrollment"):
        pass
    assert any("/api/v1/terminals/me" in url for url in asked)
    kept = kept_urls(page)
    assert "/kiosk/" in kept
    assert [url for url in kept if not SHELL.search(url)] == []


def test_the_kiosk_can_be_installed_and_sets_no_cookie(server, open_page):
    page = open_page()
    answer = page.goto("/kiosk/")
    assert answer is not None
    policy = answer.header_value("content-security-policy") or ""
    assert "'unsafe-eval'" not in policy.replace("'wasm-unsafe-eval'", "") and "'unsafe-inline'" not in policy
    assert page.context.cookies() == []
    manifest = page.request.get(str(page.locator("link[rel=manifest]").get_attribute("href")))
    assert manifest.headers["content-type"].startswith("application/manifest+json")
    document = manifest.json()
    assert (document["display"], document["start_url"], document["scope"]) == (
        "fullscreen",
        "/kiosk/",
        "/kiosk/",
    )
    for icon in document["icons"]:
        picture = page.request.get(icon["src"])
        assert picture.ok and picture.headers["content-type"] == "image/png"
    worker = page.request.get("/kiosk/service-worker.js")
    assert worker.headers["content-type"].startswith("text/javascript")
    # Chromium's own word on it. A private window, as every test has one, never installs anything.
    devtools = page.context.new_cdp_session(page)
    complaints = devtools.send("Page.getInstallabilityErrors")["installabilityErrors"]
    assert {each["errorId"] for each in complaints} <= {"in-incognito"}


def test_a_verified_reply_of_the_python_side_stays_verified_there() -> None:
    """The table above leans on Python's own verdicts: this one is known from outside of it."""
    reply = reply_of(decision_body())
    proven = verify_reply(
        status=200,
        headers=reply["headers"],
        body=reply["body"].encode(),
        request_nonce=NONCE,
        public_keys={"server-1": public_key_of(SERVER)},
        now=NOW,
    )
    assert proven.key_id == "server-1"
