"""Explains why a run waits: what stands in its way, which worker could take it and which not, and what would help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from launch_worker import humane
from launch_worker.model.checks import PRIORITIES
from launch_worker.model.hints import Hint, hint_of_wait
from launch_worker.model.needs import Needs, parse_needs
from launch_worker.model.run import Record
from launch_worker.model.sentences import sentence_of
from launch_worker.model.states import RunState
from launch_worker.model.units import isoformat
from launch_worker.model.worker import refusal

#: Words with which reasons begin that are about workers, and not about a limit or a pause.
_ABOUT_WORKERS = ("waiting for ", "no worker consumes", "worker ", "all slots of ")


@dataclass(frozen=True)
class WorkerAnswer:
    """What one live worker says to a run that waits."""

    worker: str
    host: str
    #: Whether it takes runs of the queue at all.
    is_consumer: bool
    #: Why it does not take the run now; none: it has room for the run.
    why_not: tuple[str, ...] = ()


@dataclass(frozen=True)
class Explanation:
    """Why a run is not running; of one that runs or has ended its sentence alone."""

    id: str
    name: str
    queue: str
    state: str
    #: What it does, in one sentence.
    sentence: str
    #: Name of its priority.
    priority: str = ""
    #: Place in its queue's line, 1 the next; None for a run that is not ready.
    place: int | None = None
    #: What holds it up whatever the workers have.
    held_up_by: tuple[str, ...] = ()
    workers: tuple[WorkerAnswer, ...] = ()
    #: What would help: sentences, and a command.
    advice: str = ""
    command: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Explanation:
        """Read what `as_json` wrote; a newer server may say more."""
        known = {name: said[name] for name in cls.__dataclass_fields__ if name in said}
        names = WorkerAnswer.__dataclass_fields__
        workers = [{name: one[name] for name in names if name in one} for one in known.get("workers", ())]
        answers = tuple(WorkerAnswer(**one | {"why_not": tuple(one.get("why_not", ()))}) for one in workers)
        return cls(**known | {"workers": answers, "held_up_by": tuple(known.get("held_up_by", ()))})


@dataclass(frozen=True)
class Surroundings:
    """What is around a run that waits, as far as the person who asks may see it."""

    #: Descriptions of the live workers; `room` is what the scripts know that each has free.
    workers: Sequence[Mapping[str, Any]] = ()
    is_queue_paused: bool = False
    #: Pool of its queue; '' for none.
    pool: str = ""
    is_pool_paused: bool = False
    place: int | None = None
    #: State of each run or group for which it waits, by id, for people; none for those that are not seen.
    others: Mapping[str, str] | None = None


def explain(record: Record, why: str, around: Surroundings, *, now_us: int) -> Explanation:
    """Why a run waits. `why` is the reason that is shown of it."""
    found = Explanation(
        *(record.id, record.name, record.queue, record.state.value), sentence_of(record, why, now_us=now_us)
    )
    if record.state is not RunState.PENDING:
        return found
    hint = hint_of_wait(record, why, around.workers)
    level = next((name for name, number in PRIORITIES.items() if number == record.priority), "")
    return replace(
        found,
        priority=level,
        place=around.place,
        held_up_by=tuple(_held_up_by(record, why, around, now_us)),
        workers=tuple(_answer(record, worker) for worker in around.workers),
        advice=hint.text if record.due_at is not None else _advice(hint, why),
        command=hint.command,
    )


def _advice(hint: Hint, why: str) -> str:
    """What would help, without what the sentence has said."""
    what = "" if hint.what in (humane.sentence(why), "It is about to start.") else hint.what
    return " ".join(filter(None, [what, hint.text]))


def _held_up_by(record: Record, why: str, around: Surroundings, now_us: int) -> list[str]:
    found = []
    if record.due_at is not None:
        found.append(f"its time: it starts {humane.ago((now_us - record.due_at) / 1e6)}, {isoformat(record.due_at)}")
    for other, wish in record.waits_for.items():
        state = (around.others or {}).get(other)
        end = {"ok": "to finish", "any": "to end", "failed": "to fail"}.get(wish, f"to end {wish}")
        found.append(f"run or group {other}: it waits for that {end}" + (f"; now it is {state}" if state else ""))
    if around.is_queue_paused:
        found.append(f"queue {record.queue} is paused")
    if around.is_pool_paused:
        found.append(f"pool {around.pool} is paused")
    is_said = record.due_at is not None or record.waits_for or why in ("queue paused", f"pool {around.pool} paused")
    if why and not is_said and not why.startswith(_ABOUT_WORKERS):
        found.append(why)
    if why.startswith("waiting for a worker that "):
        found.append(why)
    return found


def _answer(record: Record, worker: Mapping[str, Any]) -> WorkerAnswer:
    is_consumer = record.queue in (worker.get("queues") or ())
    name, host = str(worker.get("worker", "")), str(worker.get("host", ""))
    if not is_consumer:
        why = refusal(worker, record.queue)
        why = f"it takes no runs of queue {record.queue}, for {why}" if why else ""
        return WorkerAnswer(name, host, False, (why or f"it does not consume queue {record.queue}",))
    again = ["the run shall not be tried on it again while another worker may take it"] if record.avoid == name else []
    unable = worker.get("unable")
    if isinstance(unable, Sequence) and any(f'"{field}":' in record.spec for field in unable):
        again.append("it fails to start such runs for now")
    return WorkerAnswer(name, host, True, (*again, *_of_state(worker), *_of_room(record, worker)))


def _of_state(worker: Mapping[str, Any]) -> list[str]:
    """Why it takes no runs at all, or no more than it has."""
    state, problem = worker.get("state"), worker.get("problem")
    found = []
    if state == "draining":
        found.append("it drains: it takes no new runs")
    elif state not in (None, "running"):
        found.append(f"it takes no runs ({state})" + (f": it {problem}" if problem else ""))
    slots, running = _whole(worker.get("slots")), _whole(worker.get("running"))
    if slots is not None and running is not None and running >= slots:
        found.append("its only slot is taken" if slots == 1 else f"all its {slots} slots are taken")
    room = worker.get("room")
    if isinstance(room, Mapping) and not room.get("takes_new", True):
        found.append("it takes only runs that were ready when it began")
    return found


def _of_room(record: Record, worker: Mapping[str, Any]) -> list[str]:
    """What the run needs and the worker lacks, now or for ever."""
    needs, found = parse_needs(record.needs), []
    most = _whole(worker.get("max_schedulers"))
    if record.is_scheduler and most is not None and (_whole(worker.get("schedulers")) or 0) >= most:
        found.append(f"it runs {humane.plural(most, 'scheduler')}, and may run no more (max_schedulers)")
    for wants, has, free, show in _amounts(needs, worker):
        if not wants or has is None:
            continue
        if wants > has:
            found.append(f"it has {show(has) if has else f'no {_unit(show)}'}, and the run wants {show(wants)}")
        elif free is not None and wants > free:
            few = humane.size(free) if show is _memory else f"{free:.4g}"
            found.append(f"{few} of {show(has)} {'is' if few == '1' else 'are'} free, and the run wants {show(wants)}")
    return found


def _amounts(needs: Needs, worker: Mapping[str, Any]) -> list[tuple[float, float | None, float | None, Any]]:
    """What is wanted, what there is, what is free of it (None: not known), and how that is said."""
    devices, room = worker.get("devices"), worker.get("room")
    free_gpus = _number(room.get("gpus")) if isinstance(room, Mapping) else None
    found: list[tuple[float, float | None, float | None, Any]] = [
        (needs.gpus, len(devices) if isinstance(devices, Sequence) else None, free_gpus, _gpus)
    ]
    for wants, name, show in ((needs.millicores / 1000, "cpus", _cores), (needs.memory, "memory", _memory)):
        amount = worker.get(name)
        known = amount if isinstance(amount, Mapping) else {}
        found.append((wants, _number(known.get("total")), _number(known.get("free")), show))
    return found


def _gpus(count: float) -> str:
    return humane.plural(int(count), "GPU")


def _cores(count: float) -> str:
    return f"{count:.4g} {'core' if count == 1 else 'cores'}"


def _memory(amount: float) -> str:
    return f"{humane.size(amount)} of memory"


def _unit(show: Any) -> str:
    return {_gpus: "GPU", _cores: "core"}.get(show, "memory")


def _number(value: Any) -> float | None:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
