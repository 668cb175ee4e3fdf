"""What jobs tell, through a whole system: real workers that are killed, replaced, cut off; jobs in Python and sh."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from launch_worker.api.client import Run, submit
from launch_worker.attempt.talk import MAX_ROWS
from launch_worker.dev.redis_server import RedisServer
from launch_worker.model.states import RunState
from launch_worker.runners.process import tree
from tests.conftest import wait_until
from tests.system.conftest import Cluster, job_processes, states, wait_for_output, wait_for_pid

#: A lease that outlasts the start of a worker on a loaded machine.
SLOW = {"LAUNCH_LEASE_S": "30"}
TOLD = '"$LAUNCH_RUN_DIR/to_worker"'


def python(cluster: Cluster, program: str, **options: Any) -> Run:
    source = f"import os, sys, time\nfrom launch_worker import current_run\nrun = current_run()\n{program}"
    return submit([sys.executable, "-u", "-c", source], api=cluster.api, **options)


def shell(cluster: Cluster, script: str, **options: Any) -> Run:
    return submit(["sh", "-c", script], api=cluster.api, **options)


def summary(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run.refresh().summary or "{}")
    return found


def rows(cluster: Cluster, run: Run) -> list[dict[str, Any]]:
    return cluster.api.store.metrics(run.id)


def wait_for_state(run: Run, state: RunState, *, timeout_s: float = 20.0) -> None:
    wait_until(lambda: run.refresh().state is state, timeout_s=timeout_s, what=f"the run is {state}")


def num_busy(cluster: Cluster) -> int:
    (worker,) = cluster.api.store.workers()
    return int(worker["running"])


# -- summary, metrics, messages ----------------------------------------------------------------------------------------


@pytest.mark.main_path
def test_summary_and_log_arrive_while_the_job_runs_and_are_there_at_its_end(cluster: Cluster) -> None:
    cluster.worker()
    run = python(
        cluster,
        "run.log('warming up')\n"
        "run.log({'loss': 2.0}); run.log({'loss': 1.0, 'acc': 0.5}, step=10)\n"
        "while not os.path.exists('go'): time.sleep(0.02)\n"
        "run.summary['best'] = run.config['lr'] * 10; run.log({'loss': 0.5})\n",
        config={"lr": 0.1},
        cwd=str(cluster.folder),
    )
    wait_until(lambda: summary(run) == {"loss": 1.0, "acc": 0.5}, what="the first rows have arrived")
    assert run.refresh().reason == "warming up"
    (cluster.folder / "go").touch()
    assert run.wait(20) is RunState.FINISHED
    assert summary(run) == {"loss": 0.5, "acc": 0.5, "best": 1.0}
    assert [(row["_step"], row["loss"]) for row in rows(cluster, run)] == [(0, 2.0), (10, 1.0), (11, 0.5)]
    assert run.record.reason == ""


def test_a_job_in_sh_writes_the_lines_by_itself(cluster: Cluster) -> None:
    cluster.worker()
    run = shell(
        cluster,
        f"""echo '{{"log": {{"loss": 0.5}}}}' >> {TOLD}
        echo '{{"summary": {{"who": "sh"}}, "message": "by hand"}}' >> {TOLD}
        echo '{{"finish": 3}}' >> {TOLD}; exit 0""",
    )
    assert run.wait(20) is RunState.FAILED
    assert (run.record.exit_code, summary(run)) == (3, {"loss": 0.5, "who": "sh"})
    assert len(rows(cluster, run)) == 1


def test_a_job_sees_its_config_its_folder_and_what_wandbs_sdk_goes_by(cluster: Cluster) -> None:
    cluster.worker()
    run = python(
        cluster,
        "import json\n"
        "files = os.listdir(os.environ['LAUNCH_RUN_DIR'])\n"
        "print(json.dumps([dict(run.config), run.id, run.attempt, run.sweep_id, files,"
        " {k: v for k, v in os.environ.items() if k.startswith('WANDB_')}]))",
        config={"lr": 0.1, "deep": {"n": [1]}},
        values={"lr": 9, "other": 1},
        project="me/iris",
        name="train",
        env={"WANDB_NAME": "mine"},
    )
    assert run.wait(20) is RunState.FINISHED, run.logs()
    config, run_id, attempt, sweep_id, files, wandb = json.loads(run.logs())
    assert config == {"lr": 0.1, "deep": {"n": [1]}, "other": 1}
    assert (run_id, attempt, sweep_id, files) == (run.id, 1, "", [])
    assert wandb == {
        "WANDB_RUN_ID": run.id,
        "WANDB_ENTITY": "me",
        "WANDB_PROJECT": "iris",
        "WANDB_NAME": "mine",
    }


def test_a_worker_that_is_told_so_gives_no_word_to_wandbs_sdk(cluster: Cluster) -> None:
    cluster.worker(env={"LAUNCH_WANDB_ENV": "0"})
    run = shell(cluster, "env | grep WANDB || echo none")
    assert run.wait(20) is RunState.FINISHED
    assert run.logs() == b"none\n"


def test_the_last_lines_of_json_are_the_summary_of_a_sweeps_run(cluster: Cluster) -> None:
    cluster.worker()
    script = f"""echo '{{"summary": {{"loss": 0.25}}}}' >> {TOLD}; echo training; echo '{{"loss": 9, "acc": 0.5}}'"""
    other = shell(cluster, script)
    config = {"method": "random", "run_cap": 1, "parameters": {"x": {"min": 0.0, "max": 1.0}}}
    sweep = cluster.api.create_sweep(config | {"command": ["sh", "-c", f"echo $LAUNCH_SWEEP_ID; {script}"]})
    made = lambda: [record.id for record in cluster.api.store.runs() if record.sweep == sweep.id]  # noqa: E731
    run = Run(cluster.api, wait_until(made, what="it has a run")[0])
    assert [run.wait(20), other.wait(20)] == [RunState.FINISHED] * 2
    assert (summary(run), summary(other)) == ({"loss": 0.25, "acc": 0.5}, {"loss": 0.25})
    assert run.logs().startswith(f"{sweep.id}\n".encode())


def test_garbage_and_a_hundred_megabytes_of_lines_are_bounded(cluster: Cluster) -> None:
    worker = cluster.worker()
    run = python(
        cluster,
        "path = os.environ['LAUNCH_RUN_DIR'] + '/to_worker'\n"
        "with open(path, 'ab') as file:\n"
        "    file.write(b'garbage\\n\\xff\\xfe\\n{\\n[1]\\n' + b'x' * 3_000_000 + b'\\n')\n"
        "    for n in range(100): file.write(b''.join(b'{\"log\": {\"x\": %d}}\\n' % n for _ in range(50_000)))\n"
        "run.summary['end'] = True\n"
        "run.finish(0)\n",
    )
    wait_for_pid(run)
    peak = 0
    while not run.refresh().state.is_final:
        peak = max(peak, int(Path(f"/proc/{worker.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
        time.sleep(0.05)
    assert run.record.state is RunState.FINISHED
    assert (summary(run)["end"], len(rows(cluster, run))) == (True, MAX_ROWS)
    assert peak < 300 << 20
    quick = shell(cluster, "exit 0")
    assert quick.wait(10) is RunState.FINISHED


# -- finish ------------------------------------------------------------------------------------------------------------


def test_a_finished_run_stays_finished_and_its_slot_is_held_until_its_process_is_gone(cluster: Cluster) -> None:
    cluster.worker(slots=1)
    run = python(
        cluster,
        "run.summary['loss'] = 1; print('result', flush=True); run.finish()\n"
        "while not os.path.exists('go'): time.sleep(0.02)\n"
        "sys.exit(1)",
        cwd=str(cluster.folder),
    )
    assert run.wait(20) is RunState.FINISHED
    assert (run.record.exit_code, run.record.late_exit) == (0, "")
    assert (summary(run), run.logs()) == ({"loss": 1}, b"result\n")
    assert job_processes(run.id)
    behind = shell(cluster, "true")
    time.sleep(1.0)
    assert behind.refresh().state is RunState.PENDING
    assert num_busy(cluster) == 1
    (cluster.folder / "go").touch()
    assert behind.wait(20) is RunState.FINISHED
    record = run.refresh()
    assert (record.state, record.exit_code, record.late_exit) == (RunState.FINISHED, 0, "1")
    assert states(run) == ["Pending", "Running", "Finished"]


def test_a_finish_with_three_is_failed_with_three_though_the_process_exits_with_zero(cluster: Cluster) -> None:
    cluster.worker()
    run = python(cluster, "run.finish(3)")
    assert run.wait(20) is RunState.FAILED
    wait_until(lambda: run.refresh().late_exit, what="its process is gone")
    assert (run.record.exit_code, run.refresh().late_exit) == (3, "0")


def test_a_finish_that_will_be_tried_again_waits_for_the_end_of_the_process(cluster: Cluster) -> None:
    cluster.worker()
    run = python(
        cluster,
        "print(time.time(), flush=True); run.finish(0 if run.attempt == 2 else 3); time.sleep(1.0); print(time.time())",
        retries=1,
    )
    assert run.wait(20) is RunState.FINISHED
    wait_until(lambda: run.refresh().late_exit, what="its process is gone")
    first, second = (cluster.api.store.log(run.id, attempt) for attempt in (1, 2))
    first_end = float(b"".join(chunk.data for chunk in first).split()[-1])
    assert float(second[0].data.split()[0]) >= first_end


@pytest.mark.parametrize("pause_s", [0.0, 0.05, 1.0])
def test_a_worker_that_is_killed_right_after_the_finish_leaves_a_finished_run(cluster: Cluster, pause_s: float) -> None:
    worker = cluster.worker(env=SLOW)
    run = python(cluster, "run.summary['x'] = 1\nrun.finish()\nprint('told', flush=True)\ntime.sleep(600)")
    talk = cluster.folder / "work" / "workers"
    wait_until(lambda: any(b'"finish"' in path.read_bytes() for path in talk.glob("*/runs/*/talk/to_worker")))
    time.sleep(pause_s)
    worker.kill()
    cluster.worker(env=SLOW)
    assert run.wait(20) is RunState.FINISHED
    assert (run.record.exit_code, summary(run), run.record.attempt) == (0, {"x": 1}, 1)
    wait_until(lambda: run.refresh().late_exit, what="what became of the process is noted")
    assert not job_processes(run.id)
    assert "Crashed" not in states(run)


def test_a_worker_that_is_frozen_and_killed_before_it_heard_the_finish_leaves_a_finished_run(cluster: Cluster) -> None:
    worker = cluster.worker(env=SLOW)
    run = python(
        cluster,
        "print('up', flush=True)\nwhile not os.path.exists('go'): time.sleep(0.02)\n"
        "run.finish()\nopen('told', 'w')\ntime.sleep(600)",
        cwd=str(cluster.folder),
    )
    wait_for_output(run, b"up")
    worker.signal(signal.SIGSTOP)
    (cluster.folder / "go").touch()
    wait_until(lambda: (cluster.folder / "told").exists(), what="the job has called itself finished")
    worker.kill()
    cluster.worker(env=SLOW)
    assert run.wait(20) is RunState.FINISHED
    assert "Crashed" not in states(run)


def test_a_finish_while_redis_is_away_is_told_when_it_is_back(cluster: Cluster, redis_server: RedisServer) -> None:
    cluster.worker(env=SLOW)
    run = python(
        cluster,
        "print('up', flush=True)\nwhile not os.path.exists('go'): time.sleep(0.02)\n"
        "run.log({'x': 1}); run.finish()\nopen('told', 'w')\nwhile not os.path.exists('end'): time.sleep(0.02)\n",
        cwd=str(cluster.folder),
    )
    wait_for_output(run, b"up")
    assert redis_server.process is not None
    redis_server.process.send_signal(signal.SIGSTOP)
    try:
        (cluster.folder / "go").touch()
        wait_until(lambda: (cluster.folder / "told").exists(), what="the job has called itself finished")
        time.sleep(2.0)
    finally:
        redis_server.process.send_signal(signal.SIGCONT)
    assert run.wait(30) is RunState.FINISHED
    assert (summary(run), len(rows(cluster, run))) == ({"x": 1}, 1)
    assert job_processes(run.id)
    (cluster.folder / "end").touch()
    wait_until(lambda: run.refresh().late_exit == "0", what="its process is gone")


def test_a_finished_job_that_goes_on_is_handed_over_to_the_next_worker(cluster: Cluster) -> None:
    first = cluster.worker(env=SLOW, slots=1)
    run = python(
        cluster,
        "run.log({'x': 1}); run.finish()\nwhile not os.path.exists('go'): time.sleep(0.02)\nsys.exit(7)",
        cwd=str(cluster.folder),
    )
    assert run.wait(20) is RunState.FINISHED
    pid = wait_for_pid(run)
    first.signal(signal.SIGUSR1)
    assert first.wait(30) == 0
    cluster.worker(env=SLOW, slots=1)
    wait_until(lambda: num_busy(cluster) == 1, what="the next worker has taken it over")
    time.sleep(1.5)
    assert job_processes(run.id) == [pid]
    (cluster.folder / "go").touch()
    wait_until(lambda: run.refresh().late_exit == "7", what="how it ended is noted")
    assert (run.refresh().state, len(rows(cluster, run))) == (RunState.FINISHED, 1)
    wait_until(lambda: num_busy(cluster) == 0, what="its slot is free")


def test_metrics_of_a_job_that_is_handed_over_are_kept_once(cluster: Cluster) -> None:
    first = cluster.worker(env=SLOW)
    run = python(cluster, "for step in range(60):\n    run.log({'x': step}); time.sleep(0.1)")
    wait_until(lambda: len(rows(cluster, run)) > 5, what="the first rows are there")
    first.signal(signal.SIGUSR1)
    assert first.wait(30) == 0
    cluster.worker(env=SLOW)
    assert run.wait(40) is RunState.FINISHED
    assert [row["x"] for row in rows(cluster, run)] == list(range(60))


# -- preempting, stopping, heartbeats ----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1])
def test_a_preempting_exit_goes_back_to_the_queue(cluster: Cluster, code: int) -> None:
    """W17."""
    cluster.worker()
    run = python(cluster, f"if run.attempt == 1:\n    run.mark_preempting()\n    sys.exit({code})\nprint('again')")
    assert run.wait(20) is RunState.FINISHED
    assert (run.record.attempt, run.record.preemptions) == (2, 1)
    assert states(run) == ["Pending", "Running", "Failed", "Pending", "Running", "Finished"]
    assert run.transitions[2].reason == f"preempted (exit code {code})"


def test_a_preempting_job_whose_machine_vanishes_goes_back_to_the_queue(cluster: Cluster) -> None:
    """W17; its worker is gone for good, and another machine's has it next."""
    worker = cluster.worker()
    run = python(
        cluster,
        "if run.attempt == 1:\n    run.mark_preempting(); print('going', flush=True); time.sleep(600)\n",
    )
    wait_for_output(run, b"going")
    wait_until(lambda: run.refresh().yields, what="it is known to be preempted")
    worker.kill()
    cluster.worker(name="w2", env={"LAUNCH_WORK_DIR": str(cluster.folder / "elsewhere")})
    assert run.wait(30) is RunState.FINISHED
    assert (run.record.attempt, run.record.preemptions) == (2, 1)
    assert "Crashed" in states(run)


