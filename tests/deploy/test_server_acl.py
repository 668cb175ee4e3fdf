"""deploy/redis with the server's two users: what it does and what Redis refuses it, while nobody else can log in."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import redis
import yaml

from launch_worker import submit
from launch_worker.api.client import Api
from launch_worker.api.http_transport import HttpTransport
from launch_worker.errors import ForbiddenError, SettingsError
from launch_worker.model.states import RunState
from launch_worker.people.roles import Person, Role
from launch_worker.server.address import Address
from launch_worker.server.application import make_application
from launch_worker.server.asker import Asker
from launch_worker.server.served import Served
from launch_worker.settings import Settings
from launch_worker.store import keys
from launch_worker.store.redis.connection import connect
from tests.conftest import wait_until
from tests.support.guarded import CONFIG, USERS, Guarded
from tests.support.http_servers import KEY, TestServer, serving
from tests.support.ports import own_port
from tests.support.servers import SERVER_IDS, SERVERS
from tests.system.conftest import Cluster, wait_for_output

ROOT = Path(__file__).parents[2]
ROUTES = json.loads((ROOT / "docs" / "openapi.json").read_text(encoding="utf-8"))["paths"]
BEGUN = ["sh", "-c", "echo begun; sleep 60"]


@pytest.fixture(params=SERVERS, ids=SERVER_IDS)
def guarded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Guarded]:
    made = Guarded(request.param, tmp_path, is_direct=False)
    yield made
    made.close()


@pytest.fixture
def cluster(guarded: Guarded, tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(guarded.url("worker"), tmp_path)
    yield made
    made.close()


@pytest.fixture
def server(guarded: Guarded, tmp_path: Path) -> Iterator[TestServer]:
    reader = guarded.url("server-reader")
    with serving(
        guarded.url("server"), tmp_path / "server", with_archive=True, LAUNCH_REDIS_READ_URL=reader
    ) as running:
        yield running


@pytest.fixture
def api(server: TestServer) -> Iterator[Api]:
    made = Api(settings=Settings.of_client({"LAUNCH_API_TOKEN": KEY}, url=server.url))
    yield made
    assert isinstance(made.transport, HttpTransport)
    made.transport.server.close()


@pytest.fixture
def client(server: TestServer) -> Iterator[httpx.Client]:
    with server.client() as made:
        yield made


def test_a_system_works_of_which_only_server_workers_and_beat_reach_redis(
    cluster: Cluster, guarded: Guarded, api: Api, client: httpx.Client
) -> None:
    """Every act of people through the server, and what they look at: and Redis refused nothing."""
    worker = cluster.worker("default,gpu")
    cluster.beat()
    run = submit(["sh", "-c", "echo hello"], queue="gpu", project="me/iris", api=api)
    assert run.wait(20) is RunState.FINISHED
    assert run.logs() == b"hello\n"
    run.retry()
    assert run.wait(20) is RunState.FINISHED
    with client.stream("GET", "/api/v1/events") as events:
        slow = submit(BEGUN, priority="high", api=api)
        assert next(line for line in events.iter_lines() if slow.id in line)
    wait_for_output(slow, b"begun")
    wait_until(lambda: slow.measured().is_running and slow.measured().samples, what="its worker tells")
    slow.preempt()
    wait_until(lambda: slow.refresh().attempt == 2, what="it runs again")
    slow.cancel(grace_s=0)
    assert slow.wait(20) is RunState.KILLED
    submit(["true"], queue="nobody", api=api).delete()

    folder = io.BytesIO()
    with tarfile.open(fileobj=folder, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("empty"))
    upload = f"/api/v1/uploads/{hashlib.sha256(folder.getvalue()).hexdigest()}"
    assert client.put(upload, content=folder.getvalue()).status_code == 201
    assert client.post(f"{upload}/renew").json() == {"is_there": True}

    api.create_pool("lab", limit=3)
    api.create_queue("sim", pool="lab", limit=1)
    parked = [submit(["true"], queue="sim", project="team/open", api=api) for _ in range(2)]
    api.pause_queue("sim")
    api.resume_queue("sim")
    api.set_queue("sim", limit=None, pool=None)
    api.pause_pool("lab")
    api.delete_pool("lab")
    for waiting in parked:
        waiting.cancel()
    api.delete_queue("sim")
    for waiting_most in (3, None):
        api.transport.allow("project:team/open", waiting=waiting_most, running=None, gpus=None)
    bulk = client.post("/api/v1/runs/bulk", content='{"command": ["true"], "queue": "gpu"}\n' * 120)
    group = api.group(json.loads(bulk.text.splitlines()[0])["group"])
    assert group.wait(30) == "Finished"
    assert group.retry() == 120
    group.cancel()
    schedule = {"cron": "0 3 * * *", "given": {"command": ["true"]}}
    assert client.put("/api/v1/schedules/nightly", json=schedule).status_code == 200
    assert client.delete("/api/v1/schedules/nightly").status_code == 204
    config = {"method": "grid", "parameters": {"x": {"values": [1, 2]}}, "command": ["true"]}
    sweep = api.create_sweep(config, queue="nobody")
    sweep.pause()
    sweep.resume()
    sweep.cancel()
    assert sweep.wait(20) == "CANCELED"

    # The newest look at runs is the archive's, which the server keeps with the same user.
    wait_until(lambda: run.id in {one.id for one in api.runs(filters={"project": "me/iris"})}, what="it is listed")
    wait_until(lambda: not guarded.api("admin").store.unarchived(), what="all ends are archived")
    assert "ERROR" not in str([finding.level for finding in api.findings()])
    name = api.workers()[0].name
    api.transport.order(name, "drain")
    assert worker.wait(30) == 0, worker.log
    assert "NOPERM" not in "".join(part.log for part in cluster.parts)
    assert guarded.refused() == []


def test_looking_goes_on_without_the_user_that_acts(
    cluster: Cluster, guarded: Guarded, api: Api, client: httpx.Client
) -> None:
    """Each route that only reads, and the streams, while Redis lets nobody in who could write for the server."""
    cluster.worker("default")
    run = submit(BEGUN, api=api)
    wait_for_output(run, b"begun")
    api.create_queue("sim")
    api.create_pool("lab")
    client.put("/api/v1/schedules/nightly", json={"cron": "0 3 * * *", "given": {"command": ["true"]}})
    ended = submit(["sh", "-c", "echo hello"], api=api)
    assert ended.wait(20) is RunState.FINISHED
    guarded.refused()
    guarded.admin.execute_command("ACL", "SETUSER", "server", "off")
    guarded.admin.execute_command("CLIENT", "KILL", "USER", "server")
    names = {"run_id": ended.id, "name": "sim", "group_id": "nothing", "sweep_id": "nothing", "kind": "runs"}
    names["path"] = "nothing"
    asked = 0
    for path, methods in ROUTES.items():
        if "get" not in methods or path == "/ready":
            continue
        given = names | {"name": "lab" if "pools" in path else "nightly" if "schedules" in path else "sim"}
        wanted = {"by": "state" if path.endswith("counts") else "user", "timeout": "0", "attempt": "1"}
        with client.stream("GET", path.format(**given), params=wanted) as answer:
            # The stream of events has no end.
            text = answer.read() if not path.endswith("/events") else b""
            assert answer.status_code in (200, 404, 422), (path, text)
        asked += 1
    assert asked > 30
    assert ended.logs() == b"hello\n"
    assert client.get(f"/api/v1/runs/{ended.id}/wait").json()["state"] == "Finished"
    with client.stream("GET", f"/api/v1/runs/{ended.id}/logs/tail") as tail:
        assert "hello" in tail.read().decode()
    # Whoever watches over the server learns it.
    assert client.get("/ready").status_code == 503
    refused = client.post(f"/api/v1/runs/{run.id}/cancel", json={})
    assert refused.status_code == 503, refused.text
    assert "server-pw" not in refused.text
    assert not [line for line in guarded.refused() if line.startswith("server-reader")]


def test_celerys_page_works_as_the_server(cluster: Cluster, guarded: Guarded, tmp_path: Path) -> None:
    worker = cluster.worker("default")
    reading = {"LAUNCH_REDIS_READ_URL": guarded.url("server-reader")}
    with (
        serving(guarded.url("server"), tmp_path / "server", with_celery_page=True, variables=reading) as running,
        running.client() as client,
    ):
        run = submit(["true"], api=guarded.api("server"))
        assert run.wait(20) is RunState.FINISHED
        name = guarded.api("admin").workers()[0].name
        wait_until(lambda: name in client.get("/celery/api/workers?refresh=1").text, what="the page knows the worker")
        later = submit(["true"], queue="nobody", api=guarded.api("server"))
        assert client.post(f"/celery/api/task/revoke/{later.id}").status_code == 200
        assert later.wait(20) is RunState.KILLED
        assert client.post(f"/celery/api/worker/pool/grow/{name}").status_code in (200, 403)
        assert client.post(f"/celery/api/worker/shutdown/{name}").status_code == 200
        assert worker.wait(30) == 0
    assert guarded.refused() == []


def test_a_reading_route_that_acts_by_mistake_changes_nothing(guarded: Guarded, server: TestServer, api: Api) -> None:
    run = submit(["true"], api=api)
    # What a route gets that declares `allowed`: it has no line in the audit.
    served = Served(server.shared, Asker(Person(name="ada", role=Role.ADMIN), "127.0.0.1"))
    for act in (
        lambda: served.cancel(run.id, reason="", grace_s=None),
        lambda: served.delete(run.id),
        lambda: served.allow("user:ada", waiting=1, running=None, gpus=None),
        lambda: served.configure("queue", "gpu", {"limit": 1}, create=True),
        lambda: served.send({"command": ("true",)}),
    ):
        with pytest.raises(ForbiddenError, match="may not do this"):
            act()
    assert run.refresh().state is RunState.PENDING
    assert [one.id for one in api.runs()] == [run.id]


def test_nobody_else_can_log_in(guarded: Guarded) -> None:
    for user in ("producer", "viewer", "default"):
        client = guarded.client(user)
        with pytest.raises(redis.exceptions.AuthenticationError):
            client.ping()
        client.close()


DENIED = {
    "server": [
        *(("flushall",), ("config", "get", "*"), ("keys", "*"), ("scan", "0"), ("acl", "list"), ("client", "list")),
        *(("shutdown",), ("eval", "return 1", "0"), ("script", "flush"), ("monitor",), ("rpop", "gpu")),
        *(("function", "load", "#!lua name=x"), ("function", "flush"), ("brpop", "gpu", "1"), ("del", "launch:runs")),
        *(("zadd", "launch:workers", "1", "x"), ("zadd", "launch:consumers:gpu", "1", "x"), ("del", "gpu")),
        *(("set", "launch:settling", "1"), ("hset", "launch:passes", "a", "1"), ("set", "launch:run:x", "1")),
        *(("hset", "launch:counters", "a", "1"), ("rename", "launch:runs", "x"), ("hset", "launch:free:x", "a", "1")),
    ],
    "server-reader": [
        *(
            ("flushall",),
            ("config", "get", "*"),
            ("keys", "*"),
            ("lpush", "gpu", "x"),
            ("hset", "launch:run:x", "a", "b"),
        ),
        *(
            ("zadd", "launch:runs", "1", "x"),
            ("set", "launch:settling", "1"),
            ("del", "launch:run:x"),
            ("fcall", "x", "0"),
        ),
        *(("publish", "launch:orders:x", "{}"), ("publish", "launch:news:x", "x"), ("psubscribe", "*")),
        *(("eval", "return 1", "0"), ("function", "load", "#!lua name=x"), ("xadd", "launch:changes", "*", "a", "b")),
        *(
            ("subscribe", "launch:orders:x"),
            ("rpop", "gpu"),
            ("expire", "launch:runs", "1"),
            ("xtrim", "x", "maxlen", "0"),
        ),
    ],
}


@pytest.mark.parametrize("user", DENIED)
def test_what_is_not_the_servers_work_is_refused(guarded: Guarded, user: str) -> None:
    client = guarded.client(user)
    for command in DENIED[user]:
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.execute_command(*command)
    client.close()


def test_a_wrong_login_of_the_reader_is_named(guarded: Guarded, tmp_path: Path) -> None:
    reading = {"LAUNCH_REDIS_READ_URL": guarded.url("server-reader").replace("-pw", "-secret")}
    with serving(guarded.url("server"), tmp_path / "server", variables=reading) as running, running.client() as client:
        said = client.get("/ready").json()["reason"]
    assert "wrong user name or password in LAUNCH_REDIS_READ_URL" in said
    assert "secret" not in said


def test_a_reader_of_another_redis_is_refused_at_the_start(tmp_path: Path) -> None:
    variables = {"LAUNCH_REDIS_URL": "redis://server:pw@127.0.0.1:6379/0", "LAUNCH_WORK_DIR": str(tmp_path)}
    for reader, why in (
        ("redis://server-reader:secret@127.0.0.1:6379/1", "must name the same Redis as LAUNCH_REDIS_URL"),
        ("http://server-reader:secret@127.0.0.1:6379", "LAUNCH_REDIS_READ_URL must be written as redis://"),
    ):
        settings = Settings.from_env(variables | {"LAUNCH_REDIS_READ_URL": reader})
        with pytest.raises(SettingsError, match=why) as refused:
            make_application(settings, address=Address("127.0.0.1", 7600))
        assert "secret" not in str(refused.value)


def shell_of_compose() -> str:
    """The command that starts Redis in docker-compose.yml, as the container's shell gets it."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return str(services["redis"]["command"][-1]).replace("$$", "$").replace("docker-entrypoint.sh ", "")


