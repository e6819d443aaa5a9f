"""Who is enrolled in the demo and who stays a stranger, and what its last line says. The whole demo: tests/flows."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from django.core.management import CommandError, call_command
from rich.console import Console

from accesscontrol.demonstration import scene
from accesscontrol.demonstration.pictures import NoPicturesError, Picture, halves, pictures_of_folder
from accesscontrol.management.commands import demo


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five people, four pictures each, beside what is no picture of anybody."""
    for shade, person in enumerate(("eve", "ada", "cyd", "dan", "bob")):
        for number in (10, 1, 2, 3):
            picture = np.full((20, 20, 3), 40 * shade + number, np.uint8)
            cv2.imwrite(str(tmp_path / f"{person}_{number}.jpg"), picture)
    (tmp_path / "notes.txt").write_text("who they are")
    (tmp_path / "group.jpg").write_bytes(b"nobody in particular")
    return tmp_path


def test_a_folder_gives_people_and_their_pictures_in_order(folder: Path) -> None:
    pictures = pictures_of_folder(folder)
    assert [picture.name for picture in pictures[:5]] == ["ada_1", "ada_2", "ada_3", "ada_10", "bob_1"]
    assert len(pictures) == 20
    assert abs(pictures[0].read().mean() - 41) < 3


def test_the_first_half_of_the_sorted_people_is_enrolled(folder: Path) -> None:
    assert halves(pictures_of_folder(folder)) == (["ada", "bob"], ["cyd", "dan", "eve"])


@pytest.mark.parametrize("names", [[], ["ada_1.jpg", "ada_2.jpg"], ["ada.jpg", "bob.jpg"]])
def test_a_folder_that_shows_nothing_says_what_it_lacks(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(NoPicturesError, match="two people or more"):
        pictures_of_folder(tmp_path)
    with pytest.raises(CommandError, match="is not a folder"):
        call_command("demo", "--inside", frames=tmp_path / "nowhere")


def test_three_pictures_enroll_and_everybody_tries_with_the_rest(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The scene is an empty stage here: who is sent to the desk and to the door is what counts."""
    enrolled: dict[str, list[str]] = {}
    came: list[tuple[str, bool]] = []

    class Stage(SimpleNamespace):
        tally = scene.Tally()
        station = SimpleNamespace(
            profile=SimpleNamespace(
                name="p", transform="critical", epsilon_mean_per_coefficient=1.0, epsilon_per_capture=1.0
            )
        )

        def enroll(self, name: str, pictures: list[Picture]) -> None:
            enrolled[name] = [picture.name for picture in pictures]
            self.tally.enrolled += 1

        def approach(self, picture: Picture, *, enrolled: bool) -> None:
            came.append((picture.name, enrolled))
            self.tally.tries.append(scene.Try(picture.name, enrolled, enrolled, 12.0, 100))

    class Server:
        def __enter__(self) -> str:
            return "http://127.0.0.1:1"

        def __exit__(self, *error: Any) -> None:
            pass

    monkeypatch.setattr(demo, "running_server", lambda *_, **__: Server())
    monkeypatch.setattr(demo, "_prepare", lambda stack, console, url: Stage())
    monkeypatch.setattr(demo, "_audit_holds", lambda console: True)
    monkeypatch.setattr(demo, "Console", lambda **more: Console(quiet=True))
    demo._play(folder)
    assert enrolled == {"ada": ["ada_1", "ada_2", "ada_3"], "bob": ["bob_1", "bob_2", "bob_3"]}
    assert [name for name, is_enrolled in came if is_enrolled] == ["ada_10", "bob_10"]
    strangers = [name for name, is_enrolled in came if not is_enrolled]
    assert strangers == [f"{person}_{number}" for person in ("cyd", "dan", "eve") for number in (1, 2, 3, 10)]
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {
        "enrolled": 2, "genuine": 2, "genuine_accepted": 2, "impostor": 12, "impostor_accepted": 0,
        "p50_ms": 12.0, "p95_ms": 12.0, "payload_bytes": 100, "audit_verified": True,
    }  # fmt: skip
