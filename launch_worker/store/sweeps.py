"""Reads and writes sweeps: what they are, how far they are, and their next run."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from launch_worker.errors import InputError
from launch_worker.model.spec import RunSpec
from launch_worker.model.sweep import SweepOrder, SweepRecord, Trial, unknown_sweep
from launch_worker.store import keys
from launch_worker.store.answers import SteerWord
from launch_worker.store.redis.client import Client, pairs, text
from launch_worker.store.redis.connection import clear_errors
from launch_worker.store.submit import ConfigChanged, expiry_of, fields_of
from launch_worker.untrusted.text import read_map, read_whole


class Sweeps(Client):
    """The part of `Store` for sweeps."""

    def create_sweep(self, sweep_id: str, fields: Mapping[str, str | int], *, actor: str = "") -> bool:
        """(nothing) -> RUNNING. False when the sweep exists."""
        flat = [part for pair in fields.items() for part in pair]
        return bool(self._call("create_sweep", sweep_id, self.named(actor), *flat))

    def next_run(
        self,
        sweep_id: str,
        trial: Trial,
        spec: RunSpec,
        *,
        queue_config: str,
        pool_config: str,
        reason: str = "",
    ) -> str:
        """(nothing) -> Pending for the sweep's next run, in one step with the count. Returns '' or why it is not made.

        Raises ConfigChanged and InputError as `Store.create`. The same trial again is answered as the first time.
        """
        drawn = json.dumps({"run": trial.run_id, "drawn": trial.drawn, "seen": trial.seen})
        head = (sweep_id, trial.index, drawn, trial.run_id, reason, spec.queue, queue_config, pool_config)
        # A sweep goes on for long: Redis may have forgotten the run of which the sweep's runs take outputs.
        waits = {other: wish for other, wish in spec.waits.items() if self.exists(other)} if spec.inputs else None
        word, *answer = self._call("next_run", *head, expiry_of(spec), *fields_of(spec, waits))
        if word == -1:
            raise ConfigChanged(text(answer[0]), text(answer[1]))
        if word == -2:
            raise InputError(text(answer[0]))
        return "" if word == 1 else text(answer[0])

    def steer_sweep(self, sweep_id: str, word: SweepOrder, *, reason: str, actor: str = "") -> tuple[bool, str]:
        """Carry out an order for a sweep. Whether it was possible in its state, and its state now.

        `reason` is what its Killed runs say. Raises InputError for an unknown sweep.
        """
        said, state = self._call("steer_sweep", sweep_id, word, reason, self.named(actor))
        answer = cast(SteerWord, text(said))
        if answer == "unknown":
            raise unknown_sweep(sweep_id)
        return answer == "done", text(state)

    def settle_sweep(self, sweep_id: str) -> int:
        """Forget live runs that are gone, and end the sweep if it can end. Returns how many runs were gone."""
        return int(self._call("settle_sweep", sweep_id))

    def retire_sweeps(self, *, retention_s: float, limit: int = 50) -> int:
        """Delete the sweeps that ended longer than `retention_s` ago. Returns how many sweeps that were."""
        return int(self._call("retire_sweeps", round(retention_s * 1e6), limit))

    def lock_sweep(self, sweep_id: str, what: str, *, for_s: float) -> bool:
        """Keep other processes from the same work for `for_s`. False when another has it. It saves work, no more."""
        with clear_errors(self.url):
            return bool(self._redis.set(keys.sweep_lock(sweep_id, what), 1, nx=True, px=int(for_s * 1000)))

    def unlock_sweep(self, sweep_id: str, what: str) -> None:
        """Let other processes do this work again."""
        with clear_errors(self.url):
            self._redis.delete(keys.sweep_lock(sweep_id, what))

    def note_sweep_problem(self, sweep_id: str, problem: str) -> None:
        """Note why a sweep's next run cannot be made; the next run that is made removes the note."""
        with clear_errors(self.url):
            self._redis.hset(keys.sweep(sweep_id), "problem", problem[:2000])

    def mark_stopped(self, sweep_id: str, index: int, why: str) -> None:
        """Note that a run is stopped for being worse than others: its value so far counts."""
        with clear_errors(self.url):
            self._redis.hset(keys.sweep_part(sweep_id, "stopped"), index, why[:500])

    def sweep(self, sweep_id: str) -> SweepRecord | None:
        """The sweep's record now; None when there is no such sweep."""
        return next(iter(self.sweeps_of([sweep_id])), None)

    def sweeps_of(self, sweep_ids: Sequence[str]) -> list[SweepRecord]:
        """The records of these sweeps; sweeps that are gone or damaged are left out."""
        with clear_errors(self.url):
            pipe = self._redis.pipeline(transaction=False)
            for sweep_id in sweep_ids:
                pipe.hgetall(keys.sweep(sweep_id))
                pipe.scard(keys.sweep_part(sweep_id, "live"))
            answers = pipe.execute(raise_on_error=False) if sweep_ids else []
        found = []
        for sweep_id, fields, live in zip(sweep_ids, answers[::2], answers[1::2], strict=True):
            if fields and not isinstance(fields, Exception) and not isinstance(live, Exception):
                found.append(_record(sweep_id, pairs(fields), int(live)))
        return found

    def sweep_ids(self) -> list[str]:
        """The ids of all sweeps, the newest first."""
        with clear_errors(self.url):
            return [text(sweep_id) for sweep_id in self._redis.zrevrange(keys.SWEEPS, 0, -1)]

    def live_sweep_ids(self) -> list[str]:
        """The ids of the sweeps that are not over."""
        with clear_errors(self.url):
            return [text(sweep_id) for sweep_id in self._redis.smembers(keys.LIVE_SWEEPS)]

    def trials(self, sweep_id: str, *, curves: bool = False) -> tuple[list[Trial], list[int]]:
        """A sweep's runs by number, and the numbers of the ended ones in the order of their ends.

        With `curves`, each trial also has its values of the metric by step.
        """
        with clear_errors(self.url):
            # In no transaction, in which a full Redis 7.0 refuses reads too. The order of the reads keeps each of them
            # true: what is among the ended has a result, and what ends between two reads counts as live.
            pipe = self._redis.pipeline(transaction=False)
            pipe.lrange(keys.sweep_part(sweep_id, "ended"), 0, -1)
            pipe.smembers(keys.sweep_part(sweep_id, "live"))
            for part in ("results", "stopped", "trials"):
                pipe.hgetall(keys.sweep_part(sweep_id, part))
            ended, live, results, stopped, drawn = pipe.execute()
        drawn, results, stopped = pairs(drawn), pairs(results), pairs(stopped)
        running = {text(run_id) for run_id in live}
        curve_of = self._curves(sweep_id, sorted(int(index) for index in drawn)) if curves else {}
        trials = []
        # A restored Redis may have lost a number: the trials after it are drawn again.
        for index in range(len(drawn)):
            said = read_map(drawn.get(str(index), ""))
            if not said:
                break
            result = read_map(results.get(str(index), ""))
            run_id = str(said.get("run", ""))
            trials.append(
                Trial(
                    index=index,
                    run_id=run_id,
                    drawn={str(name): value for name, value in _map_of(said.get("drawn")).items()},
                    seen=int(said.get("seen", 0)),
                    live=run_id in running or not result,
                    state=str(result.get("state", "")),
                    value=_number(result.get("value")),
                    curve=tuple(curve_of.get(index, ())),
                    stopped=stopped.get(str(index), ""),
                )
            )
        return trials, [number for index in ended if (number := read_whole(index)) is not None and number < len(trials)]

    def _curves(self, sweep_id: str, indexes: Sequence[int]) -> dict[int, list[tuple[int, float]]]:
        with clear_errors(self.url):
            pipe = self._redis.pipeline(transaction=False)
            for index in indexes:
                pipe.lrange(keys.sweep_part(sweep_id, f"curve:{index}"), 0, -1)
            lists = pipe.execute() if indexes else []
        return {index: [_point(text(line)) for line in lines] for index, lines in zip(indexes, lists, strict=True)}


