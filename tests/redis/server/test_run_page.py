"""The page of a run says first what a person needs, shows all of it as text, and acts as its person may."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import httpx
import pytest

from launch_worker.model.needs import Needs
from launch_worker.model.outcome import Outcome
from launch_worker.model.retry import NextStep
from launch_worker.model.states import RunState
from launch_worker.model.usage import NO_USAGE, KeptUsage, Recorder, Used
from launch_worker.store import keys
from launch_worker.store.store import Store
from tests.support.arrows import claim, create
from tests.support.html import text_of
from tests.support.http_servers import TestServer
from tests.support.people import OPEN, PRIVATE
from tests.support.redis_client import redis_of

HTML = {"Accept": "text/html"}
TRACE = b"""epoch 1
Traceback (most recent call last):
  File "train.py", line 88, in <module>
    loader()
KeyError: 'label'
"""
TABS = ("", "/timeline", "/metrics", "/resources", "/details", "/files")


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


def test_a_run_that_waits_says_why_and_what_would_help(person: httpx.Client, kept: Store) -> None:
    run = create(kept, queue="nowhere")
    said = text_of(person.get(f"/runs/{run}").text)
    assert "No worker consumes queue nowhere." in said
    assert "celery -A launch_worker worker -Q nowhere" in said
    assert "queue nowhere : 1." in said
    other = create(kept, after=(f"{run}:ok",))
    assert f'href="/runs/{run}"' in person.get(f"/runs/{other}").text
    later = create(kept, delay_s=36_000 - 60)
    assert "in 9 h" in text_of(person.get(f"/runs/{later}").text)


def test_each_worker_of_its_queue_says_why_it_does_not_take_it(person: httpx.Client, kept: Store) -> None:
    described = {"worker": "w@lab3", "owner": "lab3.7.ab", "host": "lab3", "pid": 7, "queues": ["wide"], "devices": []}
    described |= {"slots": 2, "running": 0, "state": "running"}
    described |= {"cpus": {"total": 4.0, "free": 4.0}, "memory": {"total": 8, "free": 8}}
    kept.heartbeat(
        [], owner="lab3.7.ab", worker="w@lab3", lease_s=30, gone_s=60, description=described, queues=["wide"]
    )
    said = text_of(person.get(f"/runs/{create(kept, queue='wide', gpus=8)}").text)
    assert "w@lab3: it has no GPU, and the run wants 8 GPUs" in said


def test_acts_are_plain_forms_that_lead_back(person: httpx.Client, kept: Store) -> None:
    run = create(kept)
    assert "Cancel the run" in text_of(person.get(f"/runs/{run}").text)
    answer = person.post(f"/runs/{run}/cancel", data={"reason": "no longer needed"})
    assert (answer.status_code, answer.headers["location"]) == (303, f"/runs/{run}")
    page = text_of(person.get(f"/runs/{run}").text)
    assert "No longer needed" in page
    assert "Retry" in page
    assert person.post(f"/runs/{run}/retry").status_code == 303
    assert kept.get(run).state is RunState.PENDING
    refused = person.post(f"/runs/{run}/retry")
    assert refused.status_code == 409
    assert "only an ended run can be retried" in refused.text


def test_a_run_that_stops_may_be_ended_at_once(person: httpx.Client, kept: Store) -> None:
    record = claim(kept, create(kept))
    assert "SIGTERM, and SIGKILL 10 s later" in text_of(person.get(f"/runs/{record.id}").text)
    person.post(f"/runs/{record.id}/cancel", data={"reason": "wrong data"})
    page = person.get(f"/runs/{record.id}").text
    assert "It was asked to end" in text_of(page)
    assert "wrong data" in text_of(page)
    assert "End it now" in text_of(page)
    assert person.post(f"/runs/{record.id}/cancel", data={"now": "1"}).status_code == 303


def test_a_run_is_deleted_only_when_that_is_said_twice(person: httpx.Client, kept: Store) -> None:
    run = ended(kept)
    assert person.post(f"/runs/{run}/delete").status_code == 422
    assert person.post(f"/runs/{run}/delete", data={"sure": "1"}).headers["location"] == "/runs"
    assert person.get(f"/runs/{run}").status_code == 410


def test_what_a_person_may_not_do_is_not_shown_and_refused(
    shown: TestServer, kept: Store, tokens: dict[str, str]
) -> None:
    run = create(kept, project=OPEN)
    acts = ("cancel", "preempt", "retry", "delete", "confirm")
    for name, may in (("viewer", False), ("member", False), ("operator", True)):
        with shown.client(tokens[name]) as client:
            client.headers.update(HTML)
            page = client.get(f"/runs/{run}").text
            assert (f'action="/runs/{run}/cancel"' in page) is may, name
            assert ("/submit?from=" in page) is (name != "viewer")
            if not may:
                assert {client.post(f"/runs/{run}/{act}", data={"sure": "1"}).status_code for act in acts} == {403}


def test_a_run_of_a_hidden_project_is_not_there(shown: TestServer, kept: Store, tokens: dict[str, str]) -> None:
    run = create(kept, project=PRIVATE)
    before = create(kept, project=PRIVATE, queue="line")
    seen = create(kept, project=OPEN, queue="line")
    with shown.client(tokens["member"]) as client:
        client.headers.update(HTML)
        assert {client.get(f"/runs/{run}{tab}").status_code for tab in (*TABS, "/used")} == {404}
        assert client.post(f"/runs/{run}/cancel").status_code == 404
        # Its place counts those that the person sees.
        assert "queue line : 1." in text_of(client.get(f"/runs/{seen}").text)
    with shown.client(tokens["insider"]) as client:
        assert client.get(f"/runs/{before}", headers=HTML).status_code == 200


def test_all_that_others_wrote_is_text(person: httpx.Client, kept: Store) -> None:
    bad = "<script>alert(1)</script>"
    output = b"\x1b]0;pwned\x07\x1b[31mred\x1b[0m " + bad.encode() + b"\n"
    options = {
        "name": f"{bad}\"'><b>",
        "config": {bad: bad},
        "env": {"A": bad},
    }
    run = ended(kept, output, options=options, reason=bad, message=bad, exit_code=3)
    for tab in TABS:
        page = person.get(f"/runs/{run}{tab}").text
        assert "<script>alert" not in page
        # What the viewer reads by itself, as text.
        page = re.sub(r'<script type="application/json">.*?</script>', "", page)
        assert "\x1b" not in page
        assert "pwned" not in page
    assert "red <script>alert(1)</script>" in text_of(person.get(f"/runs/{run}").text)


def test_secrets_are_names_only(person: httpx.Client, kept: Store) -> None:
    options = {"env": {"API_TOKEN": "s3cret", "PLAIN": "plain-value"}, "env_from": ("WORKERS_OWN",)}
    run = ended(kept, options=options)
    for tab in TABS:
        assert "s3cret" not in person.get(f"/runs/{run}{tab}").text
    details = text_of(person.get(f"/runs/{run}/details").text)
    assert "API_TOKEN , PLAIN , WORKERS_OWN (the worker's)" in details
    assert '-e "API_TOKEN=$API_TOKEN" -e PLAIN=plain-value --env-from WORKERS_OWN -- true' in details


def test_resources_say_what_was_used_of_what_was_asked_for_and_advise(person: httpx.Client, kept: Store) -> None:
    gib = 1 << 30
    recorder = Recorder(every_s=5.0)
    for at in range(1, 30):
        recorder.note(5.0 * at, Used(cpu_s=5.0 * at, memory=11 * gib))
    used = recorder.kept(150.0, Needs(memory=32 * gib, millicores=8000))
    run = ended(kept, options={"memory": 32 * gib, "cpus": 8.0}, used=used, exit_code=1)
    side = text_of(person.get(f"/runs/{run}").text)
    assert "peak 11 GiB of 32 GiB" in side
    page = person.get(f"/runs/{run}/resources").text
    assert "--memory 14G would do" in unescape(page)
    assert "<time-series" in page
    assert "Memory, peak 11 GiB 32 GiB" in text_of(page)


def test_metrics_are_a_table_and_files_are_downloads(person: httpx.Client, kept: Store) -> None:
    record = claim(kept, create(kept))
    kept.tell(
        record.id, record.token, {"loss": 1.5}, ['{"_step": 0, "loss": 2.5}', '{"_step": 1, "loss": 1.5}'], "", end=1
    )
    kept.save_file(record.id, "report.txt", b"hello")
    assert 'data-plot="loss"' in person.get(f"/runs/{record.id}/metrics").text
    page = person.get(f"/runs/{record.id}/files").text
    assert "Files 1" in text_of(page)
    [address] = re.findall(r'href="(/api/v1/runs/[^"]*/files/[^"]*)"', page)
    assert person.get(address).content == b"hello"


def test_a_live_part_gets_the_rest_of_what_is_live_with_it(person: httpx.Client, kept: Store) -> None:
    run = ended(kept, b"hello\n")
    part = person.get(f"/runs/{run}", headers={"HX-Request": "true"}).text
    assert 'id="top"' in part
    assert re.search(r'id="side" hx-swap-oob="outerMorph"', part)
    assert "<log-view" not in part
    assert "<log-view" in person.get(f"/runs/{run}").text


@pytest.mark.parametrize("tab", ["/metrics", "/resources"])
def test_the_head_of_an_open_page_comes_without_the_pictures(person: httpx.Client, kept: Store, tab: str) -> None:
    record = claim(kept, create(kept))
    kept.tell(record.id, record.token, None, ['{"_step": 0, "loss": 2.5}'], "", end=1)
    head = person.get(f"/runs/{record.id}{tab}", headers={"HX-Request": "true", "HX-Target": "div#top"}).text
    assert 'id="top"' in head
    assert "<table class" not in head.replace('<table class="bars">', "")
    assert "<time-series" not in head


DAMAGED = {
    "spec": '{"command": 7, "retries": 1e400, "timeout_s": "x", "grace_s": [], "env": [1], "env_from": 5, "config": 3}',
    "summary": "[1",
    "files": '{"a": 5}',
    "usage": '{"peak_memory": "x"}',
    "waits_for": '{"x:y": "a:b"}',
    "phases": '[{"name": 1, "at": "x"}]',
    "gpus": "[[1]]",
    "tags": '[{"a": 1}]',
    "exit_code": "many",
    "created_at": "9" * 18,
}


@pytest.mark.parametrize("is_ended", [True, False])
def test_a_damaged_record_is_shown_as_far_as_it_is_sound(person: httpx.Client, kept: Store, is_ended: bool) -> None:
    run = ended(kept) if is_ended else create(kept)
    redis_of(kept.url).hset(keys.run(run), mapping=DAMAGED)
    for tab in TABS:
        assert person.get(f"/runs/{run}{tab}").status_code == 200, tab
    assert person.get("/submit", params={"from": run}).status_code == 422


def test_there_are_no_other_parts(person: httpx.Client, kept: Store) -> None:
    run = create(kept)
    assert person.get(f"/runs/{run}/nothing").status_code == 404
    assert person.get("/runs/1m83cyvtfq1tc69").status_code == 404
