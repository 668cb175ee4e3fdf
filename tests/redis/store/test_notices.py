"""The outbox: what runs and groups tell is noted in the script of their arrow, and lent to one sender at a time."""

from __future__ import annotations

from typing import Any

import pytest

from launch_worker.api.client import Api, submit, submit_many
from launch_worker.errors import InputError
from launch_worker.ids import new_run_id
from launch_worker.model.notice import Notice
from launch_worker.model.spec import RunSpec
from launch_worker.store import keys
from launch_worker.store.store import Store
from launch_worker.store.submit import Announced, New
from launch_worker.sweeps.drive import advance
from tests.support.arrows import (
    CRASHED,
    CRASHED_AGAIN,
    FAILED,
    FAILED_AGAIN,
    FINISHED,
    beat,
    claim,
    crash,
    create,
    create_many,
    running,
)
from tests.support.redis_client import redis_of


def told(store: Store, channel: str = "ops") -> list[Notice]:
    """All notices of a channel, the oldest first; they stay in the outbox."""
    lent = store.lend_notices(channel, "reader", lease_s=30.0, count=1000)
    store.return_channel(channel, "reader")
    return list(lent.notices)


def states(store: Store, channel: str = "ops") -> list[str]:
    return [notice.facts.get("state") or notice.facts["type"] for notice in told(store, channel)]


def is_empty(store: Store) -> bool:
    """Whether nothing of the outbox is left but the counts of channels."""
    left = [key.decode() for key in redis_of(store.url).keys("launch:outbox*")]
    return all(key.endswith(":state") for key in left)


# -- what is told ------------------------------------------------------------------------------------------------------


def test_a_run_that_asked_tells_its_end_and_what_it_was(store: Store) -> None:
    record = running(store, notify=("ops",), project="me/p", name="train")
    assert told(store) == []
    store.finish(record, FAILED)
    [notice] = told(store)
    assert notice.id == f"{record.id}.1.Failed.ops"
    facts = notice.facts
    shown = {
        name: facts[name] for name in ("type", "run", "state", "reason", "exit_code", "attempt", "name", "project")
    }
    assert shown == {
        "type": "run",
        "run": record.id,
        "state": "Failed",
        "reason": "exit code 3",
        "exit_code": "3",
        "attempt": "1",
        "name": "train",
        "project": "me/p",
    }
    assert int(facts["ended_at"]) >= int(facts["started_at"]) >= int(facts["created_at"])


def test_a_run_that_did_not_ask_leaves_nothing(store: Store) -> None:
    store.finish(running(store), FAILED)
    assert not redis_of(store.url).keys("launch:outbox*")


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("end", ["Failed"]),
        ("finished", []),
        ("failed+killed", ["Failed"]),
        ("running", ["Running", "Running"]),
        ("retry", ["Pending"]),
        ("running+retry+end", ["Running", "Pending", "Running", "Failed"]),
        ("first-failure", ["Failed"]),
    ],
)
def test_only_the_states_that_were_asked_for_are_told(store: Store, words: str, wanted: list[str]) -> None:
    """An end after which the run is tried again is none."""
    run_id = create(store, notify=(f"ops:{words}",))
    store.finish(claim(store, run_id), FAILED_AGAIN)
    store.finish(claim(store, run_id), FAILED)
    assert states(store) == wanted
    assert len({notice.id for notice in told(store)}) == len(wanted)


def test_every_end_is_told_whoever_makes_it(store: Store) -> None:
    cancelled = create(store, notify=("ops",))
    store.cancel(cancelled, reason="no")
    crashed = running(store, notify=("ops",))
    crash(store, crashed, CRASHED_AGAIN)
    assert states(store) == ["Killed"], "it is tried again"
    crash(store, claim(store, crashed.id), CRASHED)
    expired = create(store, notify=("ops",), expires_s=60.0)
    redis_of(store.url).zadd("launch:expiring", {expired: 1})
    store.publish_due()
    waits = create(store, notify=("ops",), after=(f"{crashed.id}:any",))
    store.finish(claim(store, waits), FINISHED)
    assert states(store) == ["Killed", "Crashed", "Killed", "Finished"]
    assert told(store)[2].facts["run"] == expired


def test_an_end_that_proves_false_is_followed_by_the_true_one(store: Store) -> None:
    record = running(store, notify=("ops",))
    crash(store, record)
    beat(store, record)
    store.finish(record, FINISHED)
    assert states(store) == ["Crashed", "Finished"]


def test_a_repeated_report_tells_nothing_twice(store: Store) -> None:
    record = running(store, notify=("ops",))
    for _ in range(3):
        store.finish(record, FINISHED)
    assert states(store) == ["Finished"]


