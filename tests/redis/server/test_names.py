"""A word of a person means a run or a group: by an id, its beginning, a name, or `@`."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch_worker.api.client import Api, submit, submit_many
from launch_worker.api.groups import Group
from launch_worker.api.naming import Meant
from launch_worker.archive.query import records
from launch_worker.errors import AmbiguousNameError, UnknownRunError
from launch_worker.settings import Settings
from launch_worker.store import keys
from launch_worker.store.store import Store
from tests.conftest import wait_until
from tests.support.arrows import FINISHED, claim
from tests.support.http_servers import KEY, TestServer, serving
from tests.support.people import OPEN, PRIVATE, tokens_of_everybody
from tests.support.redis_client import redis_of

#: Two ids of one moment, and a third one.
FIRST, SECOND, OTHER = "1m83cyvtfq1tc60", "1m83cyvtfq1tc61", "2m83cyvtfq1tc60"
SWEEP = {"method": "grid", "command": ["true"], "parameters": {"x": {"values": [1, 2]}}}


def run(api: Api, name: str, run_id: str | None = None, project: str | None = None) -> str:
    return submit(["true"], name=name, run_id=run_id, project=project, api=api).id


def test_a_name_an_id_and_its_beginning_mean_a_run(through: Api) -> None:
    run(through, "train", FIRST), run(through, "eval", SECOND), run(through, "a:b/c d", OTHER)
    for word, meant in (("train", FIRST), (SECOND, SECOND), ("2m83", OTHER), ("1m83cyvtfq1tc61"[:15], SECOND)):
        assert through.find(word).id == meant
    assert through.find("a:b/c d").id == OTHER
    assert through.find(f"{OTHER[:14]}").id == OTHER
    for word in ("2m8", "nosuch", "", "x" * 300, "9" * 14, "trai", "TRAIN", "\x1b]0;x\x07"):
        with pytest.raises(UnknownRunError, match=r"there is no run .*launch-worker runs"):
            through.find(word)


def test_what_several_have_means_none_of_them_unless_the_newest_will_do(through: Api) -> None:
    run(through, "train", FIRST), run(through, "train", SECOND), run(through, "1m83", OTHER)
    with pytest.raises(AmbiguousNameError, match="2 runs have the name 'train'; name one of them by its id") as told:
        through.find("train")
    assert [line.split(", ")[0] for line in told.value.things] == [f"{SECOND}   Pending", f"{FIRST}   Pending"]
    assert through.find("train", newest=True).id == SECOND
    with pytest.raises(AmbiguousNameError, match="2 runs have ids that begin with '1m83cyv'"):
        through.find("1m83cyv")
    # A name may look like the beginning of another's id.
    with pytest.raises(AmbiguousNameError, match="3 runs have the name '1m83', or ids that begin so"):
        through.find("1m83")
    # An id is never a name.
    run(through, FIRST)
    assert through.find(FIRST).id == FIRST
    with pytest.raises(UnknownRunError):
        through.find("3m83cyvtfq1tc60")


def test_all_runs_of_a_group_are_one_thing(through: Api) -> None:
    array = submit_many([{"command": ["true"], "name": "part", "array": "0-3"}], api=through)
    group = through.find("part")
    assert isinstance(group, Group)
    assert (group.id, group.kind) == (f"a{array[0].id}", "array")
    for word in (group.id, array[0].id, array[0].id[:9], group.id[:11]):
        assert through.find(word).id == group.id, word
    assert through.find(array[2].id).id == through.find("part[2]").id == array[2].id
    with pytest.raises(UnknownRunError):
        through.find("part[4]")
    bulk = submit_many([{"command": ["true"], "name": name} for name in ("a", "a", "b")], api=through)
    assert through.find("b").id == bulk[2].id
    with pytest.raises(AmbiguousNameError, match="2 runs"):
        through.find("a")
    run(through, "part")
    with pytest.raises(AmbiguousNameError, match="2 runs and groups have the name 'part'") as told:
        through.find("part")
    assert "4 Pending, " in told.value.things[1]
    sweep = through.create_sweep(
        {"method": "grid", "command": ["true"], "name": "lr", "parameters": {"x": {"value": 1}}}
    )
    assert through.find("lr").id == sweep.id
    assert through.find("lr-0", newest=True).id == next(through.group(sweep.id).runs()).id


def test_the_last_is_what_this_user_submitted_last(through: Api, store: Store) -> None:
    with pytest.raises(UnknownRunError, match="you have submitted no run"):
        through.find("@")
    mine = run(through, "mine")
    Api(store.url).submit({"command": ("true",), "author": "somebody@else"})
    assert through.find("@").id == mine
    bulk = submit_many([{"command": ["true"]}, {"command": ["false"]}], api=through)
    assert through.find("@").id == bulk[0].group
    array = submit_many([{"command": ["true"], "array": "0-1"}], api=through)
    assert through.find("@").id == array[0].group
    sweep = through.create_sweep(SWEEP)
    assert through.find("@").id == sweep.id
    newest = run(through, "newest")
    assert through.find("@").id == newest


def test_what_is_hidden_has_no_name(server: TestServer) -> None:
    tokens = tokens_of_everybody(server)
    people = {name: Api(settings=Settings(api_url=server.url, api_token=token)) for name, token in tokens.items()}
    insider, member, outsider = people["insider"], people["member"], people["outsider"]
    hidden = run(insider, "secret", project=PRIVATE)
    submit_many([{"command": ["true"], "name": "parts", "array": "0-1", "project": PRIVATE}], api=insider)
    seen = run(insider, "both", project=OPEN)
    run(insider, "both", project=PRIVATE)
    swept = {
        "method": "grid",
        "command": ["true"],
        "name": "swept",
        "project": PRIVATE,
        "parameters": {"x": {"value": 1}},
    }
    insider.create_sweep(swept)
    nothing = member.transport.meant_by("nothing")
    for word in ("secret", "parts", "swept", "swept-0", hidden[:14], "@"):
        assert member.transport.meant_by(word) == nothing == Meant((), 0, is_cut=True)
        assert outsider.transport.meant_by(word).things == ()
        assert insider.transport.meant_by(word).number, word
    assert member.find("both").id == seen
    assert insider.find("both", newest=True).id != seen
    own = run(member, "own", project=OPEN)
    assert member.find("@").id == own


def test_only_the_newest_runs_of_redis_are_looked_at(store: Store) -> None:
    api = Api(store.url)
    ids = [run(api, f"n{at}") for at in range(5)]
    labels, is_cut = store.labels_by(lambda run_id, name: name in ("n0", "n3"), most=4)
    assert ([label.id for label in labels], is_cut) == ([ids[3]], True)
    labels, is_cut = store.labels_by(lambda run_id, name: name in ("n0", "n3"), most=5)
    assert ([label.id for label in labels], is_cut) == ([ids[3], ids[0]], False)


def test_what_redis_has_forgotten_is_found_in_the_archive(redis_url: str, tmp_path: Path) -> None:
    with serving(redis_url, tmp_path, with_archive=True) as server:
        api = Api(settings=Settings(api_url=server.url, api_token=KEY))
        gone = run(api, "forgotten")
        store = server.shared.acting.store
        store.finish(claim(store, gone), FINISHED)
        wait_until(lambda: gone in records(server.shared.database, [gone]), what="the archive has the run")
        redis_of(redis_url).delete(keys.run(gone))
        redis_of(redis_url).zrem(keys.RUNS, gone)
        assert [one.id for one in api.transport.meant_by("forgotten").things] == [gone]
        assert [one.id for one in api.transport.meant_by(gone[:12]).things] == [gone]
        assert api.transport.meant_by("forgotte").things == ()
