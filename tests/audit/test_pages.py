"""Pages, commands and API, as their readers meet them."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from rest_framework.permissions import AllowAny
from rest_framework.test import APIRequestFactory

from audit import api, services, triggers, views
from audit.models import Checkpoint, Entry
from audit.sentences import describe, kinds, sentence_for
from audit.verify_export import read_export, verify_export

AT = datetime(2026, 11, 24, 9, tzinfo=UTC)
BOB = "person:b0b"
PAGES = ["/audit/", "/audit/entries/0/", "/audit/checkpoints/"]
ACTIONS = ["/audit/verify/", "/audit/sign/", "/audit/export/"]

pytestmark = pytest.mark.filterwarnings("ignore:No directory at:UserWarning")


@pytest.fixture
def sign_in(db: None) -> Callable[..., Client]:
    def as_member_of(*groups: str) -> Client:
        user = get_user_model().objects.create_user(f"user-{'-'.join(groups)}", password="correct horse")
        user.groups.set([Group.objects.get_or_create(name=name)[0] for name in groups])
        client = Client()
        client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
        return client

    return as_member_of


@pytest.fixture
def log(db: None) -> None:
    services.record(
        kind="person.registered", actor="ada", at=AT, subject=BOB, personal={"full_name": "Bob Rose"}
    )
    services.record(
        kind="attempt.settled", actor="terminal:lobby", at=AT + timedelta(days=1), subject=BOB,
        details={"granted": False, "reason": "outside_schedule"},
    )  # fmt: skip
    services.record(
        kind="door.changed", actor="<script>", at=AT + timedelta(days=2), details={"name": "Lobby"}
    )


def text_of(response: Any) -> str:
    return response.content.decode()


# Who may look


@pytest.mark.parametrize("role", ["administrator", "auditor"])
def test_administrators_and_auditors_open_every_page(
    log: None, sign_in: Callable[..., Client], role: str
) -> None:
    client = sign_in(role)
    assert [client.get(page).status_code for page in PAGES] == [200] * len(PAGES)


@pytest.mark.parametrize("role", ["guard", "enroller", "integrator"])
def test_nobody_else_does(log: None, sign_in: Callable[..., Client], role: str) -> None:
    client = sign_in(role)
    assert [client.get(page).status_code for page in PAGES] == [403] * len(PAGES)
    assert [client.post(page).status_code for page in ACTIONS] == [403] * len(ACTIONS)
    assert Entry.objects.count() == 3


def test_who_is_not_signed_in_is_asked_to(log: None) -> None:
    for response in [Client().get(page) for page in PAGES] + [Client().post(page) for page in ACTIONS]:
        assert response.status_code == 302


def test_the_views_refuse_by_themselves_without_the_gate(log: None, rf: Any) -> None:
    request = rf.get("/audit/")
    request.user = get_user_model().objects.create_user("guard")
    with pytest.raises(views.PermissionDenied):
        views.entries(request)


def test_looking_changes_nothing(log: None, sign_in: Callable[..., Client]) -> None:
    client = sign_in("auditor")
    for page in [*PAGES, *ACTIONS]:
        client.get(page)
    assert (Entry.objects.count(), Checkpoint.objects.count()) == (3, 0)


# What they see


def test_entries_read_in_plain_words_newest_first(log: None, sign_in: Callable[..., Client]) -> None:
    text = text_of(sign_in("auditor").get("/audit/"))
    assert text.index("Door changed: Lobby") < text.index("Kept out at a door: outside the hours")
    assert text.index("Kept out") < text.index("ada registered Bob Rose")
    assert "<script>" not in text.replace('<script type="module"', "")


def test_after_erasure_the_page_no_longer_names_the_person(log: None, sign_in: Callable[..., Client]) -> None:
    services.forget(BOB)
    client = sign_in("auditor")
    text = text_of(client.get("/audit/")) + text_of(client.get("/audit/entries/0/"))
    assert "Bob Rose" not in text
    assert "ada registered (erased)" in text


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ({"kind": "attempt"}, [1]),
        ({"subject": BOB}, [0, 1]),
        ({"actor": "ada"}, [0]),
        ({"text": "outside_schedule"}, [1]),
        ({"since": "2026-11-25T00:00"}, [1, 2]),
        ({"until": "2026-11-25T00:00"}, [0]),
        ({"actor": "nobody"}, []),
        ({"page": "99"}, [0, 1, 2]),
        ({"page": "x"}, [0, 1, 2]),
    ],
)
def test_filters(log: None, sign_in: Callable[..., Client], query: dict[str, str], shown: list[int]) -> None:
    response = sign_in("auditor").get("/audit/", query)
    assert sorted(line.entry.index for line in response.context["lines"]) == shown


def test_a_search_says_how_far_it_came_and_leads_on_unless_it_is_about_one_thing(
    log: None, sign_in: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "SEARCHED_AT_ONCE", 1)
    client = sign_in("auditor")
    first = client.get("/audit/", {"text": "outside_schedule"})
    assert first.context["lines"] == []
    assert "Nothing so far" in text_of(first) and "Searched back to entry 2" in text_of(first)
    assert "text=outside_schedule&amp;before=2" in text_of(first)
    second = client.get("/audit/", {"text": "outside_schedule", "before": "2"})
    assert [line.entry.index for line in second.context["lines"]] == [1]
    last = client.get("/audit/", {"text": "outside_schedule", "before": "1"})
    assert "Nothing fits" in text_of(last) and "data-further" not in text_of(last)
    about = client.get("/audit/", {"text": "outside_schedule", "subject": BOB})
    assert [line.entry.index for line in about.context["lines"]] == [1]


@pytest.mark.parametrize("query", [{"since": "yesterday"}, {"kind": "unknown.kind"}])
def test_a_filter_that_makes_no_sense_is_said(
    log: None, sign_in: Callable[..., Client], query: dict[str, str]
) -> None:
    response = sign_in("auditor").get("/audit/", query)
    assert response.status_code == 422
    assert response.context["lines"] == []


def test_long_logs_come_in_pages(
    log: None, sign_in: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "PAGE_SIZE", 2)
    response = sign_in("auditor").get("/audit/", {"before": "1"})
    assert [line.entry.index for line in response.context["lines"]] == [0]


def test_an_entry_shows_its_proof_once_a_checkpoint_is_signed(
    log: None, sign_in: Callable[..., Client]
) -> None:
    client = sign_in("auditor")
    assert "No signed checkpoint covers this entry yet" in text_of(client.get("/audit/entries/1/"))
    assert client.post("/audit/sign/", {"index": "1"})["Location"] == "/audit/entries/1/"
    text = text_of(client.get("/audit/entries/1/"))
    (path,) = services.prove_inclusions([1], size=3)
    assert all(item in text for item in path)
    assert Entry.objects.get(index=1).leaf.hex() in text


@pytest.mark.parametrize("index", [3, 2**62 + 1, 2**80])
def test_an_entry_that_is_not_there_is_not_found(
    log: None, sign_in: Callable[..., Client], index: int
) -> None:
    assert sign_in("auditor").get(f"/audit/entries/{index}/").status_code == 404


def tamper() -> None:
    connection.check_constraints()
    triggers.dangerously_remove(connection)
    Entry.objects.filter(index=1).update(details_json="{nonsense")


def test_the_verify_button_says_whole_or_names_the_entry(log: None, sign_in: Callable[..., Client]) -> None:
    client = sign_in("auditor")
    assert "The log is whole" in text_of(client.post("/audit/verify/"))
    tamper()
    text = text_of(client.post("/audit/verify/"))
    assert "The log is broken" in text
    assert "entry 1 was edited" in text
    assert "This entry cannot be read" in text_of(client.get("/audit/")) + text_of(
        client.get("/audit/entries/1/")
    )


def test_a_log_too_long_for_a_page_points_to_the_command(
    log: None, sign_in: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "VERIFY_ON_PAGE", 2)
    assert "manage.py verify_audit" in text_of(sign_in("auditor").post("/audit/verify/"))


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_an_export_verifies_offline_and_is_itself_recorded(
    log: None, sign_in: Callable[..., Client], tmp_path: Path, kind: str
) -> None:
    client = sign_in("auditor")
    response = client.post("/audit/export/", {"format": kind, "with_personal": "on"})
    assert response["Content-Disposition"].endswith(f'.{kind}"')
    file = tmp_path / f"log.{kind}"
    file.write_bytes(b"".join(response.streaming_content))  # type: ignore[attr-defined]
    result = verify_export(read_export(file), trusted=services.verifier_keys())
    assert (result.entries, result.disclosed) == (4, 1)
    last = Entry.objects.last()
    assert last is not None
    assert (last.kind, last.actor, last.details["with_personal"]) == ("audit.exported", "user-auditor", True)


def test_an_export_keeps_to_the_filters_and_names_nobody_unless_asked(
    log: None, sign_in: Callable[..., Client], tmp_path: Path
) -> None:
    response = sign_in("auditor").post("/audit/export/", {"format": "json", "subject": BOB})
    data = json.loads(b"".join(response.streaming_content))  # type: ignore[attr-defined]
    assert [item["entry"]["index"] for item in data["entries"]] == [0, 1]
    assert "Bob Rose" not in json.dumps(data)
    assert sign_in("administrator").post("/audit/export/", {"format": "pdf"}).status_code == 422


def test_another_app_registers_words_for_its_kinds() -> None:
    describe("lamp.lit", "{actor} lit the lamp at {place}, {unknown}")
    try:
        words = sentence_for(
            kind="lamp.lit", actor="ada", subject="", details={"place": "{actor}"}, personal={}
        )
        assert words == "ada lit the lamp at {actor}, …"
    finally:
        del kinds["lamp.lit"]


# Commands


def verify_command(*arguments: str) -> tuple[int, str]:
    out = StringIO()
    try:
        call_command("verify_audit", *arguments, stdout=out)
    except SystemExit as end:
        return int(end.code or 0), out.getvalue()
    return 0, out.getvalue()


def test_the_command_ends_with_one_when_the_log_is_broken(log: None) -> None:
    status, text = verify_command()
    assert (status, text.splitlines()[0]) == (0, "The audit log is whole: 3 entries, 0 checkpoints.")
    tamper()
    status, text = verify_command()
    assert status == 1
    assert "entry 1 was edited" in text
    status, text = verify_command("--json")
    assert status == 1
    assert json.loads(text)["first"]["index"] == 1


def test_a_checkpoint_from_the_command_is_checked_again_later(log: None, tmp_path: Path) -> None:
    out = StringIO()
    call_command("checkpoint_audit", stdout=out)
    kept = tmp_path / "kept"
    kept.write_text(out.getvalue())
    services.record(kind="door.changed", actor="ada", at=AT)
    assert verify_command("--checkpoint", str(kept))[0] == 0
    kept.write_text(out.getvalue().replace("\n3\n", "\n4\n"))
    with pytest.raises(CommandError, match="does not fit"):
        verify_command("--checkpoint", str(kept))
    keys = StringIO()
    call_command("checkpoint_audit", "--keys", stdout=keys)
    assert keys.getvalue().split() == [str(key) for key in services.verifier_keys()]


# API


def ask(view: type[api.AuditView], **query: Any) -> Any:
    request = APIRequestFactory().get("/", query)
    return view.as_view(permission_classes=[AllowAny])(request)


def test_the_api_answers_nobody_until_a_route_says_who_may_ask(log: None) -> None:
    for view in (api.EntriesView, api.ProofsView):
        assert view.as_view()(APIRequestFactory().get("/")).status_code in (401, 403)
        assert view.scopes == {"GET": "audit:read"}


def test_entries_come_in_order_and_in_pages_without_personal_values(log: None) -> None:
    first = ask(api.EntriesView, limit=2).data
    assert [entry["index"] for entry in first["entries"]] == [0, 1]
    assert first["next_after"] == 1
    second = ask(api.EntriesView, limit=2, after=1).data
    assert ([entry["index"] for entry in second["entries"]], second["next_after"]) == ([2], None)
    assert "Bob" not in str(first)
    assert [entry["index"] for entry in ask(api.EntriesView, kind="attempt").data["entries"]] == [1]


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ({"index": 9}, 404, "entry_unknown"),
        ({"index": 2}, 409, "not_covered"),
        ({"first": 0, "second": 9}, 404, "size_unknown"),
        ({"first": 3}, 404, "size_unknown"),
        ({}, 400, "invalid"),
        ({"index": 0, "first": 0}, 400, "invalid"),
        ({"index": "x"}, 400, "invalid"),
        ({"index": 2**70}, 400, "invalid"),
    ],
)
def test_what_cannot_be_proven_is_refused(db: None, query: dict[str, Any], status: int, code: str) -> None:
    for _ in range(2):
        services.record(kind="door.changed", actor="ada", at=AT)
    services.checkpoint(AT)
    services.record(kind="door.changed", actor="ada", at=AT)
    response = ask(api.ProofsView, **query)
    assert (response.status_code, response.data["code"]) == (status, code)


def test_the_api_proves_inclusion_and_consistency(log: None) -> None:
    services.checkpoint(AT)
    services.record(kind="door.changed", actor="ada", at=AT)
    services.checkpoint(AT)
    inclusion = ask(api.ProofsView, index=1).data
    assert inclusion == services.prove_inclusion(Entry.objects.get(index=1))
    consistency = ask(api.ProofsView, first=3).data
    assert (consistency["second"], consistency["path"]) == (4, services.prove_consistency(3, 4))