def test_each_end_after_a_persons_retry_has_an_id_of_its_own(store: Store) -> None:
    run_id = create(store, notify=("ops",))
    for _ in range(2):
        store.cancel(run_id, reason="no")
        store.requeue(run_id, reason="again")
    store.finish(claim(store, run_id), FINISHED)
    store.requeue(run_id, reason="again")
    store.finish(claim(store, run_id), FINISHED)
    assert states(store) == ["Killed", "Killed", "Finished", "Finished"]
    assert len({notice.id for notice in told(store)}) == 4


def test_several_channels_are_told_each_what_they_want(store: Store) -> None:
    store.finish(running(store, notify=("ops:failed", "ml:finished+failed", "all")), FAILED)
    store.finish(running(store, notify=("ops:failed", "ml:finished+failed", "all")), FINISHED)
    assert (states(store, "ops"), states(store, "ml")) == (["Failed"], ["Failed", "Finished"])
    assert states(store, "all") == ["Failed", "Finished"]
    assert store.channels_with_notices() == ["all", "ml", "ops"]


def test_a_projects_runs_tell_what_an_admin_wants(store: Store) -> None:
    store.keep_channels(["ops", "boss"], {"me/p": "ops:failed boss:end"})
    store.finish(running(store, project="me/p"), FAILED)
    store.finish(running(store, project="me/p", notify=("ops:finished",)), FINISHED)
    store.finish(running(store, project="me/q"), FAILED)
    assert (states(store, "ops"), states(store, "boss")) == (["Failed", "Finished"], ["Failed", "Finished"])
    store.keep_channels(["ops"])
    store.finish(running(store, project="me/p"), FAILED)
    assert states(store, "boss") == ["Failed", "Finished"]


# -- groups ------------------------------------------------------------------------------------------------------------


def submit_group(
    store: Store, count: int, *, notify: tuple[str, ...], array: bool = False, max_fails: int | None = None
) -> list[str]:
    ids = [new_run_id() for _ in range(count)]
    key = ids[0] if array else f"b{ids[0]}"
    spec = RunSpec(command=("true",), name="train", notify=notify, array=key if array else "", max_fails=max_fails)
    group = Announced(key, f"a{key}" if array else key, count)
    create_many(store, [New(run_id, spec, group=group) for run_id in ids])
    return ids


@pytest.mark.parametrize("array", [False, True])
def test_a_group_is_told_once_when_it_has_ended(store: Store, array: bool) -> None:
    first, second, third = submit_group(store, 3, notify=("ops",), array=array)
    store.finish(claim(store, first), FINISHED)
    store.finish(claim(store, second), FAILED_AGAIN)
    store.cancel(third, reason="no")
    assert told(store) == []
    store.finish(claim(store, second), FAILED)
    [notice] = told(store)
    group = f"a{first}" if array else f"b{first}"
    assert notice.id == f"{group}.1.group.ended.ops"
    wanted = {"type": "group.ended", "group": group, "kind": "array" if array else "bulk", "size": "3", "end": "Failed"}
    wanted |= {"Finished": "1", "Failed": "1", "Never": "1", "Crashed": "0", "name": "train"}
    assert {name: notice.facts[name] for name in wanted} == wanted
    store.requeue(second, reason="again")
    store.finish(claim(store, second), FINISHED)
    assert [notice.id for notice in told(store)] == [f"{group}.{number}.group.ended.ops" for number in (1, 2)]


def test_a_group_is_told_again_when_a_crashed_run_of_it_is_finished_after_all(store: Store) -> None:
    [first, second] = submit_group(store, 2, notify=("ops",))
    store.finish(claim(store, first), FINISHED)
    late = claim(store, second)
    crash(store, late)
    store.finish(late, FINISHED)
    ends = [(notice.facts["end"], notice.facts["Crashed"], notice.facts["Finished"]) for notice in told(store)]
    assert ends == [("Failed", "1", "1"), ("Finished", "0", "2")]


def test_the_first_failed_run_of_a_group_is_told_at_once_where_it_is_asked_for(store: Store) -> None:
    ids = submit_group(store, 4, notify=("ops:end+first-failure", "ml:first-failure", "quiet:failed"))
    store.finish(claim(store, ids[0]), FINISHED)
    store.finish(claim(store, ids[1]), FAILED_AGAIN)
    assert told(store) == []
    store.finish(claim(store, ids[1]), FAILED)
    [notice] = told(store, "ml")
    # As they were at that arrow, however late the notice is sent, and again.
    wanted = {"type": "group.failing", "run": ids[1], "size": "4", "Pending": "2", "Finished": "1", "Failed": "1"}
    assert {name: notice.facts[name] for name in wanted} == wanted
    for run_id in ids[2:]:
        store.finish(claim(store, run_id), FAILED)
    assert states(store) == ["group.failing", "group.ended"]
    assert (states(store, "ml"), states(store, "quiet")) == (["group.failing"], ["group.ended"])