def _record(sweep_id: str, fields: Mapping[str, str], live: int) -> SweepRecord:
    def number(name: str) -> int | None:
        found = fields.get(name, "")
        return int(found) if re.fullmatch(r"\d{1,18}", found) else None

    return SweepRecord(
        id=sweep_id,
        state=fields.get("state", ""),
        name=fields.get("name", ""),
        config=fields.get("config", ""),
        given=fields.get("given", ""),
        workers=number("workers") or 1,
        made=number("made") or 0,
        cap=number("cap"),
        live=live,
        seed=number("seed") or 0,
        created_at=number("created_at") or 0,
        ended_at=number("ended_at"),
        cancelling=fields.get("cancelling") == "1",
        reason=fields.get("reason", ""),
        stuck=fields.get("problem", ""),
        failures=number("failures") or 0,
        fails=number("fails") or 0,
        alike=number("alike") or 0,
        failed=fields.get("failed", ""),
        failed_why=fields.get("failed_why", ""),
        metric=fields.get("metric", ""),
        unmeasured=fields.get("unmeasured", ""),
        user=fields.get("user", ""),
    )


def _map_of(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(words: Any) -> float | None:
    """A value of the metric, which is kept as text: a script's JSON would round it."""
    try:
        return None if words is None else float(words)
    except (TypeError, ValueError):
        return None


def _point(line: str) -> tuple[int, float]:
    step, _, value = line.partition(" ")
    return int(step), float(value)
