"""The faults. Each takes the system and its plan, and returns whether there was something to do it to."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable
from dataclasses import replace

from launch_worker import submit
from launch_worker.clock import boot_time_s
from launch_worker.errors import BrokerUnavailableError
from launch_worker.runners.process import tree
from tests.chaos.evidence import Span
from tests.chaos.hostile import DAMAGES, ELEMENTS
from tests.chaos.plan import QUEUES, Fault
from tests.chaos.system import Slot, System
from tests.support.redis_client import redis_of

#: So long after its guard died a worker has another one. Freezing it sooner would make two faults one: nobody is left
#: to end its jobs at the lease.
_NEW_GUARD_S = 2.0
#: The reason that a preempted run is given.
PREEMPTED = "chaos preempts"
_REFILL_S = 0.2
_RENEWED_S = 1.5
#: A run whose record is to be damaged waits so long, so that nobody claims it before.
_DAMAGED_AFTER_S = 3.0
_ENGINE_STARTS_S = 4.0
#: What a squeezed disk has left, in bytes.
_LEFT = 400_000


def kill_worker(system: System, fault: Fault) -> bool:
    return _kill(system, system.workers, fault)


def kill_guard(system: System, fault: Fault) -> bool:
    slot = _pick([slot for slot in system.workers if not slot.is_frozen], fault)
    guard = slot.guard() if slot is not None else None
    if slot is None or slot.life is None or guard is None:
        return False
    slot.life.guard_killed_at.append(boot_time_s())
    return tree.send(guard, signal.SIGKILL)


def kill_worker_and_guard(system: System, fault: Fault) -> bool:
    """Nobody is left who would end the jobs, until the worker is started again.

    Not one whose leases could not be renewed just now: they could run out before it is back.
    """
    now = boot_time_s()
    slot = _pick([slot for slot in system.workers if not system.is_troubled(slot, now - _RENEWED_S)], fault)
    guard = slot.guard() if slot is not None else None
    if slot is None or slot.part is None or slot.life is None or guard is None:
        return False
    slot.restart_s = fault.restart_s
    slot.life.guard_killed_at.append(now)
    slot.part.signal(signal.SIGSTOP)  # so that it cannot react to its guard's end
    tree.send(guard, signal.SIGKILL)
    system.kill(slot, now)
    return True


def term_guard(system: System, fault: Fault) -> bool:
    slot = _pick(system.workers, fault)
    guard = slot.guard() if slot is not None else None
    return guard is not None and tree.send(guard, signal.SIGTERM)


def _kill(system: System, slots: list[Slot], fault: Fault) -> bool:
    slot = _pick(slots, fault)
    if slot is None:
        return False
    slot.restart_s = fault.restart_s
    system.kill(slot, boot_time_s())
    return True


def kill_job(system: System, fault: Fault) -> bool:
    return _signal_job(system, fault, signal.SIGKILL)


def term_job(system: System, fault: Fault) -> bool:
    return _signal_job(system, fault, signal.SIGTERM)


def preempt_job(system: System, fault: Fault) -> bool:
    """As `launch-worker preempt` does: the job ends, the run goes back to its queue."""
    jobs = system.running_jobs()
    if not jobs or system.redis_is_away:
        return False
    job = jobs[int(fault.pick * len(jobs))]
    system.evidence.preempted.setdefault(job.run_id, []).append(boot_time_s())
    try:
        word, _ = system.api.store.preempt(job.run_id, reason=PREEMPTED)
    except BrokerUnavailableError:
        return False
    return word == "requested"


def _signal_job(system: System, fault: Fault, number: signal.Signals) -> bool:
    jobs = system.running_jobs()
    if not jobs:
        return False
    job = jobs[int(fault.pick * len(jobs))]
    signals = system.evidence.job_signals.setdefault((job.run_id, job.attempt), [])
    signals.append((number.name, boot_time_s()))
    return tree.send(job.process, number)


def term_worker(system: System, fault: Fault) -> bool:
    slot = _pick([slot for slot in system.workers if slot.life is not None and not slot.life.is_leaving], fault)
    if slot is None or slot.life is None or slot.part is None:
        return False
    life, part = slot.life, slot.part
    # Before its start is over Celery would end at once, as any process does.
    if not slot.is_ready:
        return False
    slot.restart_s = fault.restart_s

    def term() -> None:
        if part.process.poll() is None:
            life.termed_at.append(boot_time_s())
            part.signal(signal.SIGTERM)

    term()
    if fault.variant == "twice":
        system.timeline.later(fault.lasts_s, term)
    return True


def upgrade_worker(system: System, fault: Fault) -> bool:
    """It leaves its jobs with their guard, and the next one of its slot goes on with them."""
    now = boot_time_s()
    ready = [
        slot for slot in system.workers if slot.life is not None and not slot.life.is_leaving and not slot.is_frozen
    ]
    slot = _pick(ready, fault)
    if slot is None or slot.life is None or slot.part is None or not slot.is_ready:
        return False
    slot.restart_s = fault.restart_s
    slot.life.upgraded_at = now
    slot.part.signal(signal.SIGUSR1)
    return True


def kill_beat(system: System, fault: Fault) -> bool:
    return _kill(system, system.beats, fault)


def kill_archive(system: System, fault: Fault) -> bool:
    return _kill(system, system.archives, fault)


def kill_server(system: System, fault: Fault) -> bool:
    return _kill(system, system.servers, fault)


def term_beat(system: System, fault: Fault) -> bool:
    return _term(system.beats, fault)


def term_server(system: System, fault: Fault) -> bool:
    return _term([slot for slot in system.servers if slot.life is not None and not slot.life.is_leaving], fault)


def _term(slots: list[Slot], fault: Fault) -> bool:
    slot = _pick(slots, fault)
    if slot is None or slot.part is None or slot.life is None or not slot.is_ready:
        return False
    slot.restart_s = fault.restart_s
    slot.life.termed_at.append(boot_time_s())
    slot.part.signal(signal.SIGTERM)
    return True


def stop_worker(system: System, fault: Fault) -> bool:
    now = boot_time_s()
    slot = _pick(
        [
            slot
            for slot in system.workers
            if slot.life is not None
            and not slot.is_frozen
            and all(now > killed_at + _NEW_GUARD_S for killed_at in slot.life.guard_killed_at)
        ],
        fault,
    )
    if slot is None or slot.life is None or slot.part is None:
        return False
    part, span = slot.part, Span(now)
    slot.life.stopped.append(span)
    part.signal(signal.SIGSTOP)

    def go_on() -> None:
        span.until = min(span.until, boot_time_s())
        if part.process.poll() is None:
            part.signal(signal.SIGCONT)

    system.timeline.later(fault.lasts_s, go_on)
    return True


def restart_redis(system: System, fault: Fault) -> bool:
    if system.redis_is_away:
        return False
    system.take_redis_away(fault.variant)
    system.timeline.later(fault.lasts_s, system.bring_redis_back)
    return True


def cut_network(system: System, fault: Fault) -> bool:
    return _cut(system, system.workers, fault)


def cut_server(system: System, fault: Fault) -> bool:
    return _cut(system, system.servers, fault)


def _cut(system: System, slots: list[Slot], fault: Fault) -> bool:
    slot = _pick([slot for slot in slots if not slot.proxy.how], fault)
    if slot is None:
        return False
    span = Span(boot_time_s())
    system.evidence.cuts.setdefault(slot.name, []).append(span)
    slot.proxy.cut(fault.variant)

    def heal() -> None:
        slot.proxy.heal()
        span.until = boot_time_s()

    system.timeline.later(fault.lasts_s, heal)
    return True


def cut_people(system: System, fault: Fault) -> bool:
    """The way of all people to the servers. Deaf in one direction, what they ask is done and its answer is lost."""
    if system.front.how:
        return False
    system.front.cut(fault.variant)
    system.timeline.later(fault.lasts_s, system.front.heal)
    return True


def double_message(system: System, fault: Fault) -> bool:
    """An item of a queue is delivered again, at once or when the first one was taken long ago."""
    found = _pick_item(system, fault)
    if found is None:
        return False
    queue_list, item = found

    def again() -> None:
        try:
            redis_of(system.api.store.url).lpush(queue_list, item)
        except Exception:  # noqa: BLE001 (redis-py's own errors, while Redis is away)
            system.timeline.later(0.3, again)
        else:
            system.evidence.doubled.append(_tag(item))

    system.timeline.later(fault.lasts_s, again)
    return True


def drop_message(system: System, fault: Fault) -> bool:
    found = _pick_item(system, fault)
    if found is None:
        return False
    queue_list, item = found
    try:
        dropped = bool(redis_of(system.api.store.url).lrem(queue_list, 1, item))
    except Exception:  # noqa: BLE001
        return False
    if dropped:
        system.evidence.dropped.append(_tag(item))
    return dropped


def _pick_item(system: System, fault: Fault) -> tuple[str, bytes] | None:
    if system.redis_is_away:
        return None
    items: list[tuple[str, bytes]] = []
    try:
        for queue_list in system.item_lists():
            found = redis_of(system.api.store.url).lrange(queue_list, 0, -1)
            # Hostile elements have no tag, or are no JSON at all.
            items += [(queue_list, item) for item in found if item not in ELEMENTS and b'"delivery_tag"' in item]
    except Exception:  # noqa: BLE001
        return None
    return items[int(fault.pick * len(items))] if items else None


def mute_network(system: System, fault: Fault) -> bool:
    """What the worker asks is done, and it never hears that it was."""
    return cut_network(system, replace(fault, variant="mute"))


def remote_shutdown(system: System, fault: Fault) -> bool:
    """As Flower's button: `celery control shutdown`."""
    ready = [slot for slot in system.workers if slot.life is not None and not slot.life.is_leaving]
    slot = _pick(ready, fault)
    if slot is None or slot.life is None or system.redis_is_away or not slot.is_ready:
        return False
    slot.restart_s = fault.restart_s
    slot.life.shutdown_at = boot_time_s()
    system.cluster.celery(
        *("control", "--timeout", "2", "--destination", f"{slot.name}@{socket.gethostname()}", "shutdown"),
        name="control",
    )
    return True


