"""A person without Redis: logs in, submits, follows through a restart of the server, logs out."""

from __future__ import annotations

import json
import signal
import subprocess

from launch_worker.api.client import submit
from launch_worker.people.registry import Registry
from launch_worker.people.roles import Role
from tests.conftest import wait_until
from tests.support.http_servers import serving
from tests.support.ports import own_port
from tests.system.conftest import NOWHERE, TIMES, Cluster, waits_for


def at_home(cluster: Cluster, *command: str, secret: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command of a user who has a home, and whom no variable tells of a launch system."""
    env = {name: value for name, value in cluster.env.items() if not name.startswith("LAUNCH_")}
    env |= {"HOME": str(cluster.folder), "XDG_CONFIG_HOME": "", "XDG_STATE_HOME": ""}
    return subprocess.run(
        command, cwd=cluster.folder, env=env, input=secret, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_login_is_kept_for_its_user_alone_and_forgotten(cluster: Cluster) -> None:
    with serving(cluster.redis_url, cluster.folder / "server", variables=TIMES) as server:
        registry = Registry(server.shared.database, actor="test")
        registry.add_user("ada", password="correct horse battery", given={"": Role.MEMBER})
        wrong = at_home(cluster, "launch-worker", "login", server.url, "--name", "ada", secret="wrong\n")
        assert (wrong.returncode, wrong.stdout) == (77, ""), wrong
        done = at_home(cluster, "launch-worker", "login", server.url, "--name", "ada", secret="correct horse battery\n")
        assert done.returncode == 0, done
        kept = cluster.folder / ".config" / "launch-worker" / "login.json"
        assert kept.stat().st_mode & 0o777 == 0o600
        who = at_home(cluster, "launch-worker", "whoami", "--json")
        assert json.loads(who.stdout)["name"] == "ada"
        run = at_home(cluster, "launch-submit", "--quiet", "--", "true")
        assert cluster.api.run(run.stdout.strip()).record.user == "ada"
        assert len(registry.tokens("ada")) == 1
        assert at_home(cluster, "launch-worker", "logout").returncode == 0
        assert not kept.exists()
        assert registry.tokens("ada") == []
        # A token that is kept again is of no use after its end.
        kept.write_text(json.dumps({"url": server.url, "token": "lw_gone"}))
        kept.chmod(0o600)
        assert at_home(cluster, "launch-worker", "runs").returncode == 77
        kept.chmod(0o644)
        assert at_home(cluster, "launch-worker", "whoami").returncode == 2


def test_where_no_passwords_are_taken_a_token_is_pasted(cluster: Cluster) -> None:
    oidc = {"LAUNCH_PASSWORDS": "0", "LAUNCH_OIDC_URL": "https://login.example", "LAUNCH_OIDC_CLIENT_ID": "launch"}
    with serving(cluster.redis_url, cluster.folder / "server", variables=TIMES | oidc) as server:
        registry = Registry(server.shared.database, actor="test")
        registry.add_user("ada", given={"": Role.MEMBER})
        token, _ = registry.create_token("ada", "laptop")
        refused = at_home(cluster, "launch-worker", "login", server.url, "--name", "ada", secret="correct horse\n")
        assert refused.returncode == 2
        assert f"make a token with a browser at {server.url}/token" in refused.stderr
        kept = at_home(cluster, "launch-worker", "login", server.url, "--token", secret=f"{token}\n")
        assert kept.returncode == 0, kept
        assert json.loads(at_home(cluster, "launch-worker", "whoami", "--json").stdout)["name"] == "ada"


def test_a_follower_goes_on_through_a_restart_of_the_server(cluster: Cluster) -> None:
    port, flags = own_port(), [cluster.folder / f"flag{at}" for at in range(2)]
    lines = "".join(f"{waits_for(flag)}; seq {100 * at + 1} {100 * at + 100}\n" for at, flag in enumerate(flags))
    cluster.worker()
    run = submit(["sh", "-c", f"echo begins\n{lines}echo ends"], api=cluster.api)

    def server() -> tuple[subprocess.Popen[bytes], str]:
        """A server, and the key that it prints, which is the same each time."""
        started = cluster.open("launch-worker", "server", "--no-celery", "--address", f"127.0.0.1:{port}")
        assert started.stdout is not None
        return started, started.stdout.readline().decode().strip().rpartition("token=")[2]

    first, key = server()
    out = cluster.folder / "followed"
    env = cluster.env | {"LAUNCH_API_URL": f"http://127.0.0.1:{port}", "LAUNCH_API_TOKEN": key}
    with out.open("wb") as file:
        follower = subprocess.Popen(
            ["launch-worker", "logs", "-f", run.id], env=env | {"LAUNCH_REDIS_URL": NOWHERE}, stdout=file
        )
    try:
        wait_until(lambda: b"begins" in out.read_bytes(), what="the follower sees the beginning")
        flags[0].touch()
        wait_until(lambda: b"\n50\n" in out.read_bytes(), what="the follower is in the middle")
        first.send_signal(signal.SIGKILL)
        first.communicate()
        flags[1].touch()
        wait_until(lambda: cluster.api.run(run.id).state.is_final, what="the run ends meanwhile")
        second, _ = server()
        assert follower.wait(60) == 0
        second.send_signal(signal.SIGTERM)
        second.communicate(timeout=30)
    finally:
        follower.kill()
        follower.wait()
    numbers = "".join(f"{number}\n" for number in range(1, 201))
    assert out.read_text() == f"begins\n{numbers}ends\n"