def shell_of_kubernetes() -> str:
    """The same of deploy/kubernetes/redis.yaml."""
    manifests = yaml.safe_load_all((ROOT / "deploy/kubernetes/redis.yaml").read_text())
    [redis_set] = [manifest for manifest in manifests if manifest["kind"] == "StatefulSet"]
    return str(redis_set["spec"]["template"]["spec"]["containers"][0]["args"][-1])


#: Passwords by the variables that the containers have.
SECRETS = {"REDISCLI_AUTH": "a", "WORKER_PASSWORD": "w", "SERVER_PASSWORD": "s", "READER_PASSWORD": "r"}
SECRETS |= {"SCALER_PASSWORD": "k"}
#: Users of docker-compose.yml and their passwords.
IN_COMPOSE = {"admin": "a", "worker": "a", "server": "a", "server-reader": "a"}


@pytest.mark.parametrize(
    ("shell", "variables", "admitted"),
    [
        (shell_of_compose, {}, IN_COMPOSE),
        (shell_of_compose, {"LAUNCH_DIRECT": "yes"}, IN_COMPOSE | {"default": "a"}),
        (
            shell_of_kubernetes,
            {},
            {"admin": "a", "worker": "w", "server": "s", "server-reader": "r", "scaler": "k"},
        ),
    ],
    ids=["compose", "compose-direct", "kubernetes"],
)
def test_a_container_of_redis_lets_in_the_systems_parts_alone(
    shell: Callable[[], str], variables: dict[str, str], admitted: dict[str, str], tmp_path: Path
) -> None:
    port = own_port()
    text = shell().replace("/etc/launch-redis", str(CONFIG)).replace("dir /data", "")
    text = text.replace("appendonly yes", f"appendonly yes\nport {port}").replace("redis-server -", f"{SERVERS[0]} -")
    process = subprocess.Popen(
        ["sh", "-c", text],
        cwd=tmp_path,
        env=SECRETS | variables | {"PATH": os.environ["PATH"]},
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: answers(port), what="Redis answers")
        for user in ("default", *(user for users in USERS.values() for user in users)):
            client = connect(f"redis://{user}:{admitted.get(user, 'a')}@127.0.0.1:{port}/0", name="test")
            if user in admitted:
                assert client.ping()
            else:
                with pytest.raises(redis.exceptions.AuthenticationError):
                    client.ping()
            client.close()
    finally:
        process.terminate()
        process.wait(10)