def hostile_element(system: System, fault: Fault) -> bool:
    element = ELEMENTS[int(fault.pick * len(ELEMENTS))]
    try:
        redis_of(system.api.store.url).lpush(QUEUES[0], element)
    except Exception:  # noqa: BLE001 (redis-py's own errors, while Redis is away)
        return False
    system.evidence.hostile += 1
    return True


def damage_record(system: System, fault: Fault) -> bool:
    """A record that was written to by somebody else before its run was claimed."""
    name, value = DAMAGES[int(fault.pick * len(DAMAGES))]
    if system.redis_is_away:
        return False
    try:
        run = submit(["true"], queue=QUEUES[0], delay=_DAMAGED_AFTER_S, api=system.api)
        redis_of(system.api.store.url).hset(f"launch:run:{run.id}", name, value)
    except Exception:  # noqa: BLE001
        return False
    system.evidence.damaged[run.id] = f"{name} {value!r}"
    return True


def freeze_engine(system: System, fault: Fault) -> bool:
    engine = system.engine
    if engine is None or _is_away(system.evidence.engine_away):
        return False
    span = Span(boot_time_s())
    system.evidence.engine_away.append(span)
    process = engine.process
    process.send_signal(signal.SIGSTOP)

    def go_on() -> None:
        process.send_signal(signal.SIGCONT)
        span.until = boot_time_s()

    system.timeline.later(fault.lasts_s, go_on)
    return True


