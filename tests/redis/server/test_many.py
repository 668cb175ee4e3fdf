"""What is done to many runs at once: shown first, asked, done to what was shown, and counted."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest

from launch_worker.api.client import Api, submit, submit_many
from launch_worker.errors import BrokerUnavailableError, NotAllowedError, UnknownRunError
from launch_worker.ids import new_run_id
from launch_worker.model.states import RunState
from launch_worker.settings import Settings
from launch_worker.store.store import Store
from tests.redis.server.conftest import Said
from tests.support.arrows import FINISHED, claim
from tests.support.http_servers import TestServer
from tests.support.people import OPEN, tokens_of_everybody

Call = Callable[..., Said]


class Answers(io.StringIO):
    """A person at a terminal, who does something else before answering."""

    def __init__(self, text: str, before: Callable[[], object] = lambda: None) -> None:
        super().__init__(text)
        self._before = before

    def isatty(self) -> bool:
        return True

    def readline(self, size: int = -1, /) -> str:  # type: ignore[override]
        self._before()
        return super().readline(size)


def make(api: Api, number: int, **options: object) -> list[str]:
    return [run.id for run in submit_many([{"command": ["true"], **options}] * number, api=api)]


def test_many_are_shown_before_anything_is_done(through: Api, call: Call) -> None:
    ids = make(through, 7, queue="gpu", name="train", tags=["old"])
    make(through, 1)
    shown = call("cancel", "--queue", "gpu", "--dry-run")
    assert shown[0] == 0
    first, _, *runs, more, meaning = shown[1].splitlines()
    assert first == "cancel 7 runs: 7 Pending"
    assert [run_id in line for run_id, line in zip(ids[:1:-1], runs, strict=True)] == [True] * 5
    assert (more, meaning.startswith("Those that wait are Killed")) == ("and 2 more", True)
    lines = call("cancel", "--tag", "old", "--dry-run", "--json")[1].splitlines()
    assert [json.loads(line)["id"] for line in lines] == ids[::-1]
    code, out, err = call("cancel", "--name", "train")
    assert (code, out) == (2, "")
    assert err.endswith("launch-worker: nobody can be asked whether to cancel 7 runs; add --yes to do it\n")
    assert through.runs(filters={"state": "killed"})[:] == []
    done = call("cancel", "--filter", '{"queue": "gpu"}', "--yes")
    assert done[:2] == (0, "7 runs are Killed, which had not started\n")
    code, out, err = call("cancel", "--queue", "gpu", "--yes")
    assert (code, out) == (0, "")
    assert err.endswith("no run fits that could be cancelled; nothing was changed\n")
    assert call("retry", "--state", "killed", "--yes")[1] == "7 runs are Pending again\n"
    said = call("delete", "--queue", "gpu", "--yes", "--json")[1].splitlines()
    assert sorted(json.loads(line)["id"] for line in said) == sorted(ids)
    assert len(through.runs()) == 1


def test_words_and_options_exclude_each_other(through: Api, call: Call) -> None:
    for words in (
        (),
        ("x", "--queue", "gpu"),
        ("x", "--yes"),
        ("--state", "paused"),
        ("--pending", "--state", "running"),
    ):
        code, out, err = call("cancel", *words)
        assert (code, out, err.count("\n")) == (2, "", 1), words
    assert call("retry", "--failed", "--queue", "gpu")[0] == 2


def test_only_what_was_shown_is_acted_on(
    through: Api, call: Call, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = make(through, 2, name="few")
    monkeypatch.setattr("sys.stdin", Answers("y\n", lambda: make(through, 3, name="few")))
    code, out, err = call("delete", "--name", "few")
    assert (code, out) == (0, "2 runs are deleted\n")
    assert "delete them? [y/N]" in err
    assert len(through.runs(filters={"name": "few"})) == 3
    monkeypatch.setattr("sys.stdin", Answers("n\n"))
    assert call("delete", "--name", "few")[:2] == (130, "")
    with pytest.raises(UnknownRunError):
        through.run(few[0])
    # More than a few must be typed.
    many = make(through, 21, name="many")
    for typed in ("y\n", "20\n"):
        monkeypatch.setattr("sys.stdin", Answers(typed))
        code, out, err = call("delete", "--name", "many")
        assert (code, out, "that is not 21; nothing was changed" in err) == (1, "", True)
    # One that starts meanwhile is refused, and counted.
    monkeypatch.setattr("sys.stdin", Answers("21\n", lambda: claim(store, many[3])))
    code, out, err = call("delete", "--name", "many")
    assert (code, out) == (1, "20 runs are deleted\n")
    assert f"launch-worker: 1 run refused, {many[3]}: the run is Running; stop it first" in err
    assert through.run(many[3]).state is RunState.RUNNING


def test_an_outage_in_the_middle_is_said_with_what_was_done(
    through: Api, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(through, 101, name="many")
    done_by = Store.cancel_many

    def once(store: Store, run_ids: list[str], **more: Any) -> Any:
        monkeypatch.setattr(Store, "cancel_many", away)
        return done_by(store, run_ids, **more)

    def away(*_: object, **__: object) -> Any:
        raise BrokerUnavailableError("Redis went away")

    monkeypatch.setattr(Store, "cancel_many", once)
    code, out, err = call("cancel", "--name", "many", "--yes")
    assert (code, out) == (69, "100 runs are Killed, which had not started\n")
    assert "launch-worker: 1 of 101 runs it is not known whether they are cancelled; the same command again" in err
    monkeypatch.setattr(Store, "cancel_many", done_by)
    assert call("cancel", "--name", "many", "--yes")[1] == "1 run is Killed, which had not started\n"


def test_a_group_is_deleted_and_its_failed_runs_are_tried_again(through: Api, call: Call, store: Store) -> None:
    ids = make(through, 3, name="part")
    group = through.run(ids[0]).group
    store.finish(claim(store, ids[0]), FINISHED)
    assert call("cancel", group)[0] == 0
    assert call("retry", group, "--failed")[1] == f"group {group}: 2 runs are Pending again\n"
    assert call("delete", "part") == (0, f"group {group}: 3 runs are deleted\n", "")
    array = submit_many([{"command": ["true"], "array": "0-1"}], api=through)[0].id
    assert call("cancel", array)[0] == 0
    assert call("retry", array, "--failed")[1] == f"array a{array}: 2 runs are Pending again\n"
    assert call("delete", array)[1] == f"run {array} is deleted\n"
    call("delete", array)
    assert len(through.runs()) == 1, "a first run that is gone is not its array"


def test_each_run_is_its_owners(server: TestServer) -> None:
    tokens = tokens_of_everybody(server)
    people = {name: Api(settings=Settings(api_url=server.url, api_token=token)) for name, token in tokens.items()}
    theirs = submit(["true"], project=OPEN, api=people["insider"]).id
    mine = submit(["true"], project=OPEN, api=people["member"]).id
    absent = new_run_id()
    act = people["member"].transport.act_on_many
    done = {one.run_id: one for one in act("cancel", [theirs, mine, absent], reason="", grace_s=None)}
    assert done[mine].word == "killed"
    assert isinstance(done[theirs].refusal, NotAllowedError)
    assert isinstance(done[absent].refusal, UnknownRunError)
    assert people["insider"].run(theirs).state is RunState.PENDING
    assert people["member"].run(mine).record.reason == "cancelled by member"
    with pytest.raises(NotAllowedError):
        list(people["viewer"].transport.act_on_many("delete", [mine], reason="", grace_s=None))
