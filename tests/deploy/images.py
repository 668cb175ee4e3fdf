"""Stand-ins for the images that docker-compose.yml names, made from this machine's own Python and Redis.

Nothing is pulled, and what is built upon them needs no network. They are kept in the engine's store under tags
that tell what they were made from.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zoneinfo
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launch_worker.dev.redis_server import find_redis_server
from tools.requirements import path_of, read_pins

_VENV = "/opt/venv"
_SYSTEM_LIBRARIES = ("/lib/", "/lib64/", "/usr/lib/")
#: Of the standard library: what no worker imports, and other installations' packages.
_LEFT_OUT = {"test", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "site-packages", "dist-packages"}
_ETC = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "etc/group": "root:x:0:\n",
    "etc/shadow": "root:*:19000:0:99999:7:::\n",
    "etc/login.defs": "UID_MIN 1000\nUID_MAX 60000\nUSERGROUPS_ENAB yes\n",
    "etc/nsswitch.conf": "hosts: files dns\n",
}
_REDIS_CLI = """#!/bin/sh
printf 'AUTH %s %s\\r\\nPING\\r\\n' "$2" "$REDISCLI_AUTH" | nc -w 1 127.0.0.1 6379 | tr -d '\\r+' | tail -n 1
"""


class Root:
    """A root file system that is being put together; ready-made parts of this machine keep their paths."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()
        self._archive = tarfile.open(fileobj=self._buffer, mode="w")  # noqa: SIM115
        self._there: set[str] = set()
        for folder in ("bin", "sbin", "lib", "lib64", "usr/bin", "usr/sbin", "usr/lib", "root", "home", "var/lib"):
            self._folder(folder)
        self._folder("tmp", mode=0o1777)
        for name, text in _ETC.items():
            self.write(name, text)
        busybox = _find("busybox", package="busybox-static")
        self.add(Path(busybox).resolve(), "bin/busybox")
        for applet in subprocess.check_output([busybox, "--list"], text=True).split():
            if applet != "busybox":
                self.link(f"bin/{applet}", "busybox")

    def write(self, name: str, text: str, *, mode: int = 0o644) -> None:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = len(text.encode()), mode
        self._put(entry, io.BytesIO(text.encode()))

    def link(self, name: str, target: str) -> None:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = tarfile.SYMTYPE, target
        self._put(entry)

    def add(self, path: Path, name: str | None = None) -> None:
        """A file of this machine."""
        entry = self._archive.gettarinfo(path, name or str(path).lstrip("/"))
        entry.uid = entry.gid = 0
        entry.mode |= 0o444
        with path.open("rb") as content:
            self._put(entry, content)

    def add_program(self, path: Path, name: str | None = None) -> None:
        """A file of this machine, and the shared libraries that it is linked with."""
        self.add(path.resolve(), name or str(path).lstrip("/"))
        self.add_libraries(path)

    def add_libraries(self, *programs: Path) -> None:
        for library in sorted(_libraries(programs)):
            # One of an interpreter's own folder would be found by a path that the image does not have.
            of_system = str(library).startswith(_SYSTEM_LIBRARIES)
            self.add(library.resolve(), str(library).lstrip("/") if of_system else f"usr/lib/{library.name}")

    def tar(self) -> bytes:
        self._archive.close()
        return self._buffer.getvalue()

    def folder_of(self, name: str, *, uid: int, gid: int) -> None:
        """A folder of an account; a volume that is mounted there is that account's too."""
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode, entry.uid, entry.gid = tarfile.DIRTYPE, 0o755, uid, gid
        self._put(entry)

    def _folder(self, name: str, *, mode: int = 0o755) -> None:
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode = tarfile.DIRTYPE, mode
        self._put(entry)

    def _put(self, entry: tarfile.TarInfo, content: Any = None) -> None:
        if entry.name in self._there:
            return
        parent = os.path.dirname(entry.name)
        if parent and parent not in self._there:
            self._folder(parent)
        self._there.add(entry.name)
        self._archive.addfile(entry, content)