@pytest.mark.parametrize("array", [False, True])
def test_a_group_whose_rest_is_not_started_is_told_at_once_and_again_after_a_retry(store: Store, array: bool) -> None:
    assert not store.want_changes()
    ids = submit_group(store, 5, notify=("ops:end+halted", "ml:halted"), array=array, max_fails=1)
    goes_on = claim(store, ids[0])
    store.finish(claim(store, ids[1]), FAILED)
    group = f"a{ids[0]}" if array else f"b{ids[0]}"
    [notice] = told(store)
    assert notice.id == f"{group}.1.group.halted.ops"
    wanted = {"type": "group.halted", "group": group, "halted": "1", "size": "5", "Running": "1", "Failed": "1"}
    assert {name: notice.facts[name] for name in wanted} == wanted
    store.finish(goes_on, FINISHED)
    assert (told(store)[1].facts["type"], told(store)[1].facts["halted"]) == ("group.ended", "1")
    known = store.group(group)
    assert known is not None
    assert store.retry_group(known, only_failed=True, reason="again", actor="ada") == 4
    store.finish(claim(store, ids[1]), FAILED)
    assert states(store, "ml") == ["group.halted", "group.halted"]
    assert sorted(states(store)) == ["group.ended", "group.ended", "group.halted", "group.halted"]
    events = [
        (change.fields["what"], change.fields.get("actor", ""))
        for change in store.changes("0-0")
        if change.kind == "group"
    ]
    in_order = ["created", "halted", "ended", "resumed", "halted", "ended"]
    assert events == [(what, "ada" if what == "resumed" else "") for what in in_order]


def test_a_group_all_of_whose_runs_finished_has_no_failed_ones(store: Store) -> None:
    for run_id in submit_group(store, 2, notify=("ops:failed+killed+crashed", "ml:finished")):
        store.finish(claim(store, run_id), FINISHED)
    assert (states(store, "ops"), states(store, "ml")) == ([], ["group.ended"])


def test_a_submission_of_many_batches_is_one_group(store: Store, api: Api) -> None:
    store.keep_channels(["ops"])
    lines = [{"command": ["true"], **({"notify": ["ops"]} if number == 150 else {})} for number in range(201)]
    runs = submit_many(lines, api=api)
    api.group(runs[0].group).cancel()
    [notice] = told(store)
    assert (notice.facts["size"], notice.facts["Never"], notice.facts["end"]) == ("201", "201", "Never")


def test_a_sweep_is_told_once_when_it_is_over(store: Store, api: Api) -> None:
    store.keep_channels(["ops"])
    sweep = api.create_sweep(
        {"method": "grid", "name": "iris", "command": ["true", "${args}"], "parameters": {"x": {"values": [1, 2]}}},
        notify=["ops:end+first-failure"],
    ).id
    for number, step in enumerate((FAILED, FINISHED)):
        [run_id] = store.group_runs(store.group(sweep) or pytest.fail("it is gone"), skip=number, limit=1)
        store.finish(claim(store, run_id), step)
        advance(store, api.settings, sweep)
    failing, over = told(store)
    assert (failing.facts["type"], failing.facts["kind"], failing.facts["name"]) == ("group.failing", "sweep", "iris")
    wanted = {"type": "group.ended", "group": sweep, "size": "2", "Finished": "1", "Failed": "1", "end": "Failed"}
    assert {name: over.facts[name] for name in wanted} == wanted


# -- at submit ---------------------------------------------------------------------------------------------------------


def test_notify_is_refused_where_nobody_sends_or_no_channel_is_meant(store: Store, api: Api) -> None:
    def refusal(*notify: str, **more: Any) -> str:
        with pytest.raises(InputError) as refused:
            submit(["true"], notify=notify, api=Api(settings=api.settings), **more)
        return str(refused.value)

    assert "no process sends notices now; start launch-worker server" in refusal("ops")
    store.keep_channels(["ops", "ml-team"])
    assert refusal("opsx") == "there is no channel 'opsx'; did you mean 'ops'?"
    assert refusal("xyz") == "there is no channel 'xyz'; there are: ml-team, ops"
    assert "'dead' is no state; join some of these with +: end, finished" in refusal("ops:dead")
    assert "named twice" in refusal("ops", "ops:failed")
    assert "names no channel" in refusal("slack://token@x")
    run = submit(["true"], notify=["ops:failed"], api=api)
    assert redis_of(store.url).hget(keys.run(run.id), "notify") == b"ops:failed"
    with pytest.raises(InputError, match="no channel 'mlteam'; did you mean 'ml-team'"):
        submit_many([{"command": ["true"]}, {"command": ["true"], "notify": "mlteam"}], api=api)


