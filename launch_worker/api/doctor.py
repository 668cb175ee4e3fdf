"""Finds what is wrong with an installation, and says what to do: one list for `status`, `doctor` and Python."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from launch_worker.api.overview import overview
from launch_worker.attempt.folder import containers_mark, undeleted_folder
from launch_worker.errors import InputError, LaunchError
from launch_worker.humane import plural
from launch_worker.humane import size as format_size
from launch_worker.model.finding import Finding
from launch_worker.model.states import RunState
from launch_worker.model.units import format_duration, isoformat
from launch_worker.model.worker import keys_of, why_never, why_unserved
from launch_worker.outputs.outgoing import waiting
from launch_worker.redis_url import RedisUrl
from launch_worker.settings import Settings
from launch_worker.store.redis.connection import OLDEST_SERVERS
from launch_worker.store.redis.safety import INSECURE, is_loopback, why_unsafe
from launch_worker.store.store import Store
from launch_worker.trust.keys import read_public
from launch_worker.trust.trusted import ANY, TrustedKey
from launch_worker.untrusted.ownership import why_not_ours
from launch_worker.untrusted.text import read_map

#: Bytes free in the work dir below which a worker may fail to keep logs and reports.
_LOW_DISK_BYTES = 256 << 20
#: Oldest waiting runs that are looked at: `status` must not read a million.
_FIRST_RUNS = 200
_GIB = 1 << 30
#: Seconds between this clock and the server's from which there is a warning, and an error.
_CLOCK_S, _WRONG_CLOCK_S = 2.0, 60.0
#: Seconds for which a receiver may fail before there is a warning.
_FAILING_S = 60.0
#: Microseconds for which a loss of history is told.
_RECENT_US = 7 * 86_400_000_000
#: Share of its memory limit from which Redis is nearly full.
_NEARLY_FULL = 0.9
#: Seconds that small outputs may wait for the store of logs before there is a warning.
_PACK_LATE_S = 3 * 3600.0
#: Seconds that outputs may wait on a worker's machine before there is a warning.
_OUTPUTS_LATE_S = 600.0
#: Seconds for the container engine's answer.
_ENGINE_S = 5.0
#: Seconds that an archive may be behind before there is a warning.
_ARCHIVE_LAG_S = 60.0
#: Findings that keep workers and passes from writing that they are well.
_NO_WRITES = frozenset({"redis.replica", "redis.full", "redis.not-saved"})


def problems(store: Store, settings: Settings, seen: Mapping[str, Any]) -> list[Finding]:
    """The warnings and errors that an `overview` (`seen`) and a few reads show."""
    return [finding for finding in _at_a_glance(store, settings, seen) if finding.level != "ok"]


def check(store: Store, settings: Settings) -> Iterator[Finding]:
    """Every check, the most basic first. Raises BrokerUnavailableError when there is nothing to check."""
    yield from _at_a_glance(store, settings, overview(store))
    for name, look in (
        ("records", _records),
        ("work-dir", _work_dir),
        ("environments", _environments),
        ("logs", _logs),
        ("outputs", _outputs),
        ("archive", _archive),
        ("engine", _engine),
        ("registry", _registries),
        ("sandboxes", _sandboxes),
        ("signers", _signers),
        ("keys", _keys_of_workers),
    ):
        try:
            yield from look(store, settings)
        except LaunchError as error:
            yield Finding("error", name, f"this could not be looked at: {error}", "mend what is above, and try again")


def _engine(store: Store, settings: Settings) -> Iterator[Finding]:
    """Whether the container engine answers, where workers of this machine have made containers."""
    if not containers_mark(settings.work_dir).exists():
        return
    # Imports the engine's SDK.
    from launch_worker.runners.container.engine import Engine, address

    engine = Engine()
    try:
        engine.ping(timeout_s=_ENGINE_S)
    except LaunchError as error:
        cause, _, advice = str(error).partition("; ")
        yield Finding("warning", "engine.away", cause, f"{advice}; run doctor as the worker's user")
    else:
        yield Finding("ok", "engine", f"the container engine at {address()} answers")
    finally:
        engine.close()


def _sandboxes(store: Store, settings: Settings) -> Iterator[Finding]:
    """What makes the sandboxes here that queues ask for."""
    configs = store.queue_configs(store.queue_names()).values()
    asked = {str(sandbox) for config in configs if (sandbox := read_map(config).get("sandbox"))}
    if not asked:
        return
    from launch_worker.queues.confinement import Demands
    from launch_worker.runners.process.layers import Layers

    layers = Layers(settings.work_dir, bwrap=settings.bwrap)
    for sandbox in sorted(asked):
        why = layers.why_not(Demands(sandbox))
        if why:
            advice = "workers of other machines take these queues; to have them taken here too: docs/security.md"
            yield Finding("warning", "sandbox.none", f"this machine makes no sandbox {sandbox}: {why}", advice)
        else:
            by = "bubblewrap" if layers.bubblewrap(sandbox) else "Landlock"
            yield Finding("ok", "sandbox", f"the sandbox {sandbox} is made by {by} on this machine")


def _registries(store: Store, settings: Settings) -> Iterator[Finding]:
    """The credentials with which this machine's workers pull images, where LAUNCH_REGISTRY_AUTH says where they are."""
    folder = settings.registry_auth
    if folder is None:
        return
    if not folder.is_dir():
        advice = "make it, with what docker --config FOLDER login REGISTRY writes (docs/reference/containers.md)"
        yield Finding("error", "registry.folder", f"LAUNCH_REGISTRY_AUTH {folder} is no folder", advice)
        return
    # Imports the engine's SDK.
    from launch_worker.api.registry_logins import check_logins

    configs = map(store.queue_config, store.queue_names())
    wanted = {str(read_map(config).get("container", {}).get("registry_auth", "")) for config in configs}
    yield from check_logins(folder, sorted(wanted | {""}), is_shared=not settings.work_dir_trusted)


