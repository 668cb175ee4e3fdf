"""Makes a message of a notice: its facts are as they were at the arrow, and the record says what stays the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from launch_worker.errors import InputError
from launch_worker.model.checks import group_key
from launch_worker.model.group import KINDS, GroupRecord
from launch_worker.model.notice import Notice
from launch_worker.model.run import Record
from launch_worker.model.states import RunState
from launch_worker.notifications import message as messages
from launch_worker.notifications.message import GROUP_FAILING, GROUP_HALTED, Alarm, Best, Message
from launch_worker.store.store import Store
from launch_worker.sweeps.config import config_from_json
from launch_worker.sweeps.search import best_of
from launch_worker.untrusted.text import read_whole

#: Fields of a record that its notice has, as they were at the arrow: each try says the same of them. The user is among
#: them, as a record may be gone.
_OF_ARROW = (
    *("name", "queue", "project", "user", "state", "reason", "attempt", "worker", "host", "created_at", "started_at"),
    *("ended_at", "exit_code", "signal", "phase", "message"),
)
#: Fields of a record that say something of its latest attempt only.
_OF_ATTEMPT = (*_OF_ARROW, "usage", "late_exit", "pid", "gpus", "summary", "phases", "log_missing", "log_missing_lines")
#: Characters of a failed run's output in a message.
_OUTPUT = 4000
#: Runs of a group that are looked at for those that failed, and failed ones that are told.
_LOOKED = 500
_FAILED = 5


class Composer:
    """Makes messages of notices, with what the store knows besides."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def message(self, notice: Notice, *, has_output: bool) -> Message:
        """The message of one notice. `has_output`: whether the end of a failed run's output may be in it."""
        facts = notice.facts
        at, type_ = _number(facts, "at"), str(facts.get("type"))
        if type_ == "run":
            return self._of_run(notice.id, at, facts, has_output=has_output)
        if type_.startswith("group."):
            return self._of_group(notice.id, at, facts, type_)
        return messages.of_alarm(notice.id, at, Alarm.of_text(str(facts.get("alarm"))))

    def _of_run(self, notice_id: str, at: int, facts: Mapping[str, Any], *, has_output: bool) -> Message:
        run_id = str(facts.get("run"))
        state = str(facts.get("state"))
        now = (self._store.hashes([run_id]) or {}).get(run_id, {})
        is_same = now.get("attempt", "0") == str(facts.get("attempt", "0")) and now.get("state") == state
        others = _OF_ARROW if is_same else _OF_ATTEMPT
        known = {name: value for name, value in now.items() if name not in others}
        said = {name: str(facts[name]) for name in _OF_ARROW if facts.get(name)}
        record = Record.from_hash({**known, **said, "id": run_id})
        output = ""
        ended_as = str(facts.get("ended_as") or state)
        if has_output and ended_as in ("Failed", "Crashed") and record.attempt:
            output = self._store.log_end(run_id, record.attempt).decode(errors="replace")[-_OUTPUT:]
        return messages.of_run(notice_id, at, record, RunState(state), output=output)

    def _of_group(self, notice_id: str, at: int, facts: Mapping[str, Any], type_: str) -> Message:
        group_id = str(facts.get("group"))
        known = self._store.group(group_id)
        record = GroupRecord(
            id=group_id,
            kind=str(facts.get("kind")),
            key=group_key(group_id),
            size=_number(facts, "size"),
            counts={kind: _number(facts, kind) for kind in KINDS},
            name=str(facts.get("name") or ""),
            queue=str(facts.get("queue") or ""),
            project=str(facts.get("project") or ""),
            author=str(facts.get("author") or ""),
            created_at=_number(facts, "created_at"),
            ended_at=_number(facts, "ended_at") or None,
            missing=known.missing if known else 0,
            gone=known.gone if known else 0,
            halted=_number(facts, "halted"),
            is_mixed=known.is_mixed if known else False,
        )
        if type_ == GROUP_FAILING:
            failed = self._store.records([str(facts.get("run"))])
        elif type_ == GROUP_HALTED:
            failed = self._failed(record, RunState.FAILED, RunState.CRASHED)
        else:
            ended = [state for state in RunState if state is not RunState.FINISHED]
            failed = self._failed(record, *ended) if record.end != "Finished" else []
        best = self._best(group_id) if record.kind == "sweep" else None
        return messages.of_group(notice_id, at, record, failed=failed, best=best, type_=type_)

    def _best(self, sweep_id: str) -> Best | None:
        """The best run of a sweep; None while none has a value."""
        sweep = self._store.sweep(sweep_id)
        try:
            config = config_from_json(sweep.config) if sweep is not None else None
        except InputError:
            return None
        if config is None or not config.metric:
            return None
        best = best_of(config, self._store.trials(sweep_id)[0])
        found = self._store.records([best.run_id]) if best is not None else []
        return Best(found[0], config.metric, best.value) if best and best.value is not None and found else None

    def _failed(self, group: GroupRecord, *states: RunState) -> list[Record]:
        """The first runs of a group that are in one of these states, of those that are looked at."""
        records = self._store.records(self._store.group_runs(group, limit=_LOOKED))
        return [record for record in records if record.state in states][:_FAILED]


def _number(facts: Mapping[str, Any], name: str) -> int:
    return read_whole(str(facts.get(name) or "")) or 0
