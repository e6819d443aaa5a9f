"""What every page must hold in its markup. The browser tests see the same pages run."""

from __future__ import annotations

import re
from datetime import timedelta
from os.path import normpath
from pathlib import Path

from django.urls import reverse
from django.utils import timezone
from django_otp.plugins.otp_totp.models import TOTPDevice

from accesscontrol.middleware import CAMERA_SECURITY_POLICY, CONTENT_SECURITY_POLICY
from accesscontrol.models import Presence, Site
from accesscontrol.roles import PUBLIC
from enrollment.models import Person
from tests.pages.test_roles import NO_GET, OWN_PAGES, POST_ONLY, address

ROOT = Path(__file__).resolve().parents[2]
APPS = ("accesscontrol", "enrollment")
BUILDERS = ("package.json", "webpack*", "vite*", "rollup*", "tsconfig*", "esbuild*", "postcss*", "tailwind*")
#: A script of JSON is data that a page carries; nothing in it is run.
INLINE = re.compile(
    r"""<style|\sstyle=|\son[a-z]+=|=["']?javascript:|<script(?![^>]*\ssrc=)(?! id="\w+" type="application/json">)""",
    re.IGNORECASE,
)
ELSEWHERE = re.compile(r"""(?:src|href|action)=["'](?:https?:)?//""", re.IGNORECASE)


def test_no_page_holds_inline_code_or_points_to_another_server(building, administrator):
    for name in OWN_PAGES:
        if name in NO_GET or name in POST_ONLY:
            continue
        html = administrator.get(address(name, building)).content.decode()
        assert not INLINE.search(html), f"{name}: {INLINE.search(html)[0]}"
        assert not ELSEWHERE.search(html), f"{name}: {ELSEWHERE.search(html)[0]}"


def test_every_page_carries_the_strict_policy_and_a_camera_needs_webassembly_alone(building, administrator):
    """Which pages may capture is written out here: another one is a decision, not an accident."""
    captures = set()
    for name in OWN_PAGES:
        if name in NO_GET or name in POST_ONLY:
            continue
        answer = administrator.get(address(name, building))
        policy = answer["Content-Security-Policy"]
        if policy == CAMERA_SECURITY_POLICY:
            captures.add(name)
        else:
            assert policy == CONTENT_SECURITY_POLICY, name
        assert ("camera=(self)" in answer["Permissions-Policy"]) == (name in captures), name
    assert captures == {
        "kiosk"
    }  # and the two that enroll, while an enrollment is open: test_desk, test_invitations
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert re.findall(r"[\w-]*unsafe[\w-]*", CAMERA_SECURITY_POLICY) == ["wasm-unsafe-eval"]
    assert "'wasm-unsafe-eval'" in CAMERA_SECURITY_POLICY


def test_scripts_are_served_as_they_are_written_so_that_nothing_is_built_to_change_a_page():
    folders = [ROOT / app / "static" for app in APPS]  # one address, /static/, for both
    written = [
        (path.relative_to(folder), path) for folder in folders for path in sorted(folder.rglob("*.js"))
    ]
    assert len(written) > 20
    for where, path in written:
        text = path.read_text()
        named = re.findall(
            r"""(?:^import|^export|\bfrom|\bimport\()\s*["']([^"'`$]+)["']""", text, re.MULTILINE
        )
        for name in named:
            assert name.startswith("."), f"{path.name} imports {name}, which only a bundler finds"
            meant = normpath(where.parent / name)
            assert any((folder / meant).is_file() for folder in folders), f"{path.name}: {name}"
        assert max(map(len, text.splitlines())) <= 160, f"{path.name} is not what somebody wrote"
    assert [name for name in BUILDERS if list(ROOT.glob(name))] == []


def test_every_page_has_one_heading_a_title_a_language_and_labels_for_its_fields(building, administrator):
    for name in OWN_PAGES:
        if name in NO_GET or name in PUBLIC:
            continue
        answer = administrator.get(address(name, building))
        if answer.status_code != 200 or name == "enrollment_progress" or "html" not in answer["Content-Type"]:
            continue
        html = answer.content.decode()
        assert len(re.findall(r"<h1[^>]*>[^<]*\w", html)) == html.count("<h1") == 1, name
        assert '<html lang="en">' in html, name
        assert re.search(r"<title>[^<]+ · Lintel</title>", html), name
        labelled = set(re.findall(r'<label[^>]*\sfor="([^"]+)"', html))
        for field in re.findall(r"<(?:input|select|textarea)\b[^>]*>", html):
            if 'type="hidden"' in field or "aria-label=" in field:
                continue
            identity = re.search(r'\sid="([^"]+)"', field)
            assert identity is not None, f"{name}: {field}"
            assert identity[1] in labelled, f"{name}: {field}"


def test_every_address_that_changes_something_by_one_click_refuses_a_get(building, administrator):
    for name in POST_ONLY:
        assert administrator.get(address(name, building)).status_code == 405, name


#: What takes something away from somebody, by its address; anything new whose name says so must ask first, too.
TAKES_AWAY = re.compile(
    r"erase|delete|revoke|withdraw|clear|remove|block|lock_down|_off$|apply|password$|code$|forgive"
)
#: One click takes these back: the card or the person is put in again on the same page.
UNDONE_BY_ONE_CLICK = {"group_member_remove"}
NO_QUESTION = {"sign_in_code"}  # a code that one types


def asks_first(html: str) -> bool:
    """A heading that names it, words about what becomes of what, a button of its own and a way back."""
    main = html[html.index("<main") : html.index("</main>")]
    words = re.sub(r"<[^>]+>", " ", re.sub(r"<(button|a|label|h1)\b.*?</\1>", " ", main, flags=re.DOTALL))
    return ">Cancel</a>" in main and 'type="submit"' in main and len(words.split()) >= 8


def test_what_is_dangerous_asks_first_and_can_be_cancelled(building, administrator):
    settings_gone = {"people_days": "0", "enrollments_days": "0"}
    TOTPDevice.objects.create(user=administrator.user, name="phone", confirmed=True)
    Presence.objects.create(
        person=building.alice, site=building.site, zone=building.zone, since=timezone.now()
    )
    Person.objects.filter(pk=building.bob.pk).update(
        valid_from=timezone.now() - timedelta(days=9), valid_until=timezone.now() - timedelta(days=2)
    )
    asked = set()
    for name in OWN_PAGES:
        if not TAKES_AWAY.search(name) or name in UNDONE_BY_ONE_CLICK | NO_QUESTION:
            continue
        where = address(name, building)
        if name == "user_password":
            where = where.replace("/1/", f"/{administrator.user.pk}/")
        locked = {"lift_lock_down": True, "lock_down": False}.get(name, False)
        Site.objects.update(locked_down=locked, locked_down_at=timezone.now() if locked else None)
        answer = administrator.get(where, settings_gone if name == "retention_apply" else {})
        assert answer.status_code == 200, name
        assert asks_first(answer.content.decode()), name
        asked.add(name)
    assert {"person_erase", "consent_withdraw", "terminal_revoke", "retention_apply", "two_step_off"} <= asked
    assert len(asked) >= 18
    assert Person.objects.filter(pk=building.bob.pk).exists()


def test_forms_carry_a_token_against_forgery(building, administrator):
    for name in ("person_create", "rule_create", "lock_down", "sign_in"):
        client = administrator if name != "sign_in" else type(administrator)()
        html = client.get(
            reverse(name, args=[building.site.pk] if name == "lock_down" else [])
        ).content.decode()
        for form in re.findall(r'<form method="post".*?</form>', html, re.DOTALL):
            assert "csrfmiddlewaretoken" in form, name