def _signers(store: Store, _: Settings) -> Iterator[Finding]:
    """The queues that take signed runs only, and none whose key is trusted."""
    known = []
    for text in store.trusted_keys():
        with contextlib.suppress(InputError):
            known.append(TrustedKey.of_text(text))
    trusted = [key for key in known if key.revoked_at is None]
    for name in store.queue_names():
        signers = read_map(store.queue_config(name)).get("signers")
        named = list(map(str, signers)) if isinstance(signers, list) else []
        if named and not any(key.is_named(one) for key in trusted for one in named):
            whom = "any trusted key" if ANY in named else " or ".join(named[:3])
            yield Finding(
                "warning",
                "queue.signers",
                f"queue {name} takes only runs that are signed by {whom}, and Redis has no such trusted key",
                "launch-worker keys trust sign:… --name NAME; workers with LAUNCH_TRUSTED_KEYS have keys of their own",
            )


def _keys_of_workers(store: Store, _: Settings) -> Iterator[Finding]:
    """What workers ask of signatures, and whether they can open the secrets of their queues."""
    workers = [worker for worker in store.workers() if isinstance(worker.get("sealing_keys"), list)]
    for worker in workers:
        if keys := keys_of(worker):
            yield Finding("ok", "worker.keys", f"worker {worker['worker']} {keys}")
    configs = store.queue_configs(sorted({queue for worker in workers for queue in worker["queues"]}))
    for queue, config in configs.items():
        said = read_map(config)
        of = [worker for worker in workers if queue in worker["queues"]]
        signed = [worker["worker"] for worker in of if worker.get("requires_signed")]
        if signed and not said.get("signers"):
            yield Finding(
                "warning",
                "queue.unsigned",
                f"worker {signed[0]} takes signed runs only, and queue {queue} takes others too: they fail there",
                f"have them refused at submission: launch-worker queues set {queue} --signer '*'",
            )
        with contextlib.suppress(InputError):
            key_id = read_public(str(said["sealing_key"]), "seal").id if said.get("sealing_key") else ""
            lacking = [worker["worker"] for worker in of if key_id and key_id not in worker["sealing_keys"]]
            if lacking:
                yield Finding(
                    "warning",
                    "queue.unopened",
                    f"worker {lacking[0]} cannot open the secrets of runs of queue {queue}: it has no key {key_id}",
                    "put the file that launch-worker keys new --for-queue has made into its LAUNCH_SEALING_KEYS, and "
                    "start it anew",
                )


