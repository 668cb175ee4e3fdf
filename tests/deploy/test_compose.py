"""docker-compose.yml, really brought up: submitting from outside, scaled workers, one of them killed."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch_worker import Run, submit
from launch_worker.api.client import Api
from launch_worker.dev.redis_server import free_port
from launch_worker.errors import BrokerUnavailableError
from launch_worker.model.states import RunState
from launch_worker.people.passwords import hash_password
from launch_worker.settings import Settings
from launch_worker.untrusted.text import read_map
from tests.conftest import wait_until
from tests.deploy.images import python_image, redis_image
from tests.support.engine import engine as engine
from tests.system.conftest import states, wait_for_output

ROOT = Path(__file__).parents[2]
#: On the volume that all workers share.
STAMPS = "/var/lib/launch-worker/stamps"


class Stack:
    """The services of docker-compose.yml under a project name and on ports of their own."""

    def __init__(
        self, engine: Any, env: dict[str, str], *, project: str, env_file: Path, files: tuple[str, ...] = ()
    ) -> None:
        self._engine = engine
        #: Words that name the files; none for compose's own choice.
        self._files = [word for name in files for word in ("-f", name)]
        # A file .env beside docker-compose.yml would be an operator's.
        self._env_file = env_file
        self.project = project
        redis_port, self.server_port = free_port(), free_port()
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("LAUNCH_", "FLOWER_"))}
        self.env = kept | env | {"PATH": f"{Path(sys.executable).parent}:{kept['PATH']}"}
        self.env |= {"LAUNCH_REDIS_PORT": str(redis_port), "LAUNCH_SERVER_PORT": str(self.server_port)}
        # No buildx is needed.
        self.env |= {"DOCKER_BUILDKIT": "0", "COMPOSE_DOCKER_CLI_BUILD": "0"}
        self.url = f"redis://:trial@127.0.0.1:{redis_port}/0"
        self.api = Api(settings=Settings.from_env({}, redis_url=self.url))

    def compose(self, *arguments: str, check: bool = True) -> str:
        done = subprocess.run(
            [*compose_command(), "--env-file", self._env_file, *self._files, "-p", self.project, *arguments],
            cwd=ROOT,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def containers(self, service: str) -> list[Any]:
        labels = [f"com.docker.compose.project={self.project}", f"com.docker.compose.service={service}"]
        found: list[Any] = self._engine.containers.list(filters={"label": labels})
        return found

    def health(self, service: str) -> list[str]:
        return [container.attrs["State"].get("Health", {}).get("Status", "") for container in self.containers(service)]

    def close(self) -> None:
        self.api.store.close()
        self.compose("down", "--volumes", "--timeout", "1", check=False)


def compose_command() -> list[str]:
    """Compose v2, else v1."""
    docker = shutil.which("docker")
    if docker and subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode == 0:
        return [docker, "compose"]
    v1 = shutil.which("docker-compose")
    if v1 is None:
        why = "there is no docker compose here; install docker-compose"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    return [v1]


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    path = tmp_path / ".env"
    path.touch()
    return path


@pytest.fixture(scope="module")
def project(engine: Any) -> Iterator[str]:
    """The name of a project, whose images are built once for all stacks, one after the other."""
    name = f"launch-test-{secrets.token_hex(4)}"
    yield name
    for tag in [tag for image in engine.images.list() for tag in image.tags]:
        if tag.startswith((f"{name}_", f"{name}-")):  # compose v1 and v2
            engine.images.remove(tag, force=True)


@pytest.fixture
def stack(engine: Any, project: str, env_file: Path) -> Iterator[Stack]:
    images = {"LAUNCH_PYTHON_IMAGE": python_image(engine), "LAUNCH_REDIS_IMAGE": redis_image(engine)}
    made = Stack(engine, images, project=project, env_file=env_file)
    try:
        made.compose("up", "--detach", "--build", "--scale", "worker-gpu=3")
        yield made
    finally:
        print(made.compose("logs", "--tail", "50", check=False))
        made.close()


def gpu_workers(stack: Stack) -> list[str]:
    try:
        return [worker["worker"] for worker in stack.api.store.workers() if "gpu" in worker["queues"]]
    except BrokerUnavailableError:
        return []


def kill_worker(stack: Stack, name: str) -> None:
    """`docker kill` the gpu worker with this node name: a SIGKILL to everything in its container."""
    (container,) = [c for c in stack.containers("worker-gpu") if c.attrs["Config"]["Hostname"] in name]
    container.kill()


def every_service_gets_healthy(stack: Stack) -> None:
    for service in ("redis", "beat", "server"):
        wait_until(
            lambda service=service: stack.health(service) == ["healthy"],  # type: ignore[misc]
            timeout_s=60,
            what=f"{service} is healthy",
        )
    # Workers have no check, whose environment jobs could read.
    wait_until(lambda: len(gpu_workers(stack)) == 3, timeout_s=60, what="three gpu workers are listed")


def redis_keeps_what_it_acknowledged_and_evicts_nothing(stack: Stack) -> None:
    server = stack.api.store.server()
    assert server["aof_enabled"]
    assert server["maxmemory_policy"] == "noeviction"
    refused = subprocess.run(
        ["launch-worker", "--api", stack.url.replace(":trial@", ":wrong@"), "runs"],
        env=stack.env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 69
    assert "refused the login" in refused.stderr


def all_of_20_runs_submitted_from_outside_end_true_though_a_worker_is_killed(stack: Stack) -> None:
    program = f"echo $LAUNCH_RUN_ID.$LAUNCH_ATTEMPT.begun >> {STAMPS}; echo begun; sleep 3; echo ended; "
    program += f"echo $LAUNCH_RUN_ID.$LAUNCH_ATTEMPT.ended >> {STAMPS}"
    runs = []
    for number in range(20):
        retries = "0" if number % 5 == 4 else "2"
        command = ["launch-submit", "--quiet", "-q", "gpu", "--retries", retries, "--", "sh", "-c", program]
        asked = subprocess.run(
            command, env=stack.env | {"LAUNCH_REDIS_URL": stack.url}, capture_output=True, text=True, check=True
        )
        runs.append(stack.api.run(asked.stdout.strip()))
    running = wait_until(
        lambda: [r for r in stack.api.runs(filters={"state": "running"}) if r.id in {x.id for x in runs}]
    )
    victim = running[0].record.worker
    kill_worker(stack, victim)
    killed_at = time.monotonic()
    ends = [run.wait(90) for run in runs]
    assert time.monotonic() - killed_at < 75
    stamps = stack.compose("exec", "-T", "worker-default", "cat", STAMPS).split()
    crashed = 0
    without_retries = runs[4::5]
    for run, end in zip(runs, ends, strict=True):
        told = states(run)
        begun = [stamp for stamp in stamps if stamp.startswith(run.id) and stamp.endswith("begun")]
        ended = [stamp for stamp in stamps if stamp.startswith(run.id) and stamp.endswith("ended")]
        assert len(begun) == told.count("Running"), (told, stamps)
        if "Crashed" in told:
            crashed += 1
            assert any(step.worker == victim for step in run.transitions)
            assert run.logs(attempt=1) in (b"", b"begun\n")
        if end is RunState.FINISHED:
            assert told == ["Pending", "Running", *["Crashed", "Pending", "Running"] * (len(begun) - 1), "Finished"]
            assert ended == [f"{run.id}.{len(begun)}.ended"]
            assert run.logs() == b"begun\nended\n"
        else:
            assert (end, told[1:]) == (RunState.CRASHED, ["Running", "Crashed"])
            assert run in without_retries
            assert ended == []
    assert crashed, "the worker was killed between two jobs: nothing was tried"


def what_a_killed_worker_could_not_deliver_its_neighbour_does(stack: Stack) -> None:
    script = f"echo begun; until [ -e {STAMPS}.end ]; do sleep 0.1; done; echo ended; exit 7"
    run = submit(["sh", "-c", script], queue="gpu", api=stack.api)
    wait_for_output(run, b"begun")
    victim = run.refresh().worker
    (redis,) = stack.containers("redis")
    redis.kill()
    try:
        stack.compose("exec", "-T", "worker-default", "touch", f"{STAMPS}.end")
        wait_until(lambda: ends_on_disk(stack, run), timeout_s=20, what="the end is on the volume")
        kill_worker(stack, victim)
    finally:
        redis.start()
    wait_until(lambda: gpu_workers(stack), what="Redis is back")
    assert run.wait(60) is RunState.FAILED
    assert run.exit_code == 7
    assert run.logs() == b"begun\nended\n"
    assert "Crashed" not in states(run)


def ends_on_disk(stack: Stack, run: Run) -> bool:
    found = stack.compose("exec", "-T", "worker-default", "find", "/var/lib/launch-worker", "-name", "report.json")
    return run.id in found


def a_large_output_is_whole_for_every_worker(stack: Stack) -> None:
    run = submit(["seq", "300000"], queue="gpu", api=stack.api)
    assert run.wait(60) is RunState.FINISHED
    read = ("exec", "-T", "worker-default", "launch-worker", "logs", run.id)
    whole = "".join(f"{number}\n" for number in range(1, 300_001))
    wait_until(lambda: stack.compose(*read) == whole, timeout_s=30, what="a neighbour reads all of it")


def what_a_job_leaves_is_there_for_every_worker(stack: Stack) -> None:
    run = submit(["sh", "-c", 'echo 7 > "$LAUNCH_OUTPUT_DIR/a"'], queue="gpu", api=stack.api)
    assert run.wait(60) is RunState.FINISHED
    read = ("exec", "-T", "worker-default", "launch-worker", "files", run.id, "a")
    wait_until(lambda: stack.compose(*read, check=False) == "7\n", timeout_s=30, what="a neighbour reads it")


def all_runs_are_archived(stack: Stack) -> None:
    known = sum(stack.api.store.counts().values())

    def archived() -> int:
        said = stack.compose("exec", "-T", "server", "launch-worker", "archive", "status", "--json", check=False)
        return sum(read_map(said).get("runs", {}).values())

    wait_until(lambda: archived() == known, timeout_s=60, what="the archive has all runs")


def the_server_needs_the_login(stack: Stack) -> None:
    import requests

    # Workers are there before the server is.
    wait_until(lambda: stack.health("server") == ["healthy"], timeout_s=60, what="the server is healthy")
    page = f"http://127.0.0.1:{stack.server_port}"
    assert requests.get(f"{page}/celery/workers", timeout=10).status_code == 401
    browser = requests.Session()
    login = browser.post(f"{page}/api/v1/login", json={"name": "me", "password": "trial"}, timeout=30)
    assert login.json()["role"] == "admin"
    assert browser.get(f"{page}/celery/workers", timeout=30).status_code == 200
    assert len(browser.get(f"{page}/api/v1/workers", timeout=10).json()["workers"]) == 4


@pytest.mark.timeout(300)
def test_docker_compose_up_is_a_whole_system_that_outlasts_what_is_killed_in_it(stack: Stack) -> None:
    """In one test, for the stack takes 20 s to make."""
    wait_until(lambda: len(gpu_workers(stack)) == 3, timeout_s=60, what="three gpu workers are listed")
    redis_keeps_what_it_acknowledged_and_evicts_nothing(stack)
    a_large_output_is_whole_for_every_worker(stack)
    what_a_job_leaves_is_there_for_every_worker(stack)
    a_job_finds_no_login_for_redis(stack)
    the_server_needs_the_login(stack)
    all_of_20_runs_submitted_from_outside_end_true_though_a_worker_is_killed(stack)
    what_a_killed_worker_could_not_deliver_its_neighbour_does(stack)
    all_runs_are_archived(stack)
    stack.compose("up", "--detach", "--scale", "worker-gpu=3")
    every_service_gets_healthy(stack)


#: A job that looks for a login in all that it can see; it prints where it found one.
LOGINS = """
import contextlib, glob
for path in glob.glob("/proc/[0-9]*/environ"):
    with contextlib.suppress(OSError), open(path, "rb") as file:
        if b"redis://" in file.read():
            print(path)