def test_a_queues_own_channels_are_added_and_never_refuse_a_run(store: Store, api: Api) -> None:
    api.create_queue("prod", defaults={"notify": "ops:failed"})
    run = submit(["true"], queue="prod", api=api)
    store.keep_channels(["ml"])
    mine = submit(["true"], queue="prod", notify=["ml"], api=api)
    fields = [redis_of(store.url).hget(keys.run(one.id), "notify") for one in (run, mine)]
    assert fields == [b"ops:failed", b"ml:end ops:failed"]


def test_a_run_that_tells_is_left_to_workers_whose_scripts_do_it(store: Store) -> None:
    """A worker of the last release would fail it, as its field is none of an item of version 1."""
    assert store.get(create(store)).version == 1
    assert store.get(create(store, notify=("ops",))).version == 2


# -- lending -----------------------------------------------------------------------------------------------------------


def ended(store: Store, count: int, channel: str = "ops") -> None:
    for _ in range(count):
        store.finish(running(store, notify=(channel,)), FINISHED)


def test_a_channel_is_lent_to_one_sender_until_its_lease_is_over(store: Store) -> None:
    ended(store, 2)
    first = store.lend_notices("ops", "a", lease_s=30.0)
    assert len(first.notices) == 2
    other = store.lend_notices("ops", "b", lease_s=30.0)
    assert (other.notices, other.why) == ((), "held")
    redis_of(store.url).hset(keys.outbox("ops", "state"), "until", 0)
    again = store.lend_notices("ops", "b", lease_s=30.0)
    assert [notice.id for notice in again.notices] == [notice.id for notice in first.notices]
    assert not store.settle_notices("ops", "a", [first.notices[0].id], "sent", lease_s=30.0), "it has lost the channel"
    assert store.settle_notices("ops", "b", [first.notices[1].id], "sent", lease_s=30.0)
    assert store.lend_notices("ops", "b", lease_s=30.0).why == "due"
    assert is_empty(store)
    assert store.outbox_state().channels == {}
    store.keep_channels(["ops"])
    assert store.outbox_state().channels["ops"].sent == 2


def test_a_notice_that_failed_waits_and_its_receiver_is_left_alone(store: Store) -> None:
    ended(store, 2)
    lent = store.lend_notices("ops", "a", lease_s=30.0)
    now = store.now_us()
    store.settle_notices(
        *("ops", "a", [lent.notices[0].id], "later"),
        lease_s=30.0,
        next_at=now + 60_000_000,
        pause_until=now + 40_000_000,
        words="answered 500",
    )
    paused = store.lend_notices("ops", "a", lease_s=30.0)
    assert (paused.notices, paused.why, paused.until) == ((), "paused", now + 40_000_000)
    state = store.outbox_state().channels["ops"]
    assert (state.waiting, state.error, state.next_at, state.failing_since > 0) == (
        2,
        "answered 500",
        paused.until,
        True,
    )
    redis_of(store.url).hset(keys.outbox("ops", "state"), "paused_until", 0)
    [next_one] = store.lend_notices("ops", "a", lease_s=30.0).notices
    assert next_one.id == lent.notices[1].id
    store.settle_notices("ops", "a", [next_one.id], "sent", lease_s=30.0)
    assert store.outbox_state().channels["ops"].error == ""
    assert store.lend_notices("ops", "a", lease_s=30.0).until == now + 60_000_000


def test_what_waits_is_due_as_soon_as_a_receiver_is_back(store: Store) -> None:
    ended(store, 4)
    later = store.now_us() + 3_600_000_000
    for _ in range(3):
        redis_of(store.url).hdel(keys.outbox("ops", "state"), "paused_until")
        notice = store.lend_notices("ops", "a", lease_s=30.0).notices[0]
        store.settle_notices("ops", "a", [notice.id], "later", lease_s=30.0, next_at=later, pause_until=later)
    redis_of(store.url).hdel(keys.outbox("ops", "state"), "paused_until")
    [last] = store.lend_notices("ops", "a", lease_s=30.0).notices
    store.settle_notices("ops", "a", [last.id], "sent", lease_s=30.0)
    assert [notice.tries for notice in store.lend_notices("ops", "a", lease_s=30.0).notices] == [1, 1, 1]