def _archive(store: Store, settings: Settings) -> Iterator[Finding]:
    if not settings.has_archive:
        return
    from launch_worker.database import open_database

    database = open_database(settings)
    from launch_worker.archive.status import status

    try:
        found = status(database, store)
    finally:
        database.close()
    where, start = f"the archive {found.database}", "start it: launch-worker archive run"
    if not found.leader:
        yield Finding("warning", "archive.alone", f"nobody writes {where}; it misses what happens now", start)
    elif found.lag_s > _ARCHIVE_LAG_S:
        lag = format_duration(round(found.lag_s))
        yield Finding("warning", "archive.behind", f"{where} is {lag} behind", "read the log of its process")
    elif not found.walk_ended_at:
        yield Finding("warning", "archive.incomplete", f"{where} does not have all runs yet", "wait for its first walk")
    else:
        runs = sum(count for name, count in found.counts.items() if name != "deleted")
        yield Finding("ok", "archive", f"{where} has {runs:,} runs, as of {isoformat(found.walk_ended_at)} or later")
    waits_s = (store.now_us() - found.unpacked_since) / 1e6 if found.unpacked_since else 0.0
    if waits_s > _PACK_LATE_S and store.archive_state().log_url:
        yield Finding(
            "warning",
            "logs.unpacked",
            f"Redis keeps runs that ended {format_duration(round(waits_s))} ago: {where} could not store their output",
            "read the log of its process: `logs.wait` says why",
        )
    if lost := found.counts.get("lost"):
        yield Finding(
            "warning",
            "archive.lost",
            f"Redis lost {lost:,} runs before they ended, says {where}",
            "see launch-worker archive export for which; Redis was restored from a snapshot, or emptied",
        )


def _at_a_glance(store: Store, settings: Settings, seen: Mapping[str, Any]) -> Iterator[Finding]:
    blocked = False
    for finding in (*_server(store), *_login(store, settings), *_clock(store)):
        blocked = blocked or finding.name in _NO_WRITES
        yield finding
    yield from _workers(settings, seen, blocked=blocked)
    if not blocked:
        yield from _refusals(seen)
        yield from _queues(seen)
    yield from _too_big(store, seen["workers"])
    yield from _held(store)
    yield from _refused(store)
    yield from _unarchived(store)
    yield from _notices(store)