def kill_engine(system: System, fault: Fault) -> bool:
    """Its containers go on without it."""
    engine = system.engine
    if engine is None or _is_away(system.evidence.engine_away):
        return False
    span = Span(boot_time_s())
    system.evidence.engine_away.append(span)
    system.evidence.engine_killed_at.append(span.since)
    engine.kill()

    def again() -> None:
        # It reads what there is before it answers.
        engine.spawn()
        system.timeline.later(_ENGINE_STARTS_S, lambda: setattr(span, "until", boot_time_s()))

    system.timeline.later(fault.lasts_s, again)
    return True


def mute_engine(system: System, fault: Fault) -> bool:
    """What a worker asks of the engine is done, and it never hears that it was."""
    slot = _pick([slot for slot in system.workers if slot.engine is not None and not slot.engine.how], fault)
    if slot is None or slot.engine is None:
        return False
    proxy, span = slot.engine, Span(boot_time_s())
    system.evidence.engine_mute.setdefault(slot.name, []).append(span)
    proxy.cut("mute")

    def heal() -> None:
        proxy.heal()
        span.until = boot_time_s()

    system.timeline.later(fault.lasts_s, heal)
    return True


def _is_away(spans: list[Span]) -> bool:
    return bool(spans) and spans[-1].until > boot_time_s()


