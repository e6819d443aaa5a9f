"""What leaves the server is checked without the server, and one changed bit is enough to be caught."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from audit import export, services
from audit.models import Checkpoint
from audit.note import verifier_key
from audit.verify_export import ExportError, main, read_export, verify_export

AT = datetime(2026, 11, 24, 9, tzinfo=UTC)
BOB = "person:b0b"


@pytest.fixture
def under(db: None) -> Checkpoint:
    for index in range(7):
        services.record(
            kind="door.changed", actor="=1+2", at=AT, subject="'quoted", details={"name": f'Tür "{index}"\n'}
        )
    services.record(
        kind="person.registered", actor="ada", at=AT, subject=BOB, personal={"full_name": "Bob, Rose"}
    )
    services.record(kind="door.changed", actor="ada", at=AT, details={"score": 1e-7, "none": None})
    return services.checkpoint(AT)


def write(
    folder: Path, suffix: str, under: Checkpoint, *, with_personal: bool = True, **filters: Any
) -> Path:
    found = services.find_entries(**filters)
    if suffix == "csv":
        lines = export.as_csv(found=found, under=under, with_personal=with_personal)
    else:
        lines = export.as_json(found=found, under=under, with_personal=with_personal, filters={})
    file = folder / f"log.{suffix}"
    file.write_bytes("".join(lines).encode())
    return file


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_an_export_verifies_with_the_key_one_was_given(tmp_path: Path, under: Checkpoint, kind: str) -> None:
    result = verify_export(read_export(write(tmp_path, kind, under)), trusted=services.verifier_keys())
    assert (result.entries, result.disclosed, result.checkpoint.size) == (9, 1, 9)


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_an_export_of_some_entries_verifies_too(tmp_path: Path, under: Checkpoint, kind: str) -> None:
    services.record(kind="door.changed", actor="ada", at=AT)  # after the checkpoint: stays out
    for filters, count in (({"kind": "person"}, 1), ({"actor": "ada"}, 2), ({"kind": "nothing.here"}, 0)):
        file = write(tmp_path, kind, under, with_personal=False, **filters)
        result = verify_export(read_export(file))
        assert (result.entries, result.disclosed) == (count, 0)
        assert "Bob" not in file.read_text()


def test_after_erasure_the_export_verifies_and_names_nobody(tmp_path: Path, under: Checkpoint) -> None:
    services.forget(BOB)
    file = write(tmp_path, "json", under)
    assert verify_export(read_export(file)).disclosed == 0
    assert "Bob" not in file.read_text()


def test_long_exports_are_read_in_chunks(
    tmp_path: Path, under: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "CHUNK", 2)
    assert verify_export(read_export(write(tmp_path, "json", under))).entries == 9


def test_spreadsheets_do_not_compute_what_a_terminal_or_user_named(tmp_path: Path, under: Checkpoint) -> None:
    for line in write(tmp_path, "csv", under).read_text().splitlines():
        assert ",=1+2" not in line


def flip(text: str) -> str:
    """The last character of a hash with one bit changed."""
    return text[:-1] + format(int(text[-1], 16) ^ 1, "x")


def spoil(data: dict[str, Any], how: str) -> None:
    last = data["entries"][7]
    if how == "the actor":
        last["entry"]["actor"] = "adb"
    elif how == "a detail":
        data["entries"][8]["entry"]["details"]["score"] = 2e-7
    elif how == "an index":
        last["entry"]["index"] = 6
    elif how == "a hash of a path":
        last["path"][1] = flip(last["path"][1])
    elif how == "a leaf":
        last["leaf_hash"] = flip(last["leaf_hash"])
    elif how == "a salt":
        last["personal"]["full_name"]["salt"] = flip(last["personal"]["full_name"]["salt"])
    elif how == "a personal value":
        last["personal"]["full_name"]["value"] = "Eve"
    elif how == "a personal field that was never recorded":
        last["personal"]["email"] = last["personal"]["full_name"]
    elif how == "a commitment":
        last["entry"]["personal"]["full_name"] = flip(last["entry"]["personal"]["full_name"])
    elif how == "the size in the checkpoint":
        data["checkpoint"] = data["checkpoint"].replace("\n9\n", "\n8\n")
    elif how == "the order":
        data["entries"].reverse()
    elif how == "an entry twice":
        data["entries"].append(data["entries"][-1])
    elif how == "the format":
        data["format"] = "lintel-audit-export/2"
    else:
        del data["checkpoint"]


@pytest.mark.parametrize(
    "how",
    [
        "the actor", "a detail", "an index", "a hash of a path", "a leaf", "a salt", "a personal value",
        "a personal field that was never recorded", "a commitment", "the size in the checkpoint", "the order",
        "an entry twice", "the format", "a missing checkpoint",
    ],
)  # fmt: skip
def test_an_export_proves_nothing_once_somebody_changed(
    tmp_path: Path, under: Checkpoint, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, "json", under)
    data = json.loads(file.read_text())
    spoil(data, how)
    file.write_text(json.dumps(data))
    with pytest.raises(ExportError):
        verify_export(read_export(file))
    assert main([str(file)]) == 1
    assert "NOT PROVEN" in capsys.readouterr().out


def test_an_export_signed_by_somebody_else_does_not_pass_for_ours(tmp_path: Path, under: Checkpoint) -> None:
    file = write(tmp_path, "json", under)
    stranger = verifier_key(services.verifier_keys()[0].name, bytes(range(32)))
    with pytest.raises(ExportError, match="no known key"):
        verify_export(read_export(file), trusted=[stranger])


@pytest.mark.parametrize("text", ["", "{}", "index,at\n1,2\n", "\x00", '{"format": "lintel-audit-export/1"}'])
def test_a_file_that_is_no_export_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "file"
    file.write_text(text)
    assert main([str(file)]) == 1


def test_the_verifier_runs_alone_without_django(tmp_path: Path, under: Checkpoint) -> None:
    file = write(tmp_path, "json", under)
    code = (
        "import sys; from audit.verify_export import main; status = main(sys.argv[1:]);"
        " assert not [name for name in sys.modules if name.startswith('django')]; sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(file), "--key", str(services.verifier_keys()[0])],
        capture_output=True, text=True, cwd=Path(__file__).parents[2], env={"PYTHONPATH": "."}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("Proven: 9 entries")