def _server(store: Store) -> Iterator[Finding]:
    server = store.server()
    oldest = OLDEST_SERVERS[server["product"]]
    version = tuple(int(part) for part in server["version"].split(".")[:2])
    name = f"{server['product']} {server['version']}"
    if version >= oldest:
        yield Finding("ok", "redis.version", name)
    else:
        wanted = ".".join(map(str, oldest))
        yield Finding("error", "redis.version", f"{name} is too old", f"{wanted} or newer is needed")
    if server["master"]:
        yield Finding(
            "error",
            "redis.replica",
            f"Redis is a replica of {server['master']}: nothing can be submitted, claimed or reported there",
            "set LAUNCH_REDIS_URL to the master, or make this one the master: redis-cli REPLICAOF NO ONE",
        )
    if server["aof_enabled"] and store.forgets_at_restart():
        yield Finding(
            "error",
            "redis.aof",
            "Redis would lose at its next restart what functions wrote: it reads its append-only file as the user "
            "default, who may not do all",
            "before any restart: redis-cli ACL SETUSER default '~*' '&*' +@all (it stays off), and so in its file",
        )
    elif server["aof_enabled"]:
        yield Finding(
            "ok", "redis.aof", "Redis keeps an append-only file: a restart loses nothing that was acknowledged"
        )
    else:
        yield Finding(
            "warning",
            "redis.aof",
            "Redis keeps no append-only file: a restart loses what came after its last snapshot",
            "set appendonly yes",
        )
    if not server["is_saved"]:
        yield Finding(
            "error",
            "redis.not-saved",
            "Redis could not write its data to disk the last time, and may take no writes until it can (MISCONF)",
            "make room on its disk, and read its log",
        )
    if server["restored_at"]:
        yield Finding(
            "warning",
            "redis.restored",
            f"Redis was restored from a snapshot at {server['restored_at']}: runs submitted or ended between that "
            f"snapshot and the restart are lost; workers reported {server['restored_runs']} running ones again",
            "submit again what is missing; appendonly yes keeps it from happening",
        )
    yield _memory(server)
    policy = server["maxmemory_policy"]
    if policy == "noeviction":
        yield Finding("ok", "redis.eviction", "Redis never evicts keys")
    else:
        yield Finding(
            "error",
            "redis.eviction",
            f"Redis evicts keys when it is full ({policy}), and runs are lost with them",
            "set maxmemory-policy noeviction",
        )


def _memory(server: Mapping[str, Any]) -> Finding:
    used = server["memory_used"]
    if used is None:
        return Finding("ok", "redis.memory", "Redis has no limit of memory (maxmemory) but its machine's")
    advice = "raise its maxmemory, lower LAUNCH_RETENTION, or delete runs: launch-worker delete"
    if used >= 1:
        return Finding("error", "redis.full", "Redis is full (maxmemory) and takes no writes", advice)
    if used >= _NEARLY_FULL:
        return Finding("warning", "redis.nearly-full", f"Redis uses {used:.0%} of its maxmemory", advice)
    return Finding("ok", "redis.memory", f"Redis uses {used:.0%} of its maxmemory")


def _login(store: Store, settings: Settings) -> Iterator[Finding]:
    url = RedisUrl.parse(settings.redis_url)
    level = "warning" if settings.is_insecure else "error"
    unsafe = why_unsafe(url)
    if unsafe:
        cause, _, advice = unsafe.partition("; ")
        yield Finding(level, "redis.unsafe", cause, advice)
        return
    is_open = not url.tls.get("ssl_certfile") and store.admits_anyone()
    if not is_open:
        yield Finding("ok", "redis.login", "Redis wants a login")
    elif is_loopback(url) and not store.listens_beyond_loopback():
        yield Finding("ok", "redis.login", "Redis takes commands without a password, on loopback only")
    else:
        yield Finding(
            level,
            "redis.open",
            "Redis takes commands without a password, and not on loopback only: anyone who reaches it can run commands "
            "on every worker",
            "give it a password (requirepass), or switch its default user off (deploy/redis/users.conf); "
            f"{INSECURE} makes this a warning",
        )


def _clock(store: Store) -> Iterator[Finding]:
    before = time.time()
    server_s = store.now_us() / 1e6
    after = time.time()
    offset_s = (before + after) / 2 - server_s
    if abs(offset_s) <= _CLOCK_S + (after - before):
        yield Finding("ok", "clock", "the clocks of this machine and of Redis agree")
        return
    way = "ahead of" if offset_s > 0 else "behind"
    yield Finding(
        "error" if abs(offset_s) >= _WRONG_CLOCK_S else "warning",
        "clock",
        f"this machine's clock is {format_duration(abs(offset_s))} {way} that of Redis, by which all times are kept: "
        "--at and the ages that are shown here are wrong by so much",
        "set both by NTP, for instance with: timedatectl set-ntp true",
    )


