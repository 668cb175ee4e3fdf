"""The page of a run says first what a person needs, shows all of it as text, and acts as its person may."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from typing import Any

import httpx
import pytest

from launch_worker.dev.redis_server import RedisServer
from launch_worker.model.outcome import Outcome
from launch_worker.model.retry import NextStep
from launch_worker.model.run import Record
from launch_worker.model.states import RunState
from launch_worker.model.usage import NO_USAGE, KeptUsage

from launch_worker.store.store import Store
from tests.support.arrows import claim, create
from tests.support.http_servers import KEY, TestServer, serving
from tests.support.people import tokens_of_everybody
from tests.support.redis_client import redis_of

HTML = {"Accept": "text/html"}
TRACE = b"""epoch 1
Traceback (most recent call last):
  File "train.py", line 88, in <module>
    loader()
KeyError: 'label'
"""
TABS = ("", "/timeline", "/metrics", "/resources", "/details", "/files")


@pytest.fixture(scope="module")
def shown(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestServer]:
    """One server for all tests here: none of them counts runs."""
    redis_of(redis_server.url).flushall()
    with serving(redis_server.url, tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def kept(shown: TestServer) -> Store:
    return shown.shared.acting.store


@pytest.fixture(scope="module")
def tokens(shown: TestServer) -> dict[str, str]:
    return tokens_of_everybody(shown)


@pytest.fixture
def person(shown: TestServer) -> Iterator[httpx.Client]:
    with shown.client(KEY) as made:
        made.headers.update(HTML)
        yield made


def text_of(page: str) -> str:
    """What a reader of the page's main part reads, blanks as one."""
    main = page.partition("<main")[2]
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", main)))


def ended(store: Store, output: bytes = b"", *, used: KeptUsage = NO_USAGE, options: Any = (), **outcome: Any) -> str:
    """A run whose attempt has ended so."""
    record = claim(store, create(store, **dict(options)))
    if output:
        store.append_log(record.id, 1, output, offset=0, line=0)
    store.finish(record, NextStep(Outcome(**({"state": RunState.FAILED, "phase": "run"} | outcome))), used=used)
    return record.id


def test_a_failed_run_says_why_first_with_its_last_lines(person: httpx.Client, kept: Store) -> None:
    run = ended(kept, b"".join(b"line %d\n" % at for at in range(100)) + TRACE, reason="exit code 1", exit_code=1)
    page = person.get(f"/runs/{run}").text
    said = page.partition('class="say bad"')[2].partition("</div>")[0]
    assert "KeyError: 'label'" in unescape(said)
    assert "line 99" in said
    assert "line 80" not in said
    assert page.index('class="say bad"') < page.index('class="tabs"')


@pytest.mark.parametrize("tab", TABS)
def test_each_part_of_a_page_has_what_stands_first(person: httpx.Client, kept: Store, tab: str) -> None:
    run = ended(kept, exit_code=127, reason="exit code 127")
    answer = person.get(f"/runs/{run}{tab}")
    assert answer.status_code == 200
    assert "A command was not found (exit code 127)." in text_of(answer.text)
    assert 'aria-current="page"' in answer.text.partition('class="tabs"')[2]
