"""Signing in: password, lockout, the second step, and where one lands."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from axes.models import AccessAttempt, AccessLog
from django.apps import apps
from django.contrib.auth import SESSION_KEY
from django.contrib.auth.hashers import Argon2PasswordHasher
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django_otp.oath import TOTP
from django_otp.plugins.otp_static.models import StaticToken
from django_otp.plugins.otp_totp.models import TOTPDevice

from accesscontrol import settings as product_settings
from accesscontrol.views.account import PENDING
from audit.models import Entry, PersonalField
from audit.services import open_personal, verify_all
from tests.pages.support import PASSWORD, make_user


def post(client: Client, name: str = "alma", password: str = PASSWORD, **more):
    return client.post(reverse("sign_in"), {"username": name, "password": password, **more})


def code_of(device: TOTPDevice) -> str:
    totp = TOTP(device.bin_key, device.step, device.t0, device.digits, device.drift)
    totp.time = timezone.now().timestamp()
    return f"{totp.token():06d}"


@pytest.fixture
def alma(db):
    return make_user("alma", "administrator")


@pytest.fixture
def device(alma) -> TOTPDevice:
    return TOTPDevice.objects.create(user=alma, name="phone", confirmed=True)


def is_signed_in(client: Client) -> bool:
    return SESSION_KEY in client.session


def test_the_right_password_signs_in_and_leads_to_the_page_that_was_asked_for(alma, client):
    answer = post(client, next="/doors/")
    assert answer.status_code == 302
    assert answer["Location"] == "/doors/"
    assert is_signed_in(client)
    assert Entry.objects.filter(kind="user.signed_in", actor="alma").count() == 1


@pytest.mark.parametrize(
    "target", ["https://evil.example/", "//evil.example", "javascript:alert(1)", "\\\\evil"]
)
def test_a_foreign_address_is_never_followed(alma, client, target):
    assert post(client, next=target)["Location"] == "/"


def test_a_wrong_password_keeps_the_name_and_says_what_to_do(alma, client):
    answer = post(client, password="wrong")
    html = answer.content.decode()
    assert answer.status_code == 422
    assert 'value="alma"' in html
    assert "do not fit together" in html
    assert "wrong" not in html
    assert not is_signed_in(client)
    entry = Entry.objects.get(kind="user.sign_in_failed")
    assert entry.subject == f"user:{alma.pk}"
    assert open_personal(entry) == {"username": "alma"}
    assert "alma" not in entry.details_json + entry.commitments_json + entry.subject


def test_the_names_of_failed_sign_ins_go_with_the_account_and_the_log_still_proves_itself(alma, client):
    post(client, password="wrong")
    subject = f"user:{alma.pk}"
    alma.delete()
    entry = Entry.objects.get(kind="user.sign_in_failed", subject=subject)
    assert open_personal(entry) == {}
    assert not PersonalField.objects.filter(entry=entry).exists()
    assert verify_all().ok
    assert verify_all().erased_fields >= 1


def every_row() -> str:
    return "\n".join(str(row) for model in apps.get_models() for row in model.objects.values_list())


def test_a_name_that_nobody_has_is_kept_nowhere(alma, client):
    post(client, name="hunter2 in the wrong box", password="wrong")
    entry = Entry.objects.get(kind="user.sign_in_failed")
    assert (entry.subject, entry.details, open_personal(entry)) == ("", {"known_name": False}, {})
    assert "alma" in every_row()
    assert "hunter2" not in every_row()


def test_failures_are_counted_under_a_hash_of_the_name(alma, client):
    post(client, password="wrong")
    (counted,) = AccessAttempt.objects.all()
    assert counted.failures_since_start == 1
    assert "alma" not in f"{counted.username} {counted.post_data} {counted.get_data}"
    post(client)
    assert not AccessAttempt.objects.exists()
    assert not AccessLog.objects.exists()


def test_an_unknown_name_gets_the_same_answer_as_a_wrong_password(alma, client):
    strip = re.compile(r'value="[^"]*"')
    known = strip.sub("", post(client, password="wrong").content.decode())
    unknown = strip.sub("", post(client, name="nobody", password="wrong").content.decode())
    assert known == unknown


def test_five_wrong_passwords_lock_the_name_and_say_for_how_long(alma, client, settings):
    for _ in range(settings.AXES_FAILURE_LIMIT):
        answer = post(client, password="wrong")
    assert answer.status_code == 429
    assert "locked for 15 minutes" in answer.content.decode()
    assert answer["Retry-After"] == "900"
    right = post(client)
    assert right.status_code == 429
    assert not is_signed_in(client)


def test_a_lockout_does_not_reach_somebody_at_another_address(alma, settings):
    stranger = Client(REMOTE_ADDR="203.0.113.7")
    for _ in range(settings.AXES_FAILURE_LIMIT + 1):
        post(stranger, password="wrong")
    assert post(Client(REMOTE_ADDR="203.0.113.8")).status_code == 302


def test_a_switched_off_user_is_not_let_in(alma, client):
    alma.is_active = False
    alma.save()
    assert post(client).status_code == 422


def test_signing_out_needs_a_post_and_ends_the_session(alma, client):
    post(client)
    assert client.get(reverse("sign_out")).status_code == 405
    assert is_signed_in(client)
    assert client.post(reverse("sign_out")).status_code == 302
    assert not is_signed_in(client)


def test_a_form_without_its_token_is_refused_with_a_page_that_says_what_to_do(alma):
    strict = Client(enforce_csrf_checks=True)
    answer = post(strict)
    assert answer.status_code == 403
    assert "The form is too old" in answer.content.decode()
    assert not is_signed_in(strict)


def test_production_hashes_passwords_with_argon2():
    assert product_settings.PASSWORD_HASHERS[0].endswith("Argon2PasswordHasher")


def test_with_a_second_step_the_password_alone_signs_nobody_in(alma, device, client):
    answer = post(client, next="/doors/")
    assert answer["Location"].startswith(reverse("sign_in_code"))
    assert not is_signed_in(client)
    assert client.get("/doors/").status_code == 302
    done = client.post(reverse("sign_in_code"), {"code": code_of(device), "next": "/doors/"})
    assert done["Location"] == "/doors/"
    assert is_signed_in(client)


def test_a_wrong_code_is_refused_and_a_code_works_once(alma, device, client):
    post(client)
    assert client.post(reverse("sign_in_code"), {"code": "000000"}).status_code == 422
    assert not is_signed_in(client)
    TOTPDevice.objects.update(throttling_failure_count=0, throttling_failure_timestamp=None)
    code = code_of(device)
    client.post(reverse("sign_in_code"), {"code": code})
    assert is_signed_in(client)
    again = Client()
    post(again)
    assert again.post(reverse("sign_in_code"), {"code": code}).status_code == 422
    assert not is_signed_in(again)


def test_the_second_step_is_only_open_for_some_minutes(alma, device, client):
    post(client)
    session = client.session
    session[PENDING] = {**session[PENDING], "at": (timezone.now() - timedelta(minutes=6)).timestamp()}
    session.save()
    answer = client.post(reverse("sign_in_code"), {"code": code_of(device)})
    assert answer["Location"].startswith(reverse("sign_in"))
    assert not is_signed_in(client)


def test_the_second_step_without_the_first_leads_back_to_it(db, client):
    assert client.get(reverse("sign_in_code"))["Location"] == reverse("sign_in")


def set_up_second_step(client: Client, user) -> list[str]:
    page = client.get(reverse("two_step")).content.decode()
    device = TOTPDevice.objects.get(user=user)
    assert "data:image/svg+xml;base64," in page
    answer = client.post(reverse("two_step"), {"code": code_of(device)})
    return re.findall(r"[0-9a-f]{6}-[0-9a-f]{6}", answer.content.decode())


def test_setting_up_shows_recovery_codes_once_and_keeps_only_their_digests(alma, client):
    post(client)
    codes = set_up_second_step(client, alma)
    assert len(set(codes)) == 8
    assert not StaticToken.objects.filter(token__in=codes).exists()
    assert codes[0] not in client.get(reverse("account")).content.decode()


def test_a_secret_that_was_never_confirmed_locks_nobody_out(alma, client):
    post(client)
    client.get(reverse("two_step"))
    assert post(Client())["Location"] == "/"


def test_a_recovery_code_signs_in_once(alma, client):
    post(client)
    code = set_up_second_step(client, alma)[0]
    first, second = Client(), Client()
    post(first)
    first.post(reverse("sign_in_code"), {"code": code.upper()})
    assert is_signed_in(first)
    post(second)
    second.post(reverse("sign_in_code"), {"code": code})
    assert not is_signed_in(second)


def test_turning_the_second_step_off_asks_for_a_code(alma, device, client):
    client.force_login(alma, backend="django.contrib.auth.backends.ModelBackend")
    assert client.post(reverse("two_step_off"), {"code": "000000"}).status_code == 422
    assert TOTPDevice.objects.filter(user=alma).exists()
    TOTPDevice.objects.update(throttling_failure_count=0, throttling_failure_timestamp=None)
    client.post(reverse("two_step_off"), {"code": code_of(device)})
    assert not TOTPDevice.objects.filter(user=alma).exists()


def test_changing_the_password_needs_the_old_one_and_signs_out_other_sessions(alma, client):
    other = Client()
    post(client), post(other)
    new = {"new_password1": "a lantern over the quay", "new_password2": "a lantern over the quay"}
    assert client.post(reverse("password_change"), {"old_password": "wrong", **new}).status_code == 422
    assert client.post(reverse("password_change"), {"old_password": PASSWORD, **new}).status_code == 302
    assert client.get(reverse("account")).status_code == 200
    assert other.get(reverse("account")).status_code == 302


def test_a_chosen_time_zone_is_used_and_an_invented_one_is_refused(alma, client, building):
    post(client)
    assert "Europe/Vienna" in client.get(reverse("account")).content.decode()
    client.post(reverse("time_zone"), {"zone": "Asia/Tokyo"})
    assert "Asia/Tokyo" in client.get(reverse("account")).content.decode()
    client.post(reverse("time_zone"), {"zone": "Mars/Olympus"}, follow=True)
    client.cookies["lintel_time_zone"] = "Mars/Olympus"
    assert client.get(reverse("account")).status_code == 200


def test_new_recovery_codes_ask_for_a_code_and_replace_the_old_ones(alma, device, client):
    """Each recovery code is a second step: an unattended screen must not hand out eight of them."""
    client.force_login(alma, backend="django.contrib.auth.backends.ModelBackend")
    for data in ({}, {"code": ""}, {"code": "000000"}):
        refused = client.post(reverse("two_step_codes"), data)
        assert "account/recovery_codes.html" not in [template.name for template in refused.templates]
    assert not StaticToken.objects.exists()
    TOTPDevice.objects.update(throttling_failure_count=0, throttling_failure_timestamp=None)
    shown = client.post(reverse("two_step_codes"), {"code": code_of(device)}).content.decode()
    assert len(set(re.findall(r"[0-9a-f]{6}-[0-9a-f]{6}", shown))) == 8
    assert StaticToken.objects.count() == 8


def test_a_wrong_code_after_a_right_password_is_in_the_log(alma, device, client):
    post(client)
    client.post(reverse("sign_in_code"), {"code": "000000"})
    entry = Entry.objects.get(kind="user.sign_in_failed")
    assert (entry.actor, entry.subject) == ("anonymous", f"user:{alma.pk}")
    assert entry.details == {"known_name": True, "second_step": True}


def test_another_spelling_of_a_name_or_a_claimed_address_gives_no_further_tries(alma, settings):
    """Forms fold full-width letters and blanks; nobody in front of this server says where a request came from."""
    settings.LINTEL_PROXY_HOPS = 0
    spellings = ["alma", "\uff41lma", " alma ", "al\uff4da", "alma"]
    for number, name in enumerate(spellings):
        liar = Client(headers={"X-Forwarded-For": f"203.0.113.{number}", "X-Real-IP": f"203.0.113.{number}"})
        answer = post(liar, name=name, password="wrong")
    assert len(spellings) == settings.AXES_FAILURE_LIMIT
    assert answer.status_code == 429
    assert post(Client()).status_code == 429


def test_signing_in_changes_the_session(alma, client):
    """A session that somebody else put into this browser is nobody's afterwards."""
    session = client.session
    session["planted"] = True
    session.save()
    client.cookies["lintel_session"] = planted = session.session_key
    post(client)
    assert client.session.session_key != planted
    fixed = Client()
    fixed.cookies["lintel_session"] = planted
    assert not is_signed_in(fixed)


@pytest.mark.parametrize("name", ["alma", "nobody", "former"])
def test_a_password_is_hashed_once_whether_or_not_somebody_has_the_name(
    alma, client, settings, monkeypatch, name
):
    """How long an answer takes tells nobody which names exist: Argon2 is all of that time."""
    settings.PASSWORD_HASHERS = product_settings.PASSWORD_HASHERS
    former = make_user("former", "guard")
    former.is_active = False
    for user in (alma, former):
        user.set_password(PASSWORD)
        user.save()
    hashed = []
    for work in ("encode", "verify"):
        original = getattr(Argon2PasswordHasher, work)
        monkeypatch.setattr(
            Argon2PasswordHasher,
            work,
            lambda self, *arguments, _do=original, **named: (
                hashed.append(1) or _do(self, *arguments, **named)
            ),
        )
    assert post(client, name=name, password="wrong").status_code == 422
    assert len(hashed) == 1
