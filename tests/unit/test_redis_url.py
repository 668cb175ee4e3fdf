"""URLs of Redis: what is read from them for every part, what is refused, and that no part of a password is shown."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as of_hypothesis
from hypothesis import strategies as st
from kombu.connection import Connection

from launch_worker.errors import LaunchError, SettingsError
from launch_worker.redis_url import RedisUrl, mask_url
from launch_worker.settings import Settings
from launch_worker.store.redis.connection import clear_error, connect
from launch_worker.store.redis.safety import check_safe
from launch_worker.store.redis.transport import Refused

#: Letters that no message of ours has, and all that means something in a URL.
LETTERS = "QXZЖΩ€"
PASSWORDS = st.text(st.sampled_from(LETTERS + "#?@/[]%:&=;, \\^~'\"+$!"), min_size=3, max_size=12).filter(
    lambda text: sum(letter in LETTERS for letter in text) >= 2
)
PLACES = st.sampled_from(
    [
        *("h", "h:6379", "h:6379/0", "[::1]:1/2", "h/0?db=1", "h/x", "h:x", "h:99999", "", "h/0#a", "a:1,b/main"),
        *("h/0?ssl_cert_reqs=none", "a/main/1", "a:1,b", "h/0?password=Q", "[::1", "a..b/0"),
    ]
)


def shows(text: str, password: str) -> list[str]:
    """Three characters of the password that stand in the text, at least one of them a letter of no message."""
    parts = {password[at : at + 3] for at in range(len(password) - 2)}
    return [part for part in parts if any(letter in LETTERS for letter in part) and part in text]


#: A loaded machine is no fault.
PATIENT = of_hypothesis(max_examples=60, suppress_health_check=[HealthCheck.too_slow])


@PATIENT
@given(scheme=st.sampled_from(["redis", "rediss", "sentinel", "amqp", ""]), password=PASSWORDS, place=PLACES)
def test_no_part_of_a_password_is_in_any_sentence_about_its_url(scheme: str, password: str, place: str) -> None:
    for login in (f":{password}", f"me:{password}", password):
        url = f"{scheme}://{login}@{place}"
        said = [mask_url(url)]
        try:
            read = RedisUrl.parse(url)
            said += [repr(read), read.shown, repr(Settings(redis_url=url).redis_url != url)]
            said += [str(clear_error(url, problem)) for problem in (ConnectionError("x"), Refused("OOM"), OSError())]
        except LaunchError as error:
            said += [str(error), repr(error), repr(error.__cause__)]
        assert not shows("\n".join(said), password), url


@PATIENT
@given(user=st.text(st.sampled_from("abЖ#?/[]% "), max_size=4), password=PASSWORDS)
def test_every_part_reads_the_same_login_whatever_it_holds(user: str, password: str) -> None:
    read = RedisUrl.parse(f"redis://{user}:{password}@[::1]:7/3")
    assert (read.username, read.password, read.servers, read.db) == (unquote(user), unquote(password), (("::1", 7),), 3)
    ours = connect(f"redis://{user}:{password}@[::1]:7/3", name="x").connection_pool.connection_kwargs
    assert (ours["username"] or "", ours["password"], ours["host"], ours["port"], ours["db"]) == (
        *(unquote(user), unquote(password)),
        *("::1", 7, 3),
    )
    theirs: Any = Connection(read.for_kombu())  # type: ignore[no-untyped-call]
    assert (theirs.userid or "", theirs.password, theirs.hostname, theirs.port, theirs.virtual_host) == (
        *(unquote(user), unquote(password)),
        *("::1", 7, "3"),
    )


def test_sentinels_master_and_login_are_read() -> None:
    url = RedisUrl.parse("sentinel://worker:p%40ss@a:26380,b,[::1]:26381/main/2")
    assert url.servers == (("a", 26380), ("b", 26379), ("::1", 26381))
    assert (url.master, url.db, url.username, url.password) == ("main", 2, "worker", "p@ss")


def test_kombu_gets_one_url_for_each_sentinel() -> None:
    url = RedisUrl.parse("sentinel://:p%40ss@a,b:1/main")
    assert url.for_kombu() == "sentinel://:p%40ss@a:26379/0;sentinel://:p%40ss@b:1/0"
    assert RedisUrl.parse("sentinel://a/main").for_kombu() == "sentinel://a:26379/0"


@pytest.mark.parametrize("place", ["a:26379", "a:26379/", "/main", "a:x/main", "a,/main", "a/main/x", "a:0/main"])
def test_a_url_that_names_no_sentinel_or_no_master_is_refused_without_its_password(place: str) -> None:
    with pytest.raises(SettingsError, match="must be written as sentinel://") as refused:
        Settings.from_env({"LAUNCH_REDIS_URL": f"sentinel://:secret@{place}"})
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "option", ["protocol=3", "db=1", "socket_timeout=5", "health_check_interval=5", "password=x", "ssl=1", "x y=1"]
)
@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_options_that_are_none_of_tls_are_refused_for_every_part(scheme: str, option: str) -> None:
    with pytest.raises(SettingsError, match="LAUNCH_REDIS_URL has no option"):
        Settings.from_env({"LAUNCH_REDIS_URL": f"{scheme}://h:1/0?{option}"})


@pytest.mark.parametrize(
    ("options", "tls"),
    [
        ("", {"ssl_cert_reqs": "required", "ssl_check_hostname": True}),
        ("?ssl_check_hostname=false", {"ssl_cert_reqs": "required", "ssl_check_hostname": False}),
        ("?ssl_cert_reqs=CERT_NONE", {"ssl_cert_reqs": "none", "ssl_check_hostname": False}),
        ("?ssl_cert_reqs=none", {"ssl_cert_reqs": "none", "ssl_check_hostname": False}),
    ],
)
def test_options_of_tls_are_the_same_for_redis_py_and_kombu(options: str, tls: dict[str, object]) -> None:
    assert RedisUrl.parse(f"rediss://h{options}").tls == tls


@pytest.mark.parametrize(
    "url",
    [
        *("redis://h?ssl_cert_reqs=none", "rediss://h?ssl_cert_reqs=maybe", "rediss://h?ssl_check_hostname=x"),
        *("rediss://h?ssl_ca_certs=/no/such/file", "redis://user@h", "redis://a,b/0", "redis://h:0", "redis://h\n"),
    ],
)
def test_what_no_part_could_use_is_refused(url: str) -> None:
    with pytest.raises(SettingsError):
        RedisUrl.parse(url)


def test_a_file_of_tls_is_named_when_it_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="ssl_ca_certs in LAUNCH_REDIS_URL is not a file"):
        RedisUrl.parse(f"rediss://h?ssl_ca_certs={tmp_path / 'none.pem'}")
    (tmp_path / "ca.pem").write_text("x")
    assert RedisUrl.parse(f"rediss://h?ssl_ca_certs={tmp_path / 'ca.pem'}").tls["ssl_ca_certs"].endswith("ca.pem")


def test_a_server_without_a_name_is_this_machine() -> None:
    assert RedisUrl.parse("redis://:pw@/3").servers == (("localhost", 6379),)


def test_random_bytes_are_read_or_refused() -> None:
    rng = random.Random(1)
    for _ in range(3000):
        text = "".join(rng.choice("redis:/@[]?#%,0a\0\n é") for _ in range(rng.randrange(20)))
        for url in (text, f"redis://{text}", f"sentinel://{text}", f"rediss://{text}"):
            with contextlib.suppress(SettingsError):
                RedisUrl.parse(url)


@pytest.mark.parametrize("option", ["ssl_cert_reqs=none", "ssl_cert_reqs=CERT_NONE", "ssl_check_hostname=false"])
def test_a_certificate_that_nobody_looks_at_is_no_way_to_a_redis_elsewhere(option: str) -> None:
    url = f"rediss://worker:pw@192.0.2.1/0?{option}"
    with pytest.raises(SettingsError, match="could be anybody, for LAUNCH_REDIS_URL has its certificate not verified"):
        check_safe(Settings(redis_url=url))
    check_safe(Settings(redis_url=url, is_insecure=True))
    for safe in ("rediss://worker:pw@192.0.2.1/0", f"rediss://worker:pw@127.0.0.1/0?{option}"):
        check_safe(Settings(redis_url=safe))


def test_the_name_in_a_certificate_may_differ_where_one_authority_is_named(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.touch()
    url = f"rediss://worker:pw@192.0.2.1/0?ssl_check_hostname=false&ssl_ca_certs={authority}"
    check_safe(Settings(redis_url=url))
