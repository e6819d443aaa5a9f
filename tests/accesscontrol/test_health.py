"""Liveness, readiness and numbers."""

from __future__ import annotations

import pytest
from django.core.cache import cache
from django.db import DatabaseError
from django.test import Client
from pytest_django import Settings

from accesscontrol import health, metrics

TOKEN = "a-token-of-more-than-24-characters"


def test_healthz_answers_without_touching_the_database(client: Client) -> None:
    # No `db` fixture: a query would fail this test.
    response = client.get("/healthz")
    assert response.status_code == 200
    assert response.json() == {"status": "ok"}
    assert "no-store" in response["Cache-Control"]


@pytest.mark.django_db
@pytest.mark.database
def test_readyz_is_ready_when_the_database_answers(client: Client) -> None:
    response = client.get("/readyz")
    assert response.status_code == 200
    assert response.json() == {"status": "ready", "checks": {"database": "ok"}}


def test_readyz_is_not_ready_without_a_database_and_says_no_more(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone() -> bool:
        raise DatabaseError("password of lintel at 10.0.0.1 is wrong")

    monkeypatch.setattr(health, "_database_answers", gone)
    response = client.get("/readyz")
    assert response.status_code == 503
    assert response.json() == {"status": "not_ready", "checks": {"database": "failed"}}


@pytest.mark.django_db
@pytest.mark.redis
def test_production_is_ready_only_after_a_worker_was_heard(
    client: Client, settings: Settings, redis_url: str
) -> None:
    settings.LINTEL_MODE = "production"
    settings.CACHES = {
        "default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": redis_url}
    }

    response = client.get("/readyz", secure=True)
    assert response.status_code == 503
    assert response.json()["checks"] == {"database": "ok", "redis": "ok", "recognition_worker": "failed"}

    cache.set(health.WORKER_HEARD_KEY, True, timeout=health.WORKER_HEARD_TTL_S)
    assert client.get("/readyz", secure=True).status_code == 200


@pytest.mark.django_db
@pytest.mark.redis
def test_production_is_not_ready_when_redis_is_gone(client: Client, settings: Settings) -> None:
    settings.LINTEL_MODE = "production"
    settings.CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": "redis://127.0.0.1:1/0",
        }
    }
    response = client.get("/readyz", secure=True)
    assert response.status_code == 503
    assert response.json()["checks"]["redis"] == "failed"


def test_metrics_are_for_this_machine(client: Client) -> None:
    metrics.observe_attempt(granted=False, reason="no_match", seconds=0.123)
    body = client.get("/metrics").content.decode()
    assert 'lintel_attempts_total{outcome="denied",reason="no_match"}' in body
    assert "lintel_attempt_seconds_bucket" in body


@pytest.mark.parametrize("authorization", ["", "Bearer wrong", f"Basic {TOKEN}", "Bearer "])
def test_metrics_do_not_exist_for_a_stranger(client: Client, settings: Settings, authorization: str) -> None:
    settings.LINTEL_METRICS_TOKEN = TOKEN
    response = client.get("/metrics", REMOTE_ADDR="203.0.113.9", HTTP_AUTHORIZATION=authorization)
    assert response.status_code == 404


def test_without_a_metrics_token_an_empty_one_opens_nothing(client: Client) -> None:
    response = client.get("/metrics", REMOTE_ADDR="203.0.113.9", HTTP_AUTHORIZATION="Bearer ")
    assert response.status_code == 404


def test_metrics_open_from_elsewhere_with_the_token(client: Client, settings: Settings) -> None:
    settings.LINTEL_METRICS_TOKEN = TOKEN
    response = client.get("/metrics", REMOTE_ADDR="203.0.113.9", HTTP_AUTHORIZATION=f"Bearer {TOKEN}")
    assert response.status_code == 200


def test_a_forged_forwarded_header_does_not_make_a_stranger_local(client: Client) -> None:
    response = client.get("/metrics", REMOTE_ADDR="203.0.113.9", HTTP_X_FORWARDED_FOR="127.0.0.1")
    assert response.status_code == 404


def test_behind_one_proxy_only_the_proxys_word_counts(client: Client, settings: Settings) -> None:
    settings.LINTEL_PROXY_HOPS = 1
    response = client.get("/metrics", REMOTE_ADDR="127.0.0.1", HTTP_X_FORWARDED_FOR="127.0.0.1, 203.0.113.9")
    assert response.status_code == 404


def test_behind_a_proxy_that_adds_nothing_nobody_is_local(client: Client, settings: Settings) -> None:
    settings.LINTEL_PROXY_HOPS = 2
    response = client.get("/metrics", REMOTE_ADDR="127.0.0.1", HTTP_X_FORWARDED_FOR="127.0.0.1")
    assert response.status_code == 404


@pytest.mark.parametrize("header", health.FORWARDED)
def test_metrics_do_not_leave_through_a_proxy_that_nobody_told_us_about(
    client: Client, settings: Settings, header: str
) -> None:
    """A proxy with TLS on this machine makes every stranger come from here."""
    settings.LINTEL_PROXY_HOPS = 0
    assert client.get("/metrics").status_code == 200
    assert client.get("/metrics", headers={header: "203.0.113.9"}).status_code == 404
