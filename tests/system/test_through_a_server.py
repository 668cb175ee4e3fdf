"""A person without Redis: logs in, submits, follows through a restart of the server, logs out."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from pathlib import Path

from launch_worker.model.states import RunState
from launch_worker.people.registry import Registry
from launch_worker.people.roles import Role
from launch_worker.submission.sent import me
from tests.conftest import wait_until
from tests.support.http_servers import serving
from tests.support.people import OPEN, PRIVATE, tokens_of_everybody
from tests.support.ports import own_port
from tests.system.conftest import NOWHERE, TIMES, Cluster, Result


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


def day_of_a_user(cluster: Cluster, door: dict[str, str], project: str) -> tuple[list[str], list[Result]]:
    """The ids of the runs of one person, and what that person's commands said."""
    said: list[Result] = []

    def command(*words: str) -> str:
        said.append(cluster.run(*words, env=door))
        return said[-1].out.strip()

    job = ("sh", "-c", "echo hello; exit 3")
    command("launch-submit", "--follow", "--project", project, "--name", "first", "--tag", project, "--", *job)
    second = command("launch-submit", "--quiet", "--project", project, "-q", "nobodys", "--", "true")
    command("launch-submit", "--project", project, "-q", "nobodys", "--array", "0-1", "--", "true")
    [first] = cluster.runs(display_name="first", tags=project)
    ids = [first.id, second, *re.findall("run ([0-9a-z]{15}) ", said[-1].out)]
    command("launch-worker", "logs", first.id)
    command("launch-worker", "explain", second)
    command("launch-worker", "explain", second, "--json")
    command("launch-worker", "show", second)
    command("launch-worker", "cancel", second)
    command("launch-worker", "cancel", second)
    command("launch-worker", "wait", second)
    command("launch-worker", "retry", second)
    command("launch-worker", "runs", "--project", project)
    command("launch-worker", "runs", "--project", project, "--json")
    command("launch-worker", "show", first.id)
    command("launch-worker", "show", second, "--json")
    command("launch-worker", "delete", second, "000000000000000")
    command("launch-worker", "logs", second)
    return ids, said


def test_a_user_without_redis_is_told_what_redis_tells_and_sees_and_stops_no_more_than_allowed(
    cluster: Cluster,
) -> None:
    cluster.worker()
    with serving(cluster.redis_url, cluster.folder / "server", variables=TIMES) as server:
        tokens = tokens_of_everybody(server)

        def door(name: str) -> dict[str, str]:
            return {"LAUNCH_API_URL": server.url, "LAUNCH_API_TOKEN": tokens[name], "LAUNCH_REDIS_URL": NOWHERE}

        def plain(ids: list[str], result: Result) -> tuple[int, str, str]:
            """The result without what differs between two days: ids, times, and the name that the server has proven."""
            words = {run_id: f"ID{at}" for at, run_id in enumerate(ids)}
            words |= {me(): "SOMEBODY", "member": "SOMEBODY", "team/direct": OPEN}
            out, err = result.out, result.err
            for word, instead in words.items():
                out, err = out.replace(word, instead), err.replace(word, instead)
            for pattern, instead in (
                (r"It is (next|number \d+) in|\"place\": \d+", "PLACE"),
                (
                    r"\d+(\.\d+)? m?s( ago)?\b|\d{4}-\d\d-\d\dT[\d:.+]+|\b\d+(\.\d+)?s\b|_s\": [\d.]+|_s=[\d.]+",
                    "TIME",
                ),
                (r'("user": )("SOMEBODY"|null)', r"\1USER"),
                (r"user +SOMEBODY\n", ""),
                (r'("pid":|pid) +\d+', "PID"),
                (r"\bnow\b", "TIME"),
                (r" +", " "),
            ):
                out, err = re.sub(pattern, instead, out), re.sub(pattern, instead, err)
            # This server has no archive.
            err = err.replace("launch-worker: the archive is still empty; runs are read from Redis\n", "")
            return result.code, out, err

        ids, said = day_of_a_user(cluster, door("member"), OPEN)
        direct_ids, direct = day_of_a_user(cluster, {}, "team/direct")
        # Which states a follower sees of a brief run is by chance.
        for result in (said[0], direct[0]):
            result.err = result.err.splitlines()[-1]
        for one, other in zip(said, direct, strict=True):
            assert plain(ids, one) == plain(direct_ids, other)

        secret = cluster.run("launch-submit", "--quiet", "--project", PRIVATE, "--", "true", env=door("insider"))
        shared = cluster.run("launch-submit", "--quiet", "-q", "nobodys", "--", "true", env=door("insider"))
        for words in (("show",), ("explain",), ("logs",), ("logs", "-f"), ("cancel",), ("wait",)):
            hidden = cluster.run("launch-worker", *words, secret.out.strip(), env=door("member"))
            unknown = cluster.run("launch-worker", *words, "000000000000000", env=door("member"))
            assert (hidden.code, hidden.out, hidden.err.replace(secret.out.strip(), "0" * 15)) == (
                *(unknown.code, unknown.out),
                unknown.err,
            )
        listed = cluster.run("launch-worker", "runs", "--json", env=door("member"))
        seen = {json.loads(line)["id"] for line in listed.out.splitlines()}
        assert seen == {run.id for run in cluster.runs()} - {secret.out.strip()}
        for word in ("cancel", "delete"):
            refused = cluster.run("launch-worker", word, shared.out.strip(), env=door("member"))
            assert (refused.code, refused.out, refused.err.count("\n")) == (77, "", 1), refused
            assert "insider" in refused.err or "operator" in refused.err
        assert cluster.api.run(shared.out.strip()).state is RunState.PENDING


