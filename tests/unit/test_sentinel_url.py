"""Sentinel URLs: what is read from them, and what is refused."""

from __future__ import annotations

import pytest

from launch_worker.errors import SettingsError
from launch_worker.sentinel_url import SentinelUrl
from launch_worker.settings import Settings


def test_sentinels_master_and_login_are_read() -> None:
    url = SentinelUrl.parse("sentinel://worker:p%40ss@a:26380,b,[::1]:26381/main/2")
    assert url.sentinels == (("a", 26380), ("b", 26379), ("::1", 26381))
    assert (url.master, url.db, url.username, url.password) == ("main", 2, "worker", "p@ss")


def test_kombu_gets_one_url_for_each_sentinel() -> None:
    url = SentinelUrl.parse("sentinel://:p%40ss@a,b:1/main")
    assert url.for_kombu() == "sentinel://:p%40ss@a:26379/0;sentinel://:p%40ss@b:1/0"
    assert SentinelUrl.parse("sentinel://a/main").for_kombu() == "sentinel://a:26379/0"


@pytest.mark.parametrize("place", ["a:26379", "a:26379/", "/main", "a:x/main", "a,/main", "a/main/x", "a:0/main"])
def test_a_url_that_names_no_sentinel_or_no_master_is_refused_without_its_password(place: str) -> None:
    with pytest.raises(SettingsError, match="must be written as sentinel://") as refused:
        Settings.from_env({"LAUNCH_REDIS_URL": f"sentinel://:secret@{place}"})
    assert "secret" not in str(refused.value)
