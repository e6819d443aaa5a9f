"""The pages of the settings: what they show, who may see it, and that nothing goes before somebody said so."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.conf import settings as configured
from django.urls import reverse
from django.utils import timezone

from accesscontrol.keys import key_lists
from audit.models import Entry
from enrollment.models import DataKey, Person
from tests.pages.conftest import administrator, building, signed_in  # noqa: F401

pytestmark = pytest.mark.django_db
DAYS = {"people_days": "30", "enrollments_days": "365"}


def test_models_state_their_figures_their_card_and_their_budgets(administrator, building):  # noqa: F811
    html = administrator.get(reverse("settings_models")).content.decode()
    assert "Privacy profile “balanced”" in html
    assert "Per coefficient" in html and "Per capture" in html
    assert "Measured figures and privacy statement" in html
    assert "<strong>" in html and "**" not in html
    assert "Templates of a model that is not here." in html  # the building's, of a model called tiny


def test_a_model_that_cannot_be_read_says_what_to_do(administrator, settings, tmp_path):  # noqa: F811
    settings.LINTEL_MODEL = str(tmp_path / "none")
    for page in ("settings", "settings_models", "settings_thresholds"):
        html = administrator.get(reverse(page)).content.decode()
        assert "LINTEL_MODEL" in html, page
        assert "cannot be read" in html, page


def test_thresholds_say_where_the_calibration_does_not_reach(administrator, settings):  # noqa: F811
    settings.LINTEL_TARGET_FPIR = 0.01
    html = administrator.get(reverse("settings_thresholds")).content.decode()
    assert "not enough data" in html
    assert "100,000" in html
    assert "measured" in html


def test_the_keys_of_the_configuration_are_named_and_never_shown(administrator, building):  # noqa: F811
    html = administrator.get(reverse("settings_keys")).content.decode()
    for name in ("LINTEL_KEY_ENCRYPTION_KEYS", "LINTEL_GALLERY_KEYS", "LINTEL_SIGNING_KEYS"):
        (key_id, key), *_ = getattr(configured, name)
        assert name in html and key_id in html
        assert key.hex() not in html


def key_list(at, place: int = 0):
    return key_lists(at)[place]


def test_an_older_key_that_is_still_needed_asks_for_a_rotation(building, settings):  # noqa: F811
    now = timezone.now()
    ((key_id, key), *_) = settings.LINTEL_KEY_ENCRYPTION_KEYS
    DataKey.objects.create(person=building.alice, wrapped=b"w", kek_id=key_id, created_at=now)
    assert key_list(now).tone == "yes"
    settings.LINTEL_KEY_ENCRYPTION_KEYS = [("new", b"n" * 32), (key_id, key)]
    assert (key_list(now).tone, "rotate_keys" in key_list(now).hint) == ("warn", True)
    settings.LINTEL_KEY_ENCRYPTION_KEYS = [("new", b"n" * 32)]
    assert key_list(now).tone == "no"
    assert key_id in key_list(now).hint


def test_a_key_older_than_a_year_asks_for_a_new_one_and_one_that_nothing_needs_may_go(building, settings):  # noqa: F811
    now = timezone.now()
    settings.LINTEL_KEY_ENCRYPTION_KEYS = [("only", b"o" * 32)]
    DataKey.objects.create(
        person=building.alice, wrapped=b"w", kek_id="only", created_at=now - timedelta(days=400)
    )
    from audit.models import PersonalField

    PersonalField.objects.update(key_id="only")
    assert "Older than a year" in key_list(now).hint
    settings.LINTEL_KEY_ENCRYPTION_KEYS = [("only", b"o" * 32), ("old", b"p" * 32)]
    assert "Nothing needs old any more" in key_list(now).hint


@pytest.fixture
def over(building):  # noqa: F811
    now = timezone.now()
    Person.objects.filter(pk=building.bob.pk).update(
        valid_from=now - timedelta(days=90), valid_until=now - timedelta(days=40)
    )
    return building.bob


def test_a_rehearsal_of_retention_names_whom_it_would_erase_and_changes_nothing(administrator, over):  # noqa: F811
    before = Entry.objects.count()
    html = administrator.get(reverse("settings_retention"), DAYS).content.decode()
    assert "Bob Example" in html and "Alice Example" not in html
    assert administrator.get(reverse("retention_apply"), DAYS).status_code == 200
    assert (Person.objects.filter(pk=over.pk).exists(), Entry.objects.count()) == (True, before)


def test_retention_is_applied_by_a_post_alone_and_recorded(administrator, over):  # noqa: F811
    assert administrator.post(reverse("retention_apply"), DAYS).status_code == 302
    assert not Person.objects.filter(pk=over.pk).exists()
    assert Entry.objects.filter(kind="retention.applied", actor="administrator").count() == 1


@pytest.mark.parametrize("days", [{}, {"people_days": "-1", "enrollments_days": "1"}, {"people_days": "x"}])
def test_days_that_make_no_sense_erase_nobody(administrator, over, days):  # noqa: F811
    administrator.post(reverse("retention_apply"), days)
    assert Person.objects.filter(pk=over.pk).exists()
    if days:
        assert administrator.get(reverse("settings_retention"), days).status_code == 422


def test_an_auditor_reads_the_settings_and_applies_nothing(signed_in, over):  # noqa: F811
    auditor = signed_in("auditor")
    for page in ("settings", "settings_models", "settings_thresholds", "settings_keys", "settings_retention"):
        assert auditor.get(reverse(page)).status_code == 200, page
    html = auditor.get(reverse("settings_retention"), DAYS).content.decode()
    assert reverse("retention_apply") not in html
    assert "An administrator can apply the rules" in html
    assert auditor.post(reverse("retention_apply"), DAYS).status_code == 403
    assert Person.objects.filter(pk=over.pk).exists()


@pytest.mark.parametrize("role", ["guard", "enroller", "integrator"])
def test_nobody_else_opens_the_settings_or_sees_them_in_the_navigation(signed_in, building, role):  # noqa: F811
    client = signed_in(role)
    assert client.get(reverse("settings")).status_code == 403
    assert f'href="{reverse("settings")}"' not in client.get("/").content.decode()


def test_the_table_of_roles_says_what_the_gate_enforces(administrator):  # noqa: F811
    rows = dict(administrator.get(reverse("users")).context["abilities"])
    assert rows["Change users and roles"] == [True, False, False, False, False]
    assert rows["Read, verify and export the audit log"] == [True, False, False, True, False]
    assert rows["Make API tokens"] == [True, False, False, False, True]


def test_rules_by_which_nothing_is_due_offer_nothing_to_apply_and_ask_nothing(administrator, building):  # noqa: F811
    never = {"people_days": "3000", "enrollments_days": "3000"}
    page = administrator.get(reverse("settings_retention"), never).content.decode()
    assert "there is nothing to apply" in page
    assert reverse("retention_apply") not in page
    before = Entry.objects.count()
    for answer in (
        administrator.get(reverse("retention_apply"), never, follow=True),
        administrator.post(reverse("retention_apply"), never, follow=True),
    ):
        assert answer.redirect_chain[-1][0].startswith(reverse("settings_retention"))
        assert "nothing was changed" in answer.content.decode()
    assert Entry.objects.count() == before