print("looked at all")
"""


def a_job_finds_no_login_for_redis(stack: Stack) -> None:
    run = submit(["python", "-c", LOGINS], queue="default", api=stack.api)
    assert run.wait(60) is RunState.FINISHED
    assert run.logs() == b"looked at all\n"


HARDENED = ("docker-compose.yml", "docker-compose.hardened.yml")


@pytest.fixture
def hardened(engine: Any, project: str, env_file: Path, tmp_path: Path) -> Iterator[Stack]:
    """The hardened stack with one worker and one person, the member ada."""
    people = tmp_path / "users.toml"
    password = hash_password("ada-pw")
    # Without an admin the server does not listen.
    roles = {"ada": "member", "eve": "admin"}
    lines = [f'[users.{name}]\npassword = "{password}"\nrole = "{role}"\n' for name, role in roles.items()]
    people.write_text("".join(lines))
    # The server's own user reads it.
    for path in (people, *list(people.parents)[:4]):
        path.chmod(path.stat().st_mode | (0o755 if path.is_dir() else 0o644))
    images = {"LAUNCH_PYTHON_IMAGE": python_image(engine), "LAUNCH_REDIS_IMAGE": redis_image(engine)}
    passwords = {f"LAUNCH_{name}_PASSWORD": f"{name}-pw" for name in ("ADMIN", "WORKER", "SERVER", "READER")}
    env = images | passwords | {"LAUNCH_USERS": str(people)}
    made = Stack(engine, env, project=project, env_file=env_file, files=HARDENED)
    try:
        made.compose("up", "--detach", "--build", "--scale", "worker-gpu=0")
        yield made
    finally:
        print(made.compose("logs", "--tail", "50", check=False))
        made.close()


#: What a hostile job tries; each line that it prints is a success.
TRIES = """
import glob, os, socket
def tried(what, act):
    try:
        print(what) if act() else None
    except OSError:
        pass
