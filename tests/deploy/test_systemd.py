"""deploy/systemd: what systemd itself says of the units, and that their commands do what their comments promise."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from launch_worker import submit
from launch_worker.model.states import RunState
from launch_worker.untrusted.text import read_map
from tests.conftest import wait_until
from tests.system.conftest import Cluster, wait_for_output, wait_for_pid, waits_for
from tests.system.conftest import cluster as cluster

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
NAMES = (
    *("launch-worker@.service", "launch-worker-sandboxed@.service"),
    *("launch-beat.service", "launch-server.service", "launch-exporter.service"),
)
#: Settings with which a unit's /proc is covered in part, or namespaces are refused: no sandbox can be made then.
AGAINST_SANDBOXES = {"ProtectKernelTunables", "ProtectKernelLogs", "ProtectProc", "ProcSubset", "RestrictNamespaces"}


def settings(unit: str) -> dict[str, str]:
    """The last value of each setting."""
    return dict(re.findall(r"^(\w+)=(.*)$", (UNITS / unit).read_text(), flags=re.MULTILINE))


def command(unit: str, *, instance: str, host: str) -> list[str]:
    """ExecStart as systemd makes it a command of this machine's installation."""
    line = settings(unit)["ExecStart"].replace("/opt/launch-worker/bin", str(Path(sys.executable).parent))
    options = re.search(r'^Environment="WORKER_OPTIONS=(.*)"$', (UNITS / unit).read_text(), flags=re.MULTILINE)
    line = line.replace("%i", instance).replace("%H", host)
    return shlex.split(line.replace("$WORKER_OPTIONS", options[1] if options else ""))


def test_systemd_finds_no_fault_in_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        why = "there is no systemd-analyze here; install systemd"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    for name in NAMES:
        # It wants the programs to be there.
        text = (UNITS / name).read_text().replace("/opt/launch-worker/bin", str(Path(sys.executable).parent))
        (tmp_path / name).write_text(text)
    units = [str(tmp_path / name.replace("@", "@gpu")) for name in NAMES]
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, check=False
    )
    # A systemd before 254 ignores this one, as the units say.
    later = "Unknown key 'DelegateSubgroup'"
    ours = [line for line in verified.stderr.splitlines() if "launch" in line and later not in line]
    assert (verified.returncode, ours) == (0, []), verified.stderr


def test_the_unit_for_sandboxes_differs_in_what_these_need_and_is_harder_otherwise() -> None:
    usual, sandboxed = settings("launch-worker@.service"), settings("launch-worker-sandboxed@.service")
    assert usual.keys() - sandboxed.keys() == AGAINST_SANDBOXES & usual.keys()
    assert not AGAINST_SANDBOXES & sandboxed.keys()
    assert sandboxed["CapabilityBoundingSet"] == ""
    assert {name for name in usual.keys() & sandboxed.keys() if usual[name] != sandboxed[name]} == {
        *("Description", "ProtectSystem"),
    }


def test_a_unit_with_a_fault_would_be_found(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze here; install systemd")
    unit = tmp_path / "launch-faulty.service"
    unit.write_text("[Service]\nExecStart=/bin/true\nKillMode=gentle\n")
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
    )
    assert "launch-faulty.service" in verified.stderr


def test_a_reload_hands_the_jobs_to_the_next_worker_of_the_same_name(cluster: Cluster) -> None:
    unit = "launch-worker@.service"
    start = command(unit, instance="gpu", host="node1")
    assert (settings(unit)["Restart"], settings(unit)["KillMode"]) == ("always", "process")
    # The test's lease is 3 s, and a worker takes about so long to start here.
    cluster.env |= {"LAUNCH_LEASE_S": "30", "LAUNCH_HEARTBEAT_S": "1"}
    first = cluster.celery(*start[3:], name="first")
    run = submit(
        ["sh", "-c", f"echo begun; {waits_for(cluster.folder / 'end')}; echo ended"], queue="gpu", api=cluster.api
    )
    wait_for_output(run, b"begun")
    pid = wait_for_pid(run)
    number = re.fullmatch(r"/bin/kill -(\w+) \$MAINPID", settings(unit)["ExecReload"])
    assert number is not None
    first.signal(signal.Signals[f"SIG{number[1]}"])
    assert first.wait(20) == 0, first.log
    assert Path(f"/proc/{pid}").exists()
    second = cluster.celery(*start[3:], name="second")
    wait_until(lambda: f"run.adopted run={run.id}" in second.log, what="it is adopted")
    (cluster.folder / "end").touch()
    assert run.wait(30) is RunState.FINISHED
    assert run.logs() == b"begun\nended\n"
    assert run.refresh().worker == "gpu@node1"
    assert [step.state for step in run.transitions].count(RunState.RUNNING) == 1


def test_systemd_waits_longer_for_a_worker_than_the_worker_for_its_jobs() -> None:
    unit = "launch-worker@.service"
    drain = re.search(r"--drain-timeout (\d+)m", " ".join(command(unit, instance="gpu", host="h")))
    wait = re.fullmatch(r"(\d+)min", settings(unit)["TimeoutStopSec"])
    assert drain is not None
    assert wait is not None
    assert int(wait[1]) > int(drain[1])


def test_beat_starts_and_ends_as_its_unit_says(cluster: Cluster) -> None:
    beat = cluster.celery(*command("launch-beat.service", instance="", host="")[3:], name="beat")
    wait_until(lambda: cluster.api.store.pass_ages_s(), what="beat does the passes")
    beat.signal(signal.SIGTERM)
    assert beat.wait(20) == 0


def test_the_server_starts_archives_and_ends_as_its_unit_says(cluster: Cluster) -> None:
    words = command("launch-server.service", instance="", host="")
    assert settings("launch-server.service")["Restart"] == "always"
    server = cluster.open(*words, "--address", "127.0.0.1:0")
    try:
        wait_until(lambda: (cluster.folder / "work" / "archive.db").exists(), what="the archive is made")
        run = submit(["true"], api=cluster.api)
        look = ("launch-worker", "archive", "status", "--json")
        wait_until(lambda: read_map(cluster.run(*look).out).get("runs") == {"Pending": 1}, what="the run is archived")
        run.cancel()
        server.terminate()
        assert server.wait(30) == 0
    finally:
        server.kill()
        server.communicate()