def test_a_job_that_sees_that_it_shall_stop_ends_by_itself(cluster: Cluster) -> None:
    cluster.worker()
    run = python(
        cluster,
        "run.should_stop(); print('up', flush=True)\n"
        "while not run.should_stop(): time.sleep(0.02)\n"
        "print('stopped:', run.stop_reason); sys.exit(0)",
        grace=120,  # SIGTERM would come after half of it
    )
    wait_for_output(run, b"up")
    run.cancel(reason="enough")
    assert run.wait(30) is RunState.KILLED
    assert run.logs() == b"up\nstopped: enough\n"
    record = run.refresh()
    assert (record.exit_code, record.signal, record.reason) == (0, "", "enough")


def test_a_job_that_does_not_look_gets_sigterm_at_once_with_the_file_there_already(cluster: Cluster) -> None:
    """P20."""
    cluster.worker()
    run = shell(
        cluster,
        "trap 'head -n 1 \"$LAUNCH_RUN_DIR/stop\"; exit 0' TERM; echo up; while :; do sleep 0.05; done",
        grace=120,
    )
    wait_for_output(run, b"up")
    run.cancel(reason="enough")
    assert run.wait(30) is RunState.KILLED, "and not after half of its grace"
    assert run.logs().endswith(b"enough\n")