def _workers(settings: Settings, seen: Mapping[str, Any], *, blocked: bool) -> Iterator[Finding]:
    workers, ages = seen["workers"], seen["passes"]
    late = [name for name, age in ages.items() if age > 6 * settings.pass_s]
    if blocked and (late or not workers):
        yield Finding(
            "warning",
            "workers",
            "nothing is known of workers and passes, for Redis does not take their word",
            "mend what is wrong with Redis first; running jobs go on, and their ends are reported then",
        )
    else:
        if not workers:
            start = "start one with: celery -A launch_worker worker -Q default"
            yield Finding("warning", "workers", "no worker is alive", start)
        else:
            alive = "1 worker is alive" if len(workers) == 1 else f"{len(workers)} workers are alive"
            yield Finding("ok", "workers", alive)
        if late:
            start = "start beat with: celery -A launch_worker beat"
            yield Finding("warning", "passes", f"passes are late ({', '.join(late)})", start)
        elif ages:
            yield Finding("ok", "passes", "the passes are done in time")
    for name, count in Counter(worker["worker"] for worker in workers).items():
        if count > 1:
            yield Finding(
                "warning",
                "worker.twins",
                f"{count} workers are called {name}",
                "give each a name of its own with -n, or an order to one reaches all",
            )
    for worker in workers:
        if worker.get("problem"):
            yield Finding(
                "error",
                "worker.problem",
                f"worker {worker['worker']} {worker['problem']}",
                f"mend that, then have it go on: launch-worker workers resume {worker['worker']}"
                if worker["state"] == "quarantined"
                else "mend that; it goes on by itself",
            )


def _refusals(seen: Mapping[str, Any]) -> Iterator[Finding]:
    """The queues that workers leave alone, for what these ask of the machine."""
    for worker in seen["workers"]:
        for queue, why in (worker.get("refused") or {}).items():
            yield Finding(
                "warning",
                "queue.refused",
                f"worker {worker['worker']} takes no runs of queue {queue}, for {why}",
                f"mend that and start the worker anew, or change it: launch-worker queues set {queue}",
            )


def _queues(seen: Mapping[str, Any]) -> Iterator[Finding]:
    for queue in seen["queues"]:
        if queue["state"] == "Idle":
            cause, _, advice = why_unserved(seen["workers"], queue["name"]).partition("; ")
            waits = f"queue {queue['name']} is Idle, {_runs(queue['waiting'])} in it: {cause}"
            yield Finding("warning", "queue.unserved", waits, advice)


def _runs(count: int) -> str:
    return plural(count, "run waits", "runs wait")


def _too_big(store: Store, workers: list[dict[str, Any]]) -> Iterator[Finding]:
    """Each queue's oldest run that no live worker of it could run even alone."""
    found: set[str] = set()
    for record in islice(store.runs({"state": {RunState.PENDING}}, newest_first=False), _FIRST_RUNS):
        consumers = [worker for worker in workers if record.queue in worker["queues"]]
        if not record.needs or not consumers or record.queue in found:
            continue
        why = why_never(record.needs, consumers)
        if why:
            found.add(record.queue)
            yield Finding(
                "warning",
                "run.too-big",
                f"run {record.id} in queue {record.queue} wants {why}",
                f"start a larger worker, or cancel it: launch-worker cancel {record.id}",
            )


def _held(store: Store) -> Iterator[Finding]:
    for record in store.held(limit=5):
        cause, _, advice = record.why_held().rpartition("; ")
        yield Finding("error", "run.held", f"run {record.id} waits: {cause}", advice)


def _refused(store: Store) -> Iterator[Finding]:
    for item in store.refused(limit=5):
        yield Finding(
            "warning",
            "item.refused",
            f"an item of queue {item['queue']} was refused: {item['reason']}",
            "look at it, and who sent it: redis-cli LRANGE launch:refused 0 -1; DEL launch:refused forgets them",
        )