tried("wrote to the system", lambda: open("/opt/planted", "w"))
tried("has a capability", lambda: "CapEff:\\t0000000000000000" not in open("/proc/self/status").read())
tried("may get more rights", lambda: "NoNewPrivs:\\t1" not in open("/proc/self/status").read())
tried("is root", lambda: os.getuid() == 0)
tried("has an engine", lambda: os.path.exists("/var/run/docker.sock"))
for path in glob.glob("/proc/[0-9]*/environ"):
    tried("read " + path, lambda: b"_PASSWORD" in open(path, "rb").read() or b"redis://" in open(path, "rb").read())
def asked(word):
    redis = socket.create_connection(("redis", 6379), timeout=5)
    redis.sendall(word)
    return redis.recv(100).startswith((b"+", b"*", b"$"))
tried("asked Redis", lambda: asked(b"KEYS *\\r\\n"))
tried("logged in to Redis", lambda: asked(b"AUTH worker \\r\\n"))
print("tried all")
"""


@pytest.mark.timeout(300)
def test_the_hardened_stack_runs_what_a_member_submits_and_holds_its_job(hardened: Stack) -> None:
    import requests

    wait_until(lambda: hardened.health("server") == ["healthy"], timeout_s=90, what="the server is healthy")
    page = f"http://127.0.0.1:{hardened.server_port}/api/v1"
    with requests.Session() as browser:
        assert browser.post(f"{page}/runs", json={}, timeout=30).status_code == 401
        login = browser.post(f"{page}/login", json={"name": "ada", "password": "ada-pw"}, timeout=30)
        assert login.json()["role"] == "member", login.text
        token = browser.post(f"{page}/tokens", json={"name": "laptop"}, timeout=30).json()["token"]
    api = Api(settings=Settings.of_client({"LAUNCH_API_TOKEN": token}, url=page.removesuffix("/api/v1")))
    run = submit(["python", "-c", TRIES], queue="default", api=api)
    assert run.wait(60) is RunState.FINISHED, run.logs()
    assert run.logs() == b"tried all\n"
    lent = submit(["true"], queue="default", env_from=["LAUNCH_REDIS_URL"], api=api)
    assert lent.wait(60) is RunState.FAILED
    assert "is not for jobs" in lent.record.reason or "does not lend it" in lent.record.reason


def configured(env_file: Path, *files: str, **variables: str) -> str:
    """The services as compose understands its files."""
    return subprocess.run(
        [*compose_command(), "--env-file", env_file, *files, "config"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_a_password_of_the_operator_is_used_everywhere(env_file: Path) -> None:
    shown = configured(env_file, LAUNCH_REDIS_PASSWORD="of-mine", LAUNCH_USERS="/etc/mine.toml")
    assert "trial" not in shown
    for user, count in {"worker": 3, "server": 1, "server-reader": 1}.items():
        assert shown.count(f"redis://{user}:of-mine@redis:6379/0") == count
    assert "/etc/mine.toml" in shown
    assert "deploy/users.toml" not in shown


def test_without_the_override_redis_has_no_port_and_nobody_from_outside_can_log_in(env_file: Path) -> None:
    def redis_of(*files: str) -> dict[str, Any]:
        services: dict[str, dict[str, Any]] = yaml.safe_load(configured(env_file, *files))["services"]
        return services["redis"]

    open_one, closed = redis_of(), redis_of("-f", "docker-compose.yml")
    assert ("ports" in open_one, "ports" in closed) == (True, False)
    assert ("LAUNCH_DIRECT" in open_one["environment"], "LAUNCH_DIRECT" in closed["environment"]) == (True, False)