def test_what_is_put_off_stays_off_and_keeps_its_mark(store: Store) -> None:
    ended(store, 2)
    ids = [notice.id for notice in store.lend_notices("ops", "a", lease_s=30.0).notices]
    at = store.now_us() + 60_000_000
    store.settle_notices("ops", "a", ids, "put_off", lease_s=30.0, next_at=at, mark=f"quiet.{at}")
    assert store.lend_notices("ops", "a", lease_s=30.0).until == at
    redis_of(store.url).zadd(keys.outbox("ops"), dict.fromkeys(ids, 1))
    lent = store.lend_notices("ops", "a", lease_s=30.0)
    assert [(notice.mark, notice.tries) for notice in lent.notices] == [(f"quiet.{at}", 0)] * 2


def test_the_outbox_of_a_channel_is_bounded_and_what_is_too_much_is_counted(store: Store) -> None:
    redis_of(store.url).hset(keys.outbox("ops", "state"), "bytes", 8 << 20)
    redis_of(store.url).sadd(keys.OUTBOX, "ops")
    record = running(store, notify=("ops", "ml"))
    store.finish(record, FINISHED)
    assert store.get(record.id).state.value == "Finished"
    state = store.outbox_state()
    assert (state.dropped, state.channels["ops"].dropped) == (1, 1)
    assert (state.channels["ops"].waiting, state.channels["ml"].waiting) == (0, 1)


def test_channels_that_a_stranger_invents_are_bounded(store: Store) -> None:
    redis_of(store.url).sadd(keys.OUTBOX, *(f"c{number}" for number in range(64)))
    store.finish(running(store, notify=("one-more",)), FINISHED)
    assert store.outbox_state().dropped == 1


def test_a_damaged_outbox_keeps_no_run_from_its_end(store: Store) -> None:
    redis_of(store.url).set(keys.outbox("ops"), "no zset")
    record = running(store, notify=("ops", "ml"))
    store.finish(record, FINISHED)
    assert store.get(record.id).state.value == "Finished"
    assert states(store, "ml") == ["Finished"]
    redis_of(store.url).delete(keys.outbox("ops"))


def test_a_rules_notice_is_made_once_as_long_as_its_cause_lasts(store: Store) -> None:
    assert store.notify("ops", "lost.w1", {"alarm": "x"})
    assert not store.notify("ops", "lost.w1", {"alarm": "x"})
    [notice] = told(store)
    assert (notice.id, notice.facts["type"], notice.facts["alarm"]) == ("lost.w1.ops", "rule", "x")
    redis_of(store.url).delete("launch:notify:told:lost.w1")
    store.settle_notices("ops", "a", [notice.id], "sent", lease_s=1.0)
    assert store.notify("ops", "lost.w1", {"alarm": "x"})


def test_a_sender_that_falls_silent_is_forgotten(store: Store) -> None:
    store.keep_channels(["ops"], life_s=0.001)
    while store.notice_channels() is not None:
        pass
    store.keep_channels([])
    assert store.notice_channels() == ()


# -- what doctor and status say ----------------------------------------------------------------------------------------


def findings(api: Api) -> dict[str, str]:
    return {finding.name: finding.cause for finding in api.findings() if finding.name.startswith("notices.")}


def test_status_and_doctor_say_what_is_not_told(store: Store, api: Api) -> None:
    assert findings(api) == {}
    ended(store, 3)
    assert findings(api) == {"notices.alone": "3 notices wait, and no process sends them"}
    store.keep_channels(["ops"])
    assert findings(api) == {}
    notice = store.lend_notices("ops", "a", lease_s=30.0).notices[0]
    now = store.now_us()
    store.settle_notices(
        "ops", "a", [notice.id], "later", lease_s=30.0, next_at=now, pause_until=now, words="HOST: 500"
    )
    assert findings(api) == {}, "it may be back soon"
    redis_of(store.url).hset(keys.outbox("ops", "state"), "failing_since", now - 300_000_000)
    assert findings(api) == {"notices.failing": "channel ops has taken no notice for 5 m, and 3 wait: HOST: 500"}
    store.settle_notices("ops", "a", [notice.id], "refused", lease_s=30.0, words="HOST: 410")
    told = findings(api)["notices.lost"]
    assert told.startswith("notices were not told, the last at 20")
    assert told.endswith("; of all so far 1 was refused")