def python_image(engine: Any) -> str:
    """A stand-in for `python:3.x-slim`: it has git, and the packages of requirements/image.txt and build.txt."""
    pins = [pin for name in ("image", "build") for pin in read_pins(path_of(name).read_text())]
    packages = [importlib.metadata.distribution(name) for name in sorted({pin.name for pin in pins if pin.holds({})})]
    made_from = [sys.version, *(f"{package.name}=={package.version}" for package in packages)]

    def root() -> bytes:
        made = Root()
        for program in ("useradd", "install", "git"):
            path = _find(program, package="git" if program == "git" else "passwd")
            made.add_program(Path(path))
        ssh = shutil.which("ssh")
        if ssh is not None:
            made.add_program(Path(ssh), "usr/bin/ssh")
        else:
            made.write("usr/bin/ssh", "#!/bin/sh\nexit 255\n", mode=0o755)
        _add_python(made)
        _add_packages(made, packages)
        return made.tar()

    env = {
        "PATH": f"{_VENV}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        # The Dockerfile's pip finds everything here already. (0 says "no isolation": pip reads this one inverted.)
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    return _image(engine, "launch-worker-tests/python", made_from, root, env)


def redis_image(engine: Any) -> str:
    """A stand-in for `redis:7-alpine`."""
    server = Path(find_redis_server())
    cli = shutil.which("redis-cli")
    version = subprocess.check_output([server, "--version"], text=True)

    def root() -> bytes:
        made = Root()
        made.add_program(server, "usr/bin/redis-server")
        if cli is not None:
            made.add_program(Path(cli), "usr/bin/redis-cli")
        else:
            made.write("usr/bin/redis-cli", _REDIS_CLI, mode=0o755)
        made.folder_of("data", uid=999, gid=1000)
        made.write("usr/bin/docker-entrypoint.sh", '#!/bin/sh\ncd /data && exec "$@"\n', mode=0o755)
        return made.tar()

    return _image(engine, "launch-worker-tests/redis", [version, str(cli), _REDIS_CLI], root, {"PATH": "/usr/bin:/bin"})


def _image(engine: Any, name: str, made_from: Iterable[str], root: Any, env: dict[str, str]) -> str:
    from docker.errors import ImageNotFound

    digest = hashlib.sha256("\n".join([Path(__file__).read_text(), *made_from]).encode()).hexdigest()[:12]
    try:
        engine.images.get(f"{name}:{digest}")
    except ImageNotFound:
        changes = [f"ENV {key}={value}" for key, value in env.items()]
        engine.api.import_image_from_data(root(), repository=name, tag=digest, changes=changes)
    return f"{name}:{digest}"


def _add_python(root: Root) -> None:
    """The interpreter at its own path, for that is where it looks for its library."""
    program = Path(sys.executable).resolve()
    root.add_program(program)
    library = Path(sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix}))
    for path in _files(library):
        root.add(path)
    root.add_libraries(*library.glob("lib-dynload/*.so"))
    root.write(f"{_VENV[1:]}/pyvenv.cfg", f"home = {program.parent}\n")
    # Celery asks for the zone UTC.
    for zone in (Path(folder, "UTC") for folder in zoneinfo.TZPATH):
        if zone.is_file():
            root.add(zone.resolve(), str(zone)[1:])
    for name in ("python", "python3"):
        root.link(f"{_VENV[1:]}/bin/{name}", str(program))


def _add_packages(root: Root, packages: Iterable[importlib.metadata.Distribution]) -> None:
    target = f"{_VENV[1:]}/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    for package in packages:
        for file in package.files or ():
            path = Path(str(file.locate()))
            if not file.parts[0].startswith("..") and path.is_file():
                root.add(path, f"{target}/{file}")
                if path.suffix == ".so":
                    root.add_libraries(path)
        for script in package.entry_points.select(group="console_scripts"):
            lines = (f"#!{_VENV}/bin/python", "import sys", f"from {script.module} import {script.attr}")
            root.write(
                f"{_VENV[1:]}/bin/{script.name}", "\n".join([*lines, f"sys.exit({script.attr}())\n"]), mode=0o755
            )


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if path.name not in _LEFT_OUT and not path.name.startswith("config-"):
                yield from _files(path)
        elif path.is_file() and path.suffix != ".a":
            yield path


def _libraries(programs: Iterable[Path]) -> set[Path]:
    return set().union(*(_linked(program) for program in programs))


@functools.cache
def _linked(program: Path) -> frozenset[Path]:
    shown = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    return frozenset(Path(path) for path in re.findall(r"(/\S+) \(0x", shown))


def _find(program: str, *, package: str) -> str:
    path = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if path is None:
        why = f"there is no {program} here; install {package}"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    return path