def answers(port: int) -> bool:
    """Whether a Redis that wants a login listens there."""
    client = connect(f"redis://127.0.0.1:{port}/0", name="test")
    try:
        return bool(client.ping())
    except redis.exceptions.AuthenticationError:
        return True
    except redis.exceptions.ConnectionError:
        return False
    finally:
        client.close()


#: What KEDA's scaler asks (pkg/scalers/redis_scaler.go).
COUNT = """
local listName = KEYS[1]
local listType = redis.call('type', listName).ok
local cmd = {zset = 'zcard', set = 'scard', list = 'llen', hash = 'hlen', none = 'llen'}
return redis.call(cmd[listType], listName)
"""


def test_a_scaler_counts_what_waits_and_reads_nothing(guarded: Guarded) -> None:
    run = submit(["true"], queue="gpu", api=guarded.api("server"))
    scaler = guarded.client("scaler")
    assert [scaler.eval(COUNT, 1, waiting) for waiting in keys.queue_lists("gpu")].count(1) == 1
    for command in (("lrange", "gpu", "0", "9"), ("rpop", "gpu"), ("hgetall", keys.run(run.id)), ("lpush", "gpu", "x")):
        with pytest.raises(redis.exceptions.NoPermissionError):
            scaler.execute_command(*command)
    with pytest.raises(redis.exceptions.ResponseError):
        scaler.eval("return redis.call('rpop', KEYS[1])", 1, "gpu")
    scaler.close()
