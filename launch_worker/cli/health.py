"""Defines `health`: the probe of a container or a service manager, for this machine's worker. It imports little."""

from __future__ import annotations

import time
from pathlib import Path

import click

from launch_worker import terminal
from launch_worker.agent.probes import Verdict, patience_s
from launch_worker.errors import BrokerUnavailableError, InputError
from launch_worker.settings import Settings
from launch_worker.untrusted.text import read_json

_TIMEOUT_S = 3.0


@click.command(epilog="Example: launch-worker health --ready")
@click.option("--ready", "probe", flag_value="ready", help="Whether it takes runs: not draining, not in quarantine.")
@click.option("--live", "probe", flag_value="live", help="Whether it works at all, also while Redis is away.")
@click.option("--json", "as_json", is_flag=True, help="JSON for machines.")
@click.pass_obj
def health_command(url: str | None, /, probe: str | None, as_json: bool) -> int:
    """Ask the worker of this machine or container how it is; exits 0 or 1, with one sentence.

    It is asked at LAUNCH_HEALTH_ADDRESS, else by the age of LAUNCH_HEALTH_FILE (beat too), else through Redis: set
    the same as for the worker.
    """
    settings = Settings.from_env(redis_url=url)
    if settings.health_address is not None:
        verdict = _ask(settings.health_address, probe or "health")
    elif probe == "live":
        raise InputError("--live is asked over LAUNCH_HEALTH_ADDRESS; set it for this command and the worker")
    elif settings.health_file is not None and probe is None:
        verdict = _look_at(settings.health_file, heartbeat_s=settings.heartbeat_s)
    else:
        verdict = _look_up(settings, ready=probe == "ready")
    if as_json:
        terminal.echo_json({"ok": verdict.ok, "reason": verdict.reason})
    else:
        terminal.say(verdict.reason, err=not verdict.ok)
    return int(not verdict.ok)


def _ask(address: tuple[str, int], probe: str) -> Verdict:
    import http.client

    # A worker that listens on every address is asked on loopback.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address[0], address[0])
    connection = http.client.HTTPConnection(host, address[1], timeout=_TIMEOUT_S)
    try:
        connection.request("GET", f"/{probe}")
        answer = read_json(connection.getresponse().read())
        return Verdict(bool(answer["ok"]), str(answer["reason"]))
    except (OSError, http.client.HTTPException) as error:
        return Verdict(False, f"no worker answers at {host}:{address[1]}: {error}")
    except (ValueError, KeyError, TypeError):
        return Verdict(False, f"what answers at {host}:{address[1]} is no worker; check LAUNCH_HEALTH_ADDRESS")
    finally:
        connection.close()


def _look_at(file: Path, *, heartbeat_s: float) -> Verdict:
    try:
        # The file's time and this process's are of one clock.
        age_s = time.time() - file.stat().st_mtime
    except OSError as error:
        return Verdict(False, f"{file} is not there, so Redis was not reached yet: {error.strerror}")
    if age_s > patience_s(heartbeat_s):
        return Verdict(False, f"Redis has not been reached for {age_s:.0f} s")
    return Verdict(True, f"Redis was reached {max(0.0, age_s):.0f} s ago")


def _look_up(settings: Settings, *, ready: bool) -> Verdict:
    import socket

    from launch_worker.api.client import Api

    try:
        workers = Api(settings=settings).transport.live_workers()
    except BrokerUnavailableError as error:
        return Verdict(False, str(error))
    ours = [worker for worker in workers if worker["host"] == socket.gethostname()]
    if not ours:
        return Verdict(False, "Redis knows no live worker of this machine")
    stuck = [worker for worker in ours if worker["state"] == "stuck"]
    if stuck:
        return Verdict(False, f"worker {stuck[0]['worker']}: {stuck[0]['problem']}")
    idle = [worker for worker in ours if worker["state"] != "running"]
    if ready and idle:
        return Verdict(False, f"worker {idle[0]['worker']} is {idle[0]['state']}")
    names = ", ".join(worker["worker"] for worker in ours)
    one, many = ("takes runs", "take runs") if ready else ("is alive", "are alive")
    return Verdict(True, f"{names} {one if len(ours) == 1 else many}")