def test_a_job_that_looks_and_goes_on_is_signalled_after_half_of_its_grace(cluster: Cluster) -> None:
    cluster.worker()
    run = python(
        cluster,
        "import signal\n"
        "def end(*_): print('TERM', flush=True)\n"
        "signal.signal(signal.SIGTERM, end); run.should_stop(); print('up', flush=True)\n"
        "while True: time.sleep(0.02)",
        grace=2,
    )
    wait_for_output(run, b"up")
    begun = time.monotonic()
    run.cancel()
    wait_for_output(run, b"TERM")
    assert time.monotonic() - begun >= 1.0
    assert run.wait(20) is RunState.KILLED
    assert 2.0 <= time.monotonic() - begun < 10.0, "its own grace, and not that of runs that have none"
    assert run.refresh().signal == "SIGKILL"


def test_heartbeats_keep_a_silent_job_from_its_stall_limit_and_their_end_does_not(cluster: Cluster) -> None:
    cluster.worker()
    beats, silent = (
        python(
            cluster,
            f"for _ in range(60):\n    {beat}\n    time.sleep(0.1)\nprint('done')",
            stall_timeout=4,
            grace=1,
        )
        for beat in ("run.heartbeat()", "pass")
    )
    assert silent.wait(20) is RunState.FAILED
    assert silent.record.reason == "no output for 4 s"
    assert beats.wait(20) is RunState.FINISHED


def test_a_jobs_environment_has_no_password_and_the_folder_is_its_own(cluster: Cluster) -> None:
    cluster.worker()
    run = shell(cluster, 'stat -c %a "$LAUNCH_RUN_DIR"; env | grep -ci redis; true')
    assert run.wait(20) is RunState.FINISHED
    assert run.logs() == b"700\n0\n"


def test_nothing_of_the_talk_is_left_on_the_workers_disk(cluster: Cluster) -> None:
    cluster.worker()
    run = python(cluster, "run.log({'x': 1}); run.finish()")
    assert run.wait(20) is RunState.FINISHED
    wait_until(lambda: not list((cluster.folder / "work").glob("workers/*/runs/*")), what="its folder is gone")
    assert not any(tree.has_environ(p.id.pid, (f"LAUNCH_RUN_ID={run.id}".encode(),)) for p in tree.table())