def squeeze_disk(system: System, fault: Fault) -> bool:
    """Little is left of it."""
    return _fill(system, fault, leave=_LEFT)


def fill_disk(system: System, fault: Fault) -> bool:
    return _fill(system, fault)


def _fill(system: System, fault: Fault, *, leave: int = 0) -> bool:
    if _is_away(system.evidence.disk_full):
        return False
    span = Span(boot_time_s())
    system.evidence.disk_full.append(span)
    until = span.since + fault.lasts_s

    def fill() -> None:
        if boot_time_s() < until:
            system.fill_disk(leave=leave)
            system.timeline.later(_REFILL_S, fill)
        else:
            system.free_disk()
            span.until = boot_time_s()

    fill()
    return True


def kill_receiver(system: System, fault: Fault) -> bool:
    return _kill(system, system.receivers, fault)


def spoil_receiver(system: System, fault: Fault) -> bool:
    """The receiver of notices answers 500 or 429, hangs, or closes what it has heard, for a while."""
    if system.spoiled.exists():
        return False
    # In one step: the receiver reads it at any time.
    made = system.spoiled.with_suffix(".new")
    made.write_text(fault.variant)
    made.rename(system.spoiled)
    system.timeline.later(fault.lasts_s, lambda: system.spoiled.unlink(missing_ok=True))
    return True


def _pick(slots: list[Slot], fault: Fault) -> Slot | None:
    up = [slot for slot in slots if slot.is_up]
    return up[int(fault.pick * len(up))] if up else None


def _tag(item: bytes) -> str:
    return str(json.loads(item)["properties"]["delivery_tag"])


FAULTS: dict[str, Callable[[System, Fault], bool]] = {
    "kill worker": kill_worker,
    "kill guard": kill_guard,
    "kill job": kill_job,
    "kill beat": kill_beat,
    "kill archive": kill_archive,
    "kill worker and guard": kill_worker_and_guard,
    "term worker": term_worker,
    "upgrade worker": upgrade_worker,
    "term guard": term_guard,
    "term job": term_job,
    "preempt job": preempt_job,
    "term beat": term_beat,
    "stop worker": stop_worker,
    "restart redis": restart_redis,
    "cut network": cut_network,
    "double message": double_message,
    "drop message": drop_message,
    "fill disk": fill_disk,
    "squeeze disk": squeeze_disk,
    "mute network": mute_network,
    "remote shutdown": remote_shutdown,
    "hostile element": hostile_element,
    "damage record": damage_record,
    "freeze engine": freeze_engine,
    "mute engine": mute_engine,
    "kill engine": kill_engine,
    "kill server": kill_server,
    "term server": term_server,
    "cut server": cut_server,
    "cut people": cut_people,
    "kill receiver": kill_receiver,
    "spoil receiver": spoil_receiver,
}
