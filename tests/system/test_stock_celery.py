"""Each option of Celery's worker, and each command of its remote control: it works, or is refused with a sentence.

The lists are the installed Celery's: what a new Celery brings makes a test fail until somebody decides about it, here
and in docs/reference/workers.md.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from celery import Celery
from celery.bin.celery import celery as celery_command
from celery.bin.control import _compile_arguments
from celery.bin.worker import worker as worker_command
from celery.worker.control import Panel

import launch_worker.celery
from launch_worker import submit
from launch_worker.ids import new_run_id
from launch_worker.model.states import RunState
from tests.conftest import wait_until
from tests.system.conftest import Cluster, Part, wait_for_pid

assert launch_worker.celery.app, "it adds options of ours, and commands"

CELERY = (sys.executable, "-m", "celery", "-A", "launch_worker")

#: By option: the words of the command line, and what the one sentence has.
REFUSED_OPTIONS = {
    "autoscale": (["--autoscale=4,1"], "as many slots as --limit"),
    "max_tasks_per_child": (["--max-tasks-per-child=5"], "each job is a process of its own"),
    "max_memory_per_child": (["--max-memory-per-child=5000"], "launch-submit --memory"),
    "pool_start_method": (["--pool-start-method=spawn"], "are not forked"),
    "time_limit": (["--time-limit=5"], "--time-limit: a run has a limit of its own (launch-submit --timeout), or"),
    "soft_time_limit": (["--soft-time-limit=5"], "launch-submit --timeout, --grace"),
    "optimization": (["-O", "fair"], "a pool of processes is served"),
    "prefetch_multiplier": (["--prefetch-multiplier=4"], "when a slot is free"),
    "purge": (["--purge"], "launch-worker cancel --queue"),
    "include": (["-I", "json"], "no tasks of other modules"),
    "schedule_filename": (["-B", "-s", "schedule"], "no file is needed"),
    "pool": (["-P", "prefork"], "needs the threads pool, not prefork"),
    # Any setting can be given so.
    "a required setting": (["--", "worker.prefetch_multiplier=3"], "worker_prefetch_multiplier must be 1"),
}
#: By option: the words of the command line. All of these at once make one worker that works.
WORKING_OPTIONS = {
    "hostname": ["-n", "stock@%h"],
    "loglevel": ["-l", "INFO"],
    "logfile": ["-f", "worker.log"],
    "pidfile": ["--pidfile", "worker.pid"],
    "statedb": ["-S", "worker.state"],
    "concurrency": ["-c", "2"],
    "disable_prefetch": ["--disable-prefetch"],
    "task_events": ["-E"],
    "queues": ["-Q", "default,gpu,sim"],
    "exclude_queues": ["-X", "sim"],
    "without_gossip": ["--without-gossip"],
    "without_mingle": ["--without-mingle"],
    "without_heartbeat": ["--without-heartbeat"],
    "heartbeat_interval": ["--heartbeat-interval", "3"],
    "beat": ["-B"],
    "scheduler": ["--scheduler", "launch_worker.celery.beat:PassScheduler"],
    "umask": ["--umask", "027"],
    "uid": ["--uid", "0"],
    "gid": ["--gid", "0"],
    "executable": ["--executable", sys.executable],
}
#: Decided, and tried elsewhere: by `test_a_detached_worker_…`, and by click itself.
OTHER_OPTIONS = {"detach", "help"}
#: Options of launch_worker's own.
OURS = {
    *("match", "work_pool", "tag", "limit", "run_once", "prefetch_seconds", "hide_welcome", "gpus", "cpus", "memory"),
    *("strict", "drain_timeout", "detach_on_exit", "quarantine_after", "agent_config", "max_schedulers"),
    *("secure_mode", "stopped_run_timeout", "entity", "verbosity"),
}


def test_every_option_of_celerys_worker_is_decided_about() -> None:
    known = {str(option.name) for option in worker_command.params} - OURS
    decided = {*(name for name in REFUSED_OPTIONS if " " not in name), *WORKING_OPTIONS, *OTHER_OPTIONS}
    assert known - decided == set(), f"decide about {sorted(known - decided)}: here, and in docs/reference/workers.md"
    assert decided - known <= {"help"}
    assert "-P" in next(option for option in worker_command.params if option.name == "pool").opts
    assert "worker" in celery_command.commands


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The sentences for all of these at once."""
    done = subprocess.run(
        [*CELERY, "worker", *(word for words, _ in REFUSED_OPTIONS.values() for word in words)],
        cwd=tmp_path_factory.mktemp("refused"),
        # Nobody answers there: it is not asked.
        env={"PATH": str(Path(sys.executable).parent), "LAUNCH_REDIS_URL": "redis://127.0.0.1:1/0"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done
    assert not done.stdout
    return done.stderr.splitlines()


@pytest.mark.parametrize("option", REFUSED_OPTIONS)
def test_an_option_that_means_nothing_here_is_refused_with_a_sentence(refused: list[str], option: str) -> None:
    (line,) = (line for line in refused if REFUSED_OPTIONS[option][1] in line)
    assert line.startswith("launch-worker: ")
    assert len(refused) == len(REFUSED_OPTIONS)


@pytest.mark.parametrize("pool", ["solo", "processes"])
def test_another_pool_is_refused(cluster: Cluster, pool: str) -> None:
    result = cluster.run(*CELERY, "worker", "-P", pool)
    sentence = f"launch-worker: -P: a launch worker needs the threads pool, not {pool}; start it without -P\n"
    assert (result.code, result.err) == (1, sentence)


def test_a_worker_with_all_other_options_works(cluster: Cluster) -> None:
    cluster.celery("worker", *(word for words in WORKING_OPTIONS.values() for word in words), name="stock")
    log = cluster.folder / "worker.log"
    wait_until(lambda: log.exists() and "stock@" in log.read_text() and " ready." in log.read_text(), what="ready")
    (worker,) = wait_until(cluster.api.store.workers)
    assert worker["worker"].startswith("stock@")
    assert (worker["queues"], worker["slots"]) == (["default", "gpu"], 2)
    assert (cluster.folder / "worker.pid").read_text().strip() == str(worker["pid"])
    assert "beat: Starting" in log.read_text()
    for queue in ("default", "gpu"):
        assert submit(["true"], queue=queue, api=cluster.api).wait(20) is RunState.FINISHED
    cluster.parts[0].process.terminate()
    assert cluster.parts[0].wait(20) == 0
    assert not (cluster.folder / "worker.pid").exists()
    assert list(cluster.folder.glob("worker.state*"))


def test_a_detached_worker_runs_in_the_background_and_drains(cluster: Cluster) -> None:
    words = ("-D", "-Q", "default", "-l", "INFO", "--pidfile", "worker.pid", "-f", "worker.log")
    assert cluster.run(*CELERY, "worker", *words).code == 0
    (worker,) = wait_until(cluster.api.store.workers)
    assert submit(["true"], api=cluster.api).wait(20) is RunState.FINISHED
    assert cluster.run("launch-worker", "workers", "drain", worker["worker"]).code == 0
    wait_until(lambda: not (cluster.folder / "worker.pid").exists(), what="it has ended")


#: By command, in order: its arguments (RUN is a run that runs, LATER one that waits), and what an answer has; of those
#: that are refused, what the sentence has.
WORKING_COMMANDS = {
    "ping": ([], "pong"),
    "clock": ([], "clock"),
    "report": ([], "software -> celery"),
    "conf": ([], "task_ignore_result"),
    "stats": ([], "TaskPool"),
    "runs": ([], "RUN"),
    "active": ([], "RUN"),
    "query_task": (["RUN"], "active"),
    "reserved": ([], "[]"),
    "scheduled": ([], "[]"),
    "revoked": ([], "[]"),
    "registered": ([], "launch_worker.run"),
    "active_queues": ([], "default"),
    "memsample": ([], ""),
    "memdump": ([], ""),
    "disable_events": ([], "task events disabled"),
    "enable_events": ([], "task events enabled"),
    "heartbeat": ([], "null"),
    "add_consumer": (["sim"], "add consumer sim"),
    "cancel_consumer": (["sim"], "no longer consuming from sim"),
    "revoke": (["LATER"], "revoke: LATER"),
    "terminate": (["SIGKILL", "RUN"], "terminate: RUN"),
    "shutdown": ([], "the worker drains"),
}
REFUSED_COMMANDS = {
    "autoscale": (["4", "1"], "--limit"),
    "pool_grow": (["1"], "--limit"),
    "pool_shrink": (["1"], "--limit"),
    "pool_restart": ([], "launch-worker workers upgrade"),
    "time_limit": (["launch_worker.run", "1", "2"], "launch-submit --timeout"),
    "rate_limit": (["launch_worker.run", "1/m"], "worker_disable_rate_limits = False"),
    "revoke_by_stamped_headers": (["a=b"], "launch-worker cancel"),
    "election": ([], "elect nobody"),
    "objgraph": ([], "celery inspect stats"),
    "add_consumer": (["no/queue"], "queue 'no/queue' is not allowed"),
    "cancel_consumer": (["no/queue"], "queue 'no/queue' is not allowed"),
    "revoke": (["RUN"], "launch-worker cancel RUN"),
    "terminate": (["TERM", "no-run"], "'no-run' is no run's id"),
}
#: Of Celery's workers among themselves, at their start (`--without-mingle` is the default here).
INNER_COMMANDS = {"hello"}


def test_every_command_of_celerys_remote_control_is_decided_about() -> None:
    decided = {*WORKING_COMMANDS, *REFUSED_COMMANDS, *INNER_COMMANDS}
    assert set(Panel.meta) - decided == set(), f"decide about {sorted(set(Panel.meta) - decided)}"
    assert decided <= set(Panel.meta)


def control(cluster: Cluster, worker: Part, command: str, words: Sequence[str] = ()) -> str:
    """What the worker answers, as JSON; sent as `celery control` and `celery inspect` do, without starting them."""
    app = Celery(broker=cluster.env["LAUNCH_REDIS_URL"], set_as_current=False)
    (owner,) = (known["worker"] for known in cluster.api.store.workers() if known["pid"] == worker.pid)
    try:
        (answer,) = app.control.broadcast(
            command,
            arguments=_compile_arguments(command, list(words)),
            destination=[owner],
            reply=True,
            timeout=20,
        )
    finally:
        app.close()
    return json.dumps(answer[owner])


def test_each_command_of_the_remote_control_works_or_is_refused(cluster: Cluster) -> None:
    worker = cluster.worker(slots=2)
    run = submit(["sleep", "600"], api=cluster.api)
    later = submit(["true"], api=cluster.api, delay="10m")
    wait_for_pid(run)

    def call(command: str, words: list[str]) -> str:
        given = [word.replace("RUN", run.id).replace("LATER", later.id) for word in words]
        return control(cluster, worker, command, given)

    for command, (words, expected) in REFUSED_COMMANDS.items():
        said = call(command, words)
        assert expected.replace("RUN", run.id) in said, (command, said)
        assert "Traceback" not in said
    for command, (words, expected) in WORKING_COMMANDS.items():
        said = call(command, words)
        assert expected.replace("RUN", run.id).replace("LATER", later.id) in said, (command, said)
        if command == "add_consumer":
            assert submit(["true"], queue="sim", api=cluster.api).wait(20) is RunState.FINISHED
        if command == "cancel_consumer":
            wait_until(lambda: cluster.api.store.workers()[0]["queues"] == ["default"], what="the queue is dropped")
    assert later.refresh().state is RunState.KILLED
    assert later.refresh().reason == "revoked through Celery"
    assert run.wait(20) is RunState.KILLED
    assert worker.wait(20) == 0
    assert "Traceback" not in worker.log


def test_a_shutdown_by_remote_control_is_a_drain(cluster: Cluster) -> None:
    worker = cluster.worker(arguments=["--drain-timeout", "3"])
    run = submit(["sleep", "600"], api=cluster.api)
    wait_for_pid(run)
    for _ in range(2):
        # Twice: a second one ends no jobs.
        assert "the worker drains" in control(cluster, worker, "shutdown")
    assert run.refresh().state is RunState.RUNNING
    assert run.wait(20) is RunState.KILLED
    assert "the worker shut down through Celery's remote control (w1@" in run.refresh().reason
    assert "worker.draining through Celery's remote control" in worker.log
    assert worker.wait(20) == 0


def test_a_revoke_of_many_ids_answers_for_each(cluster: Cluster) -> None:
    worker = cluster.worker()
    unknown = new_run_id()
    waiting = submit(["true"], api=cluster.api, delay="10m")
    answer = json.loads(control(cluster, worker, "revoke", [waiting.id, unknown]))
    assert answer == {"error": f"there is no run {unknown}; cancelled: {waiting.id}"}
    assert waiting.refresh().state is RunState.KILLED
