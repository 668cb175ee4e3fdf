"""Shells complete the words of a launch system: a real bash is asked, through both doors."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from launch_worker.api.client import Api, submit
from launch_worker.settings import Settings
from tests.redis.server.conftest import Said
from tests.support.http_servers import KEY, TestServer
from tests.support.people import OPEN, PRIVATE, tokens_of_everybody

BIN = Path(sys.executable).parent
#: For each line of words, of which the last one is unfinished, the words that bash would offer, on a line.
ASK = r"""
. <(launch-worker completion bash)
while IFS=' ' read -r -a COMP_WORDS; do
  [ "${COMP_WORDS[-1]}" = "''" ] && COMP_WORDS[-1]=''
  COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 )); COMPREPLY=()
  f=$(complete -p "${COMP_WORDS[0]}"); f=${f##*-F }; ${f%% *} "${COMP_WORDS[0]}"
  echo "${COMPREPLY[*]}"
done
"""


def asked(variables: dict[str, str], *lines: str) -> list[list[str]]:
    """The words that a bash offers behind these lines, `''` for a word that has not begun."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("LAUNCH_")}
    env |= {"PATH": f"{BIN}:{env['PATH']}", **variables}
    said = "".join(f"{line}\n" for line in lines)
    bash = ["bash", "--norc", "-c", ASK]
    done = subprocess.run(bash, env=env, input=said, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    return [line.split() for line in done.stdout.split("\n")[: len(lines)]]


def variables_of(api: Api) -> dict[str, str]:
    if api.settings.api_url:
        return {"LAUNCH_API_URL": api.settings.api_url, "LAUNCH_API_TOKEN": KEY}
    return {"LAUNCH_REDIS_URL": api.settings.redis_url}


def test_bash_offers_runs_queues_and_the_like(through: Api) -> None:
    first, second = (submit(["true"], name=name, queue="gpu", api=through).id for name in ("train", "a b"))
    sweep = through.create_sweep({"method": "grid", "command": ["true"], "parameters": {"x": {"value": 1}}})
    runs, some, name, queues, states, joined, sweeps, after, command = asked(
        variables_of(through),
        "launch-worker cancel ''",
        f"launch-worker logs --tail 3 {first[:-1]}",
        "launch-worker show tra",
        "launch-worker runs --queue ''",
        "launch-worker runs --state f",
        "launch-worker runs --queue = g",
        "launch-worker sweep wait ''",
        f"launch-submit -q gpu --after {second}",
        "launch-worker sche",
    )
    assert runs[0] == "@"
    assert {first, second} < set(runs)
    assert first in some
    assert "@" not in some
    assert name == ["train"]
    assert queues == ["default", "gpu"]
    assert states == ["finished", "failed"]
    assert joined == ["gpu"]
    assert sweeps == [sweep.id]
    assert after == [second]
    assert command == ["schedules", "schema"]


def test_where_nobody_answers_nothing_is_offered_or_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        port = hanging.getsockname()[1]
        for variables in (
            {"LAUNCH_REDIS_URL": "redis://127.0.0.1:1/0"},
            {"LAUNCH_API_URL": f"http://127.0.0.1:{port}", "LAUNCH_API_TOKEN": "x"},
            {"LAUNCH_REDIS_URL": "no URL"},
        ):
            runs, options = asked(variables, "launch-worker cancel ''", "launch-worker --ver")
            assert (runs, options) == ([], ["--version"])


def test_what_is_hidden_is_not_offered(server: TestServer) -> None:
    tokens = tokens_of_everybody(server)
    people = {name: Api(settings=Settings(api_url=server.url, api_token=token)) for name, token in tokens.items()}
    hidden = submit(["true"], name="secret", project=PRIVATE, api=people["insider"]).id
    seen = submit(["true"], project=OPEN, api=people["member"]).id
    given = {"method": "grid", "command": ["true"], "project": PRIVATE, "parameters": {"x": {"value": 1}}}
    sweep = people["insider"].create_sweep(given)

    def offered(name: str) -> set[str]:
        with server.client(tokens[name]) as client:
            kinds = ("runs", "names", "projects", "sweeps")
            return {one["word"] for kind in kinds for one in client.get(f"/api/v1/completion/{kind}").json()["words"]}

    assert {hidden, "secret", PRIVATE, sweep.id, seen, OPEN} <= offered("insider")
    assert offered("member") == {seen, OPEN, "true"}


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_their_own_lines(shell: str, call: object) -> None:
    assert callable(call)
    said: Said = call("completion", shell)
    assert said[0] == 0
    for program in ("LAUNCH_WORKER", "LAUNCH_SUBMIT"):
        assert f"_{program}_COMPLETE={shell}_complete" in said[1]