def test_followers_go_on_through_restarts_of_the_server(cluster: Cluster) -> None:
    port, is_enough = own_port(), cluster.folder / "enough"
    # Lines without a pause would be more than Redis keeps.
    script = f"i=0; until [ -e {is_enough} ]; do seq $((i + 1)) $((i + 100)); i=$((i + 100)); sleep 0.05; done"
    cluster.worker(env={"LAUNCH_LOG_BYTES": "64M"})
    servers: list[subprocess.Popen[bytes]] = []

    def start_server() -> str:
        """Start a server; the key that it prints is the same each time."""
        servers.append(cluster.open("launch-worker", "server", "--no-celery", "--address", f"127.0.0.1:{port}"))
        out = servers[-1].stdout
        assert out is not None
        return out.readline().decode().strip().rpartition("token=")[2]

    env = cluster.env | {"LAUNCH_API_URL": f"http://127.0.0.1:{port}", "LAUNCH_REDIS_URL": NOWHERE}
    env |= {"LAUNCH_API_TOKEN": start_server()}
    followers: list[tuple[subprocess.Popen[bytes], Path]] = []

    def follow(*words: str) -> None:
        path = cluster.folder / f"followed{len(followers)}"
        with path.open("wb") as file:
            followers.append((subprocess.Popen(words, cwd=cluster.folder, env=env, stdout=file), path))

    def see_more() -> None:
        """Wait until each follower has printed more than it has now."""
        sizes = [path.stat().st_size for _, path in followers]

        def grew() -> bool:
            return all(path.stat().st_size > size for (_, path), size in zip(followers, sizes, strict=True))

        wait_until(grew, what="all followers print more", timeout_s=60)

    try:
        follow("launch-submit", "--follow", "--", "sh", "-c", script)
        [run] = wait_until(cluster.runs, what="the run is there")
        follow("launch-worker", "logs", "-f", run.id)
        for ends_it in (signal.SIGKILL, signal.SIGTERM):
            see_more()
            servers[-1].send_signal(ends_it)
            servers[-1].communicate(timeout=30)
            start_server()
        see_more()
        is_enough.touch()
        assert [follower.wait(60) for follower, _ in followers] == [0, 0]
    finally:
        for process in (*servers, *(follower for follower, _ in followers)):
            process.kill()
            process.communicate()
    printed = run.logs()
    numbers = printed.splitlines()
    assert numbers == [b"%d" % number for number in range(1, len(numbers) + 1)]
    for _, path in followers:
        assert path.read_bytes() == printed
