"""The hardened deployments: what compose and kustomize make of them, and their Redis, really started."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from redis.backoff import NoBackoff
from redis.retry import Retry

from launch_worker.dev.redis_server import find_redis_server
from tests.conftest import wait_until
from tests.deploy.test_compose import compose_command
from tests.deploy.test_kubernetes import is_keda, of_kind, validate
from tests.support.ports import own_port

ROOT = Path(__file__).parents[2]
FILES = ("docker-compose.yml", "docker-compose.hardened.yml")
PASSWORDS = {"admin": "a-pw", "worker": "w-pw", "server": "s-pw", "server-reader": "r-pw", "scaler": "k-pw"}
ENV = {
    "LAUNCH_ADMIN_PASSWORD": PASSWORDS["admin"],
    "LAUNCH_WORKER_PASSWORD": PASSWORDS["worker"],
    "LAUNCH_SERVER_PASSWORD": PASSWORDS["server"],
    "LAUNCH_READER_PASSWORD": PASSWORDS["server-reader"],
    "LAUNCH_USERS": "/people.toml",
}
#: How often a command is tried again.
ONCE = Retry(NoBackoff(), 0)
#: Variables of Redis' container.
OF_REDIS = {
    "REDISCLI_AUTH": PASSWORDS["admin"],
    "WORKER_PASSWORD": PASSWORDS["worker"],
    "SERVER_PASSWORD": PASSWORDS["server"],
    "READER_PASSWORD": PASSWORDS["server-reader"],
    "SCALER_PASSWORD": PASSWORDS["scaler"],
}


def composed(env: dict[str, str], tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """What compose makes of both files, with these variables and no file .env."""
    (tmp_path / "env").touch()
    if not (shutil.which("docker-compose") or shutil.which("docker")):
        pytest.skip("there is no compose here")
    files = [word for name in FILES for word in ("-f", name)]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("LAUNCH_")}
    command = [*compose_command(), "--env-file", str(tmp_path / "env"), *files, "config"]
    return subprocess.run(command, cwd=ROOT, env=kept | env, capture_output=True, text=True, check=False)


def test_compose_starts_nothing_before_each_part_has_a_password_and_the_server_its_people(tmp_path: Path) -> None:
    required = re.findall(r"\$\{(\w+):\?", (ROOT / FILES[1]).read_text())
    assert set(required) == set(ENV)
    refused = composed({key: value for key, value in ENV.items() if key != "LAUNCH_SERVER_PASSWORD"}, tmp_path)
    assert refused.returncode != 0
    assert "LAUNCH_SERVER_PASSWORD" in refused.stderr


def test_no_part_of_compose_has_more_than_it_needs(tmp_path: Path) -> None:
    done = composed(ENV, tmp_path)
    assert done.returncode == 0, done.stderr
    made = yaml.safe_load(done.stdout)
    services = made["services"]
    assert set(services) == {"redis", "worker-default", "worker-gpu", "beat", "server"}
    for name, service in services.items():
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"]), name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["mem_limit"], name
        assert service["pids_limit"], name
        assert "docker.sock" not in str(service), name
        assert "trial" not in str(service), name
        assert name == "server" or "ports" not in service, name
        url = service["environment"].get("LAUNCH_REDIS_URL", "")
        assert name == "redis" or any(f":{password}@" in url for password in PASSWORDS.values()), name
    assert made["networks"]["store"]["internal"] is True
    assert set(services["redis"]["networks"]) == set(services["beat"]["networks"]) == {"store"}
    for name in ("worker-default", "worker-gpu"):
        said = services[name]["environment"]
        assert (said["LAUNCH_ALLOW_ROOT"], said["LAUNCH_ENV_FROM_ALLOW"]) == ("0", "none")
    assert "/people.toml:/etc/launch-worker/users.toml:ro" in str(services["server"]["volumes"])


def test_no_program_of_a_workers_container_but_the_worker_has_its_login() -> None:
    """The engine's init and a check are started with the container's environment, and jobs are of the same user."""
    for name in FILES:
        services = yaml.safe_load((ROOT / name).read_text())["services"]
        for service in ("worker-default", "worker-gpu"):
            assert not {"init", "healthcheck"} & set(services[service]), (name, service)
    hardened = yaml.safe_load((ROOT / "deploy" / "kubernetes-hardened" / "worker.yaml").read_text())
    [container] = hardened["spec"]["template"]["spec"]["containers"]
    assert set(container) == {"name", "env", "securityContext", "volumeMounts"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """All manifests of the overlay."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("there is no kubectl here")
    folder = tmp_path_factory.mktemp("deploy")
    for name in ("kubernetes", "kubernetes-hardened", "redis"):
        shutil.copytree(ROOT / "deploy" / name, folder / name)
    shutil.copy(folder / "kubernetes" / "secrets.env.example", folder / "kubernetes" / "secrets.env")
    command = [kubectl, "kustomize", str(folder / "kubernetes-hardened")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def test_each_pod_of_kubernetes_is_restricted_and_nobody_writes_to_its_file_system(built: list[dict[str, Any]]) -> None:
    for manifest in built:
        if not is_keda(manifest):
            validate(manifest)
    [namespace] = of_kind("Namespace", manifests=built).values()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    pods = {**of_kind("Deployment", manifests=built), **of_kind("StatefulSet", manifests=built)}
    assert set(pods) == {"redis", "worker-default", "worker-gpu", "beat", "server"}
    for name, made in pods.items():
        spec = made["spec"]["template"]["spec"]
        assert spec["automountServiceAccountToken"] is False, name
        assert (spec["securityContext"]["runAsNonRoot"], spec["securityContext"]["seccompProfile"]["type"]) == (
            True,
            "RuntimeDefault",
        ), name
        assert not any("hostPath" in volume for volume in spec["volumes"]), name
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
    worker = pods["worker-gpu"]["spec"]["template"]["spec"]["containers"][0]
    said = {entry["name"]: entry.get("value") for entry in worker["env"]}
    assert (said["LAUNCH_ENV_FROM_ALLOW"], said["LAUNCH_REQUIRE_SIGNED"]) == ("none", "0")
    assert {mount["mountPath"] for mount in worker["volumeMounts"]} == {"/tmp", "/var/lib/launch-worker"}


def test_no_pod_of_kubernetes_reaches_more_than_it_needs(built: list[dict[str, Any]]) -> None:
    out = {
        name: policy["spec"]
        for name, policy in of_kind("NetworkPolicy", manifests=built).items()
        if policy["spec"]["policyTypes"] == ["Egress"]
    }
    assert set(out) == {"redis-out", "to-redis", "workers-out", "server-out"}
    assert "egress" not in out["redis-out"]
    for name in ("workers-out", "server-out"):
        [everywhere, _] = out[name]["egress"][0]["to"]
        assert "169.254.0.0/16" in everywhere["ipBlock"]["except"], name
    assert "10.0.0.0/8" in out["workers-out"]["egress"][0]["to"][0]["ipBlock"]["except"]


def script_of(deployment: str) -> str:
    """The shell script that starts Redis, as a container gets it."""
    if deployment == "compose":
        text = yaml.safe_load((ROOT / FILES[1]).read_text())["services"]["redis"]["command"][2]
        return re.sub(r"\$\{\w+:-(\w+)\}", r"\1", text).replace("$$", "$")
    [redis_set] = of_kind("StatefulSet").values()
    text = redis_set["spec"]["template"]["spec"]["containers"][0]["args"][0]
    return str(text)


def as_user(port: int, user: str) -> redis.Redis:
    return redis.Redis(port=port, username=user, password=PASSWORDS[user], retry=ONCE)


@pytest.fixture(params=["compose", "kubernetes"])
def started(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[int, set[str]]]:
    """A port of Redis as the script starts it, and the users that it gives passwords to."""
    port = own_port()
    script = script_of(request.param).replace("/etc/launch-redis/", f"{ROOT}/deploy/redis/")
    script = script.replace("exec redis-server", f"exec {find_redis_server()}")
    script = script.replace("dir /data", f"dir {tmp_path}\nbind 127.0.0.1\nport {port}")
    process = subprocess.Popen(["sh", "-c", script], env=os.environ | OF_REDIS, stdout=subprocess.DEVNULL)
    try:
        client = as_user(port, "admin")

        def answers() -> bool:
            assert process.poll() is None
            try:
                return bool(client.ping())
            except redis.exceptions.ConnectionError:
                return False

        wait_until(answers, what="Redis answers")
        client.close()
        yield port, set(PASSWORDS) - ({"scaler"} if request.param == "compose" else set())
    finally:
        process.terminate()
        process.wait(10)


def test_redis_has_a_password_of_its_own_for_each_part(started: tuple[int, set[str]]) -> None:
    port, users = started
    for user in users:
        client = as_user(port, user)
        assert client.ping() if user != "scaler" else client.llen("gpu") == 0
        client.close()
    admin = as_user(port, "admin")
    assert len(admin.acl_users()) == len(users) + 1
    assert admin.config_get("maxmemory")["maxmemory"] == str(1 << 30)
    admin.close()
    for login in ({}, {"username": "worker", "password": PASSWORDS["admin"]}):
        stranger = redis.Redis(port=port, retry=ONCE, **login)  # type: ignore[arg-type]
        with pytest.raises(redis.exceptions.RedisError):
            stranger.ping()
        stranger.close()
