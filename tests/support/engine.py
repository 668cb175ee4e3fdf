"""A real container engine for tests, and a small image that the tests make themselves: nothing is pulled."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

#: Name of the image, which `busybox_image` makes from Debian's busybox-static.
IMAGE = "localhost/launch-worker-tests/busybox:1"
_APPLETS = (
    *("sh", "echo", "sleep", "cat", "true", "false", "env", "id", "ps", "kill", "head", "tail", "dd", "yes", "seq"),
    *("date", "touch", "ls", "mkdir", "pwd", "mount", "wc", "printf", "tr", "ip", "ln", "rm", "test", "nproc", "stat"),
)


@pytest.fixture(scope="session")
def engine() -> Iterator[Any]:
    """A docker client of an engine that answers. Without an engine the test is skipped, and where CI=true it fails."""
    import docker
    from docker.errors import DockerException

    try:
        client = docker.from_env()
        client.ping()
    except DockerException as error:
        why = f"no container engine answers (start dockerd, or set DOCKER_HOST): {error}"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    yield client
    client.close()


@pytest.fixture(scope="session")
def busybox_image(engine: Any) -> str:
    """The name of a small image with a shell. The image is made where the engine does not have it."""
    from docker.errors import ImageNotFound

    try:
        engine.images.get(IMAGE)
    except ImageNotFound:
        engine.api.import_image_from_data(busybox_root(), repository=IMAGE.removesuffix(":1"), tag="1")
    return IMAGE


def busybox_root(*, mark: bytes = b"") -> bytes:
    """Return a root file system, as a tar archive, with the static busybox of this machine and its applets.

    A `mark` of its own makes the archive differ from all others: an engine does not fetch a layer that it has.
    """
    busybox = shutil.which("busybox")
    if busybox is None:
        why = "there is no busybox here; install busybox-static"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for folder in ("bin", "etc", "proc", "sys", "dev", "tmp", "root", "home"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            archive.addfile(entry)
        archive.add(Path(busybox).resolve(), "bin/busybox")
        for name in _APPLETS:
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
        entry = tarfile.TarInfo("etc/mark")
        entry.size = len(mark)
        archive.addfile(entry, io.BytesIO(mark))
        passwd = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"
        entry = tarfile.TarInfo("etc/passwd")
        entry.size = len(passwd)
        archive.addfile(entry, io.BytesIO(passwd))
    return buffer.getvalue()