def _unarchived(store: Store) -> Iterator[Finding]:
    state = store.archive_state()
    if state.deleted_at and store.now_us() - state.deleted_at < _RECENT_US:
        runs = "1 ended run was" if state.deleted == 1 else f"{state.deleted} ended runs were"
        yield Finding(
            "error",
            "archive.missed",
            f"{runs} deleted before an archive had them, the last at {isoformat(state.deleted_at)}: more waited for it "
            "than LAUNCH_UNARCHIVED_BYTES allows",
            "start the archive, or raise LAUNCH_UNARCHIVED_BYTES of workers and beat",
        )


def _notices(store: Store) -> Iterator[Finding]:
    """What runs were to tell, and did not, or not yet."""
    state, now = store.outbox_state(), store.now_us()
    if state.known is None and state.waiting:
        yield Finding(
            "warning",
            "notices.alone",
            f"{plural(state.waiting, 'notice waits', 'notices wait')}, and no process sends them",
            "start launch-worker server, or launch-worker archive run",
        )
    for name, channel in state.channels.items():
        if channel.failing_since and now - channel.failing_since > _FAILING_S * 1e6:
            span = format_duration(round((now - channel.failing_since) / 1e6))
            yield Finding(
                "warning",
                "notices.failing",
                f"channel {name} has taken no notice for {span}, and {channel.waiting:,} wait: {channel.error}",
                f"see to its receiver, or change the channel: launch-worker channels set {name}",
            )
    if state.lost_at and now - state.lost_at < _RECENT_US:
        whys = {
            "was refused": state.refused,
            "was given up": state.given_up,
            "found no room": state.dropped,
            "had no channel": state.unknown,
        }
        told = ", ".join(
            f"{count:,} {why.replace('was', 'were') if count > 1 else why}" for why, count in whys.items() if count
        )
        yield Finding(
            "warning",
            "notices.lost",
            f"notices were not told, the last at {isoformat(state.lost_at)}; of all so far {told}",
            "launch-worker channels says which channel, and what its receiver answered",
        )


def _records(store: Store, settings: Settings) -> Iterator[Finding]:
    wrong = store.inconsistencies(limit=10_000)
    for text in wrong[:5]:
        yield Finding("error", "records", text, "delete the run, or restore Redis from a backup (docs/operations.md)")
    if not wrong:
        counts = store.counts()
        total = sum(counts.values())
        yield Finding("ok", "records", f"records and indexes agree ({total} runs, {counts[RunState.RUNNING]} Running)")


def _logs(store: Store, settings: Settings) -> Iterator[Finding]:
    url = settings.log_url
    if not url:
        return
    # Imports fsspec.
    from launch_worker.objects import Objects

    try:
        objects = Objects(url, setting="LAUNCH_LOG_URL", what="logs")
        # A folder that is missing is made with the first log.
        objects.folders()
    except LaunchError as error:
        yield Finding(
            "error",
            "logs.away",
            str(error),
            "mend that: until then workers keep the output on their disks, and drop the oldest where it is too much",
        )
        return
    yield Finding("ok", "logs", f"the whole output of large logs is kept at {objects.shown}")
    archive = store.archive_state()
    if not archive.name:
        yield Finding(
            "warning",
            "logs.undeleted",
            f"nothing deletes the logs at {objects.shown} when their runs are deleted, for there is no archive",
            "delete old ones yourself, by a rule of the bucket or by cron (docs/reference/archive.md)",
        )
    elif archive.log_url != objects.shown:
        where = f"deletes logs at {archive.log_url}" if archive.log_url else "has no LAUNCH_LOG_URL"
        yield Finding(
            "warning",
            "logs.undeleted",
            f"nothing deletes the logs at {objects.shown} when their runs are deleted: the archive's process {where}",
            "set the same LAUNCH_LOG_URL for launch-worker archive run, and start it again",
        )


