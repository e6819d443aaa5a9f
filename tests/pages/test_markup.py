"""What every page must hold in its markup. The browser tests see the same pages run."""

from __future__ import annotations

import re

from django.urls import reverse

from accesscontrol.roles import PUBLIC
from tests.pages.test_roles import NO_GET, OWN_PAGES, POST_ONLY, address

INLINE = re.compile(
    r"""<style|\sstyle=|\son[a-z]+=|=["']?javascript:|<script(?![^>]*\ssrc=)""", re.IGNORECASE
)
ELSEWHERE = re.compile(r"""(?:src|href|action)=["'](?:https?:)?//""", re.IGNORECASE)


def test_no_page_holds_inline_code_or_points_to_another_server(building, administrator):
    for name in OWN_PAGES:
        if name in NO_GET or name in POST_ONLY:
            continue
        html = administrator.get(address(name, building)).content.decode()
        assert not INLINE.search(html), f"{name}: {INLINE.search(html)[0]}"
        assert not ELSEWHERE.search(html), f"{name}: {ELSEWHERE.search(html)[0]}"


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


def test_what_is_dangerous_asks_first_and_can_be_cancelled(building, administrator):
    for name in (
        "person_erase",
        "consent_withdraw",
        "zone_delete",
        "holiday_delete",
        "rule_delete",
        "group_delete",
        "schedule_delete",
        "terminal_revoke",
        "terminal_code",
        "token_revoke",
        "user_password",
        "lock_down",
    ):
        html = administrator.get(address(name, building)).content.decode()
        assert ">Cancel</a>" in html, name


def test_forms_carry_a_token_against_forgery(building, administrator):
    for name in ("person_create", "rule_create", "lock_down", "sign_in"):
        client = administrator if name != "sign_in" else type(administrator)()
        html = client.get(
            reverse(name, args=[building.site.pk] if name == "lock_down" else [])
        ).content.decode()
        for form in re.findall(r'<form method="post".*?</form>', html, re.DOTALL):
            assert "csrfmiddlewaretoken" in form, name
