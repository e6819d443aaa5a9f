"""Reading the environment: typed, loud, and strict about secrets."""

from __future__ import annotations

import base64
import os

import pytest

from accesscontrol.environment import (
    Environment,
    EnvironmentProblems,
    format_keys,
    generate_secrets,
    parse_database_url,
    parse_env_file,
    parse_keys,
    secret_key_problem,
)


def key(seed: int) -> bytes:
    return bytes((seed * 37 + i * 11) % 256 for i in range(32))


def test_all_problems_are_named_at_once() -> None:
    env = Environment({"A": "perhaps", "B": "ten", "C": "99"})
    env.flag("A", False)
    env.integer("B", 1, minimum=0, maximum=10)
    env.integer("C", 1, minimum=0, maximum=10)
    env.required("D", "it is needed")

    with pytest.raises(EnvironmentProblems) as raised:
        env.refuse_problems()

    assert [line.split()[0] for line in raised.value.problems] == ["A", "B", "C", "D"]


def test_a_number_that_is_not_finite_lies_between_no_bounds() -> None:
    env = Environment({"A": "nan", "B": "inf"})
    env.number("A", 0.5, minimum=0, maximum=1)
    env.number("B", 0.5, minimum=0, maximum=1)
    assert len(env.problems) == 2


def test_keys_survive_being_written_and_read_newest_first() -> None:
    keys = [("new", key(1)), ("old", key(2))]
    assert parse_keys(format_keys(keys)) == keys


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (base64.b64encode(key(1)).decode(), "id:base64"),
        ("a:not base64!", "not valid base64"),
        (f"a:{base64.b64encode(key(1)[:16]).decode()}", "16 bytes"),
        (f"a:{base64.b64encode(bytes(32)).decode()}", "weak"),
        (format_keys([("a", key(1)), ("a", key(2))]), "twice"),
        (format_keys([("a", key(1)), ("b", key(1))]), "repeats"),
    ],
)
def test_a_bad_key_is_refused_with_a_reason_and_never_shown(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as raised:
        parse_keys(text)
    assert base64.b64encode(key(1)).decode() not in str(raised.value)


def test_no_keys_are_an_empty_list() -> None:
    assert parse_keys("") == []


@pytest.mark.parametrize(
    "weak", ["", "short", "a" * 60, "django-insecure-" + "qwertyuiopasdfghjklzxcvbnm0123456789" * 2]
)
def test_a_weak_secret_key_is_named_weak(weak: str) -> None:
    assert secret_key_problem(weak) is not None


def test_generated_secrets_are_strong_and_of_their_own() -> None:
    secrets = generate_secrets(os.urandom, key_id="k1")
    assert secret_key_problem(secrets["LINTEL_SECRET_KEY"]) is None
    all_keys = [
        parse_keys(secrets[name])
        for name in ("LINTEL_KEY_ENCRYPTION_KEYS", "LINTEL_GALLERY_KEYS", "LINTEL_SIGNING_KEYS")
    ]
    assert all(len(keys) == 1 and keys[0][0] == "k1" for keys in all_keys)
    assert len({keys[0][1] for keys in all_keys}) == 3
    assert secrets != generate_secrets(os.urandom, key_id="k1")


def test_a_database_url_becomes_djangos_settings() -> None:
    database = parse_database_url("postgresql://lin%40tel:p%3Ass@db.example:5433/doors?sslmode=require")
    assert database == {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "doors",
        "USER": "lin@tel",
        "PASSWORD": "p:ss",
        "HOST": "db.example",
        "PORT": "5433",
        "OPTIONS": {"sslmode": "require"},
    }


def test_a_socket_folder_may_be_the_host() -> None:
    assert parse_database_url("postgresql:///doors?host=/run/postgresql")["HOST"] == "/run/postgresql"


@pytest.mark.parametrize(
    "url", ["mysql://a/b", "sqlite:///x", "postgresql://host", "postgresql://host:port/name"]
)
def test_another_database_or_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        parse_database_url(url)


def test_an_env_file_with_a_broken_line_says_which_without_showing_it() -> None:
    assert parse_env_file("# comment\n\nA = 1=2 \n") == {"A": "1=2"}
    with pytest.raises(ValueError, match="line 2") as raised:
        parse_env_file("A=1\nhush\n")
    assert "hush" not in str(raised.value)
