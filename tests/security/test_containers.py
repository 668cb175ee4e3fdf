"""What a job in a container tries against its host, and what others do with its container; beside a neighbour."""

from __future__ import annotations

import contextlib
import os

from launch_worker import submit
from launch_worker.model.states import RunState
from tests.conftest import wait_until
from tests.system.conftest import cluster, wait_for_pid, waits_for
from tests.system.test_containers import Containers, containers

__all__ = ["cluster", "containers"]

#: Lines of sh that print GOT when they have succeeded.
WAYS_OUT = (
    "busybox mount -t proc none /tmp && echo GOT mount",
    "busybox mknod /tmp/disk b 8 0 && echo GOT device",
    "echo 1 > /proc/sys/kernel/sysrq && echo GOT sysctl",
    "echo b > /proc/sysrq-trigger && echo GOT sysrq",
    "echo x > /proc/sys/kernel/core_pattern && echo GOT core_pattern",
    "busybox find /sys/fs/cgroup -name release_agent -writable 2>/dev/null | busybox grep . && echo GOT agent",
    "busybox dmesg >/dev/null && echo GOT kernel log",
    "busybox chown 1234 /bin/busybox && echo GOT chown",
    "busybox hostname forged && echo GOT hostname",
    "head -c 1 /proc/kcore >/dev/null && echo GOT memory of the kernel",
    "busybox chroot /proc/1/root ls /var/run/docker.sock && echo GOT socket",
    "env | busybox grep -q redis:// && echo GOT login",
    "busybox ifconfig lo mtu 1000 && echo GOT network",
    "busybox nice -n -5 true 2>/dev/null && echo GOT priority",
    "busybox unshare -U true && echo GOT user namespace",
)


def test_no_usual_way_leads_out_of_a_container(containers: Containers) -> None:
    containers.cluster.worker()
    flag = containers.cluster.folder / "end"
    neighbour = submit(["sh", "-c", waits_for(flag)], api=containers.cluster.api)
    wait_for_pid(neighbour)
    for user in ("0", "1000:1000"):
        run = containers.submit("\n".join(WAYS_OUT) + "\ntrue", container={"user": user, "network": "none"})
        assert run.wait(60) is RunState.FINISHED, run.record.reason
        assert b"GOT" not in run.logs(), run.logs().decode()
    flag.touch()
    assert neighbour.wait(20) is RunState.FINISHED


def test_a_container_with_a_runs_labels_ends_with_that_run_and_disturbs_no_other(containers: Containers) -> None:
    """Who may use the engine may do anything there; the worker does not take its own container for another."""
    containers.cluster.worker()
    flag = containers.cluster.folder / "end"
    neighbour = submit(["sh", "-c", waits_for(flag)], api=containers.cluster.api)
    run = containers.submit("sleep 600")
    labels = containers.of(run)["Config"]["Labels"]
    engine = containers.engine.api
    made = engine.create_container(containers.image, ["sleep", "600"], labels=labels, name=f"forged-{os.getpid()}")
    engine.start(made["Id"])
    try:
        run.cancel(grace_s=0)
        assert run.wait(30) is RunState.KILLED
        wait_until(lambda: not engine.containers(filters={"label": f"launch.run={run.id}"}), what="both are gone")
    finally:
        with contextlib.suppress(Exception):
            engine.remove_container(made["Id"], force=True)
    flag.touch()
    assert neighbour.wait(20) is RunState.FINISHED
