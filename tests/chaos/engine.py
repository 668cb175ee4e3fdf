"""A container engine of the harness's own, which it may freeze and kill, and an image for it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.engine import busybox_root

IMAGE = "localhost/launch-chaos/python:1"
_START_S = 60.0
#: The parts of this machine that its Python needs; the image itself has a shell only.
_SYSTEM_FOLDERS = ("/usr", "/lib", "/lib64")


def mounts(*, read: tuple[Path, ...], write: tuple[Path, ...]) -> list[str]:
    """What a container must see so that this interpreter runs in it as it does outside."""
    folders = {*_SYSTEM_FOLDERS, sys.base_prefix, sys.prefix}
    seen = [folder for folder in sorted(folders) if os.path.isdir(folder)]
    outer = [folder for folder in seen if not any(folder.startswith(f"{other}/") for other in seen)]
    return [
        *(f"{folder}:{folder}:ro" for folder in [*outer, *map(str, read)]),
        *(f"{folder}:{folder}" for folder in write),
    ]


class OwnEngine:
    """A dockerd whose containers outlive it, as with `live-restore`. Takes root, and Debian's docker.io."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.socket = folder / "docker.sock"
        self.process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def is_possible() -> bool:
        return os.geteuid() == 0 and shutil.which("dockerd") is not None and shutil.which("busybox") is not None

    @property
    def log_path(self) -> Path:
        return self._folder / "dockerd.log"

    def start(self) -> None:
        """Start it (again), and wait until it answers."""
        self._folder.mkdir(exist_ok=True)
        self.spawn()
        deadline = time.monotonic() + _START_S
        while not self._answers():
            assert self.process is not None
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError(f"dockerd did not start; see {self.log_path}")
            time.sleep(0.1)

    def spawn(self) -> None:
        with self.log_path.open("ab") as log:
            # In a network namespace of its own: else it takes `docker0` away from this machine's own engine.
            self.process = subprocess.Popen(
                ["unshare", "--net", "--", "dockerd", "--data-root", str(self._folder / "data"), "--exec-root", str(self._folder / "exec"),
                 "--pidfile", str(self._folder / "pid"), "--host", f"unix://{self.socket}",
                 "--bridge", "none", "--iptables=false", "--live-restore"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def _answers(self) -> bool:
        import docker

        try:
            client = docker.DockerClient(base_url=f"unix://{self.socket}", timeout=5)
            client.ping()
            client.close()
        except (docker.errors.DockerException, OSError):
            return False
        return True

    def make_image(self) -> None:
        import docker

        client = docker.DockerClient(base_url=f"unix://{self.socket}")
        name, _, tag = IMAGE.rpartition(":")
        client.api.import_image_from_data(busybox_root(), repository=name, tag=tag)
        client.close()

    def signal(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        (self._folder / "pid").unlink(missing_ok=True)

    def containers(self) -> list[str]:
        """The names of all that there are, ended ones too."""
        import docker

        client = docker.DockerClient(base_url=f"unix://{self.socket}", timeout=30)
        try:
            return [str(container["Names"][0]).lstrip("/") for container in client.api.containers(all=True)]
        finally:
            client.close()

    def close(self) -> None:
        """End it and all of its containers, whatever state it is in."""
        import docker

        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
        with contextlib.suppress(docker.errors.DockerException, OSError):
            client = docker.DockerClient(base_url=f"unix://{self.socket}", timeout=10)
            for container in client.api.containers(all=True, quiet=True):
                with contextlib.suppress(docker.errors.DockerException, OSError):
                    client.api.remove_container(container["Id"], force=True)
            client.close()
        if self.process is not None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(20)
        self.kill()
        for line in reversed(Path("/proc/mounts").read_text().splitlines()):
            if (point := line.split()[1]).startswith(f"{self._folder}/"):
                subprocess.run(["umount", "--lazy", point], capture_output=True, check=False)