def _outputs(store: Store, settings: Settings) -> Iterator[Finding]:
    waits = waiting(settings.work_dir)
    if settings.output_url:
        # Imports fsspec.
        from launch_worker.objects import Objects

        try:
            objects = Objects(settings.output_url, setting="LAUNCH_OUTPUT_URL", what="outputs")
            # A folder that is missing is made with the first output.
            objects.folders()
        except LaunchError as error:
            advice = "mend that: until then workers keep what jobs left on their disks"
            yield Finding("error", "outputs.away", str(error), advice)
        else:
            yield Finding("ok", "outputs", f"what jobs leave is kept at {objects.shown}")
            archive = store.archive_state()
            if archive.output_url != objects.shown:
                why = f"the archive's process deletes at {archive.output_url}" if archive.output_url else ""
                why = why or (
                    "the archive's process has no LAUNCH_OUTPUT_URL" if archive.name else "there is no archive"
                )
                yield Finding(
                    "warning",
                    "outputs.undeleted",
                    f"nothing deletes what is kept at {objects.shown} when its runs are deleted: {why}",
                    "set the same LAUNCH_OUTPUT_URL for launch-worker archive run, and start it again",
                )
    if waits.attempts and (waits.since_s > _OUTPUTS_LATE_S or not settings.output_url):
        yield Finding(
            "warning",
            "outputs.waiting",
            f"outputs of {plural(waits.attempts, 'attempt')} wait on this machine to be stored, for "
            f"{format_duration(waits.since_s)} by now",
            "start a worker here with LAUNCH_OUTPUT_URL; its log says why they cannot be stored (outputs.…)",
        )


def _work_dir(store: Store, settings: Settings) -> Iterator[Finding]:
    folder = settings.work_dir
    if not folder.exists():
        yield Finding("ok", "work-dir", f"this machine has had no worker yet (no {folder})")
        return
    reason = "" if settings.work_dir_trusted else why_not_ours(folder)
    if reason:
        cause, _, advice = reason.partition("; ")
        yield Finding(
            "warning",
            "work-dir.not-ours",
            f"no worker of yours starts with LAUNCH_WORK_DIR {folder}: {cause}",
            advice or "set LAUNCH_WORK_DIR to a folder of the worker's user alone",
        )
    undeleted = undeleted_folder(folder)
    with contextlib.suppress(OSError):
        names = sorted(path.name for path in undeleted.iterdir())
        if names:
            shown = ", ".join(names[:5]) + (" …" if len(names) > 5 else "")
            yield Finding(
                "warning",
                "work-dir.undeleted",
                f"{undeleted} holds what is left of {len(names)} attempts that the worker could not delete ({shown})",
                "delete it as root, or as who owns it",
            )
    if not os.access(folder, os.W_OK):
        yield Finding(
            "warning",
            "work-dir.not-writable",
            f"{folder} is not writable for you",
            "the worker's user must be able to write there; run doctor as that user",
        )
    free = shutil.disk_usage(folder).free
    if free > _LOW_DISK_BYTES:
        yield Finding("ok", "work-dir", f"{folder} has {free / _GIB:.1f} GiB free")
        return
    yield Finding(
        "error",
        "work-dir.full",
        f"only {free >> 20} MiB are free in {folder}, where workers keep output, code and ends of runs",
        "make room on that disk, or set LAUNCH_WORK_DIR to a folder on a larger one and start the workers anew",
    )


def _environments(store: Store, settings: Settings) -> Iterator[Finding]:
    # Imported here: `status` does without.
    from launch_worker.code.environments import folder_of, kept
    from launch_worker.code.uv import find_uv

    uv, folder = find_uv(settings, os.environ), folder_of(settings)
    if settings.uv and not uv:
        yield Finding(
            "warning",
            "environments.no-uv",
            f"LAUNCH_UV names {settings.uv!r}, which is no program: workers that are started so make no environments",
            "install uv there, or unset LAUNCH_UV",
        )
    if folder.is_dir():
        count, size = kept(folder)
        made = "1 Python environment is" if count == 1 else f"{count} Python environments are"
        by = f"uv is {uv}" if uv else "there is no uv here to make more"
        yield Finding("ok", "environments", f"{made} in {folder}, {format_size(size)} with uv's cache; {by}")
