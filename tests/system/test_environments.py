"""Python environments: made by the worker from the requirements of a run, once a machine, whatever dies meanwhile."""

from __future__ import annotations

import json
from pathlib import Path

from launch_worker import submit
from launch_worker.model.states import RunState
from tests.conftest import wait_until
from tests.support.wheels import SlowSource, add_wheel, uv_settings
from tests.system.conftest import Cluster, job_processes, through_both_doors

#: A job that tells the version of a package and where it runs.
TELLS = ("python", "-c", "import os, sys, tiny; print(tiny.VERSION, sys.prefix, os.environ['VIRTUAL_ENV'])")


def wheels(cluster: Cluster) -> Path:
    folder = cluster.folder / "wheels"
    for version in ("1.0", "2.0"):
        add_wheel(folder, "tiny", version)
    return folder


@through_both_doors
def test_a_job_runs_in_the_environment_of_its_requirements(cluster: Cluster) -> None:
    cluster.worker(env=uv_settings(wheels(cluster)) | {"PYTHONPATH": "/nowhere"})
    (cluster.folder / "envs").mkdir()
    (cluster.folder / "envs" / "gpu.txt").write_text("-r ../base.txt\n")
    (cluster.folder / "base.txt").write_text("tiny==1.0\n")
    command = ("launch-submit", "--requirements", "envs/gpu.txt", "--wait", "--json", "--", *TELLS)
    runs = []
    for phases in (["build", "start"], []):
        result = cluster.run(*command)
        assert result.code == 0, result
        runs.append(json.loads(result.out))
        assert [phase["name"] for phase in runs[-1]["phases"]] == phases
    printed = [cluster.api.run(run["id"]).logs().decode().splitlines() for run in runs]
    assert " + tiny==1.0" in printed[0], "what uv said stands before what the job prints"
    assert printed[0][-1] == printed[1][-1]
    assert len(printed[1]) == 1
    version, prefix, virtual_env = printed[1][0].split()
    assert (version, prefix) == ("1.0", virtual_env)
    assert Path(prefix).is_relative_to(cluster.folder / "work" / "environments")

    # Found by itself in the code of a queue that says so, unless the run says otherwise.
    cluster.api.set_queue("default", defaults={"requirements": "auto"})
    project = cluster.folder / "project"
    project.mkdir()
    (project / "pyproject.toml").write_text("[tool.ruff]\n")
    (project / "requirements.txt").write_text("tiny\n")
    (project / "job.py").write_text("import tiny; print(tiny.VERSION)\n")
    upload = ("launch-submit", "--upload", str(project), "--wait", "--json")
    result = cluster.run(*upload, "--", "python", "job.py")
    assert result.code == 0, result
    shown = json.loads(result.out)
    assert shown["spec"]["requirements"] == "auto"
    assert cluster.api.run(shown["id"]).logs().decode().splitlines()[-1] == "2.0"
    result = cluster.run(*upload, "--requirements", "none", "--", "python", "-c", "import tiny")
    assert result.code == 1, "without an environment there is no such package"

    # What cannot be made fails in phase build, with uv's words in the log.
    (project / "requirements.txt").write_text("tiny==3.0\n")
    result = cluster.run(*upload, "--", "python", "job.py")
    assert result.code == 1
    shown = json.loads(result.out)
    assert (shown["state"], shown["phase"]) == ("Failed", "build")
    assert "there is no version of tiny==3.0" in shown["reason"]
    assert b"there is no version of tiny==3.0" in cluster.api.run(shown["id"]).logs()
    result = cluster.run("launch-worker", "show", shown["id"])
    assert "he environment of requirements.txt could not be made" in result.out

    # And what can be seen before is refused.
    for options, said in (
        (("--image", "busybox", "--requirements", "base.txt"), "a container has the packages of its image"),
        (("--requirements", "none.txt"), "there is no requirements file"),
        (("--upload", str(project), "--requirements", "none.txt"), "is no file of"),
        (("--python", "/usr/bin/python3"), "is not allowed"),
    ):
        result = cluster.run("launch-submit", *options, "--", "true")
        assert (result.code, said in result.err, result.err.count("\n")) == (2, True, 1), result


def test_a_build_ends_with_its_run_and_what_a_killed_worker_left_is_never_used(cluster: Cluster) -> None:
    slow = SlowSource(wheels(cluster))
    settings = uv_settings(cluster.folder / "wheels")
    worker = cluster.worker(env=settings)
    (cluster.folder / "slow.txt").write_text("slow\ntiny\n")
    requirements = str(cluster.folder / "slow.txt")
    command = ["python", "-c", "import slow, tiny; print(slow.VERSION, tiny.VERSION)"]

    cancelled = submit(command, requirements=requirements, api=cluster.api)
    wait_until(lambda: slow.builds == 1, timeout_s=60, what="a build has begun")
    wait_until(lambda: "making the Python environment" in cancelled.refresh().reason, what="the run says it")
    cancelled.stop()
    assert cancelled.wait(30) is RunState.KILLED
    wait_until(lambda: not job_processes(cancelled.id), what="nothing of the build is left")

    run = submit(command, requirements=requirements, retries=1, api=cluster.api)
    wait_until(lambda: slow.builds == 2, timeout_s=60, what="the next build has begun")
    worker.kill()
    slow.go_on()
    cluster.worker(name="w1", env=settings)
    assert run.wait(60) is RunState.FINISHED, run.record.reason
    assert run.logs().decode().splitlines()[-1] == "1.0 2.0"
    assert run.refresh().attempt == 2


def test_a_worker_without_uv_says_so_and_leaves_the_run_to_others(cluster: Cluster) -> None:
    (cluster.folder / "r.txt").write_text("tiny\n")
    cluster.worker(name="w1", env={"LAUNCH_UV": "/nowhere/uv"})
    run = submit(list(TELLS), requirements=str(cluster.folder / "r.txt"), api=cluster.api)
    wait_until(lambda: run.refresh().misstarts == 1, what="the run is back in its queue")
    told = cluster.run("launch-worker", "doctor", env={"LAUNCH_UV": "/nowhere/uv"}).out
    assert "LAUNCH_UV names '/nowhere/uv', which is no program" in told
    assert "LAUNCH_UV of this worker names '/nowhere/uv', which is no program" in run.transitions[-1].reason
    assert submit(["true"], api=cluster.api).wait(30) is RunState.FINISHED, "the worker takes other runs all the same"
