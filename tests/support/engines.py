"""Container engines that tests may harm: a dockerd to freeze and kill, and a proxy that loses an engine's answers.

The module needs no pytest: the chaos harness uses both too.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Seconds that a dockerd may take until it answers, on a loaded machine.
_START_S = 60.0
_HEAD_END = b"\r\n\r\n"
_MAX_HEAD = 1 << 16


class OwnEngine:
    """A dockerd, with a containerd of its own, in a temporary folder and a network namespace of its own.

    The machine's own namespace may have another engine's bridge, `docker0`, already. The containers reach nothing
    outside. A dockerd needs root. With `live_restore` the containers go on when dockerd is started again. containerd
    does not die with dockerd, as on a machine whose service manager runs both.
    """

    def __init__(self, folder: Path | None = None, *, live_restore: bool = False) -> None:
        """Start both daemons. The path of `folder` must be short: it holds a socket."""
        self.folder = folder or Path(tempfile.mkdtemp(prefix="launch-engine.", dir="/tmp"))
        self.folder.mkdir(exist_ok=True)
        self.socket = self.folder / "docker.sock"
        self.url = f"unix://{self.socket}"
        self._live_restore = live_restore
        self.process: subprocess.Popen[bytes]
        self._containerd = self._start_containerd()
        self.start()

    @staticmethod
    def why_not() -> str:
        """Say why this machine cannot run a dockerd; '' where it can."""
        if os.geteuid() != 0:
            return "only root can start a dockerd"
        missing = [name for name in ("dockerd", "containerd", "unshare") if shutil.which(name) is None]
        return f"there is no {missing[0]} here" if missing else ""

    @property
    def pid(self) -> int:
        return self.process.pid

    def start(self) -> None:
        """Start dockerd on the data that it had, and wait until it answers."""
        self.spawn()
        deadline = time.monotonic() + _START_S
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"dockerd does not answer:\n{(self.folder / 'log').read_text()[-3000:]}")
            time.sleep(0.05)

    def spawn(self) -> None:
        """Start dockerd, and do not wait for it."""
        arguments = ["--data-root", f"{self.folder}/data", "--exec-root", f"{self.folder}/exec"]
        arguments += ["--pidfile", f"{self.folder}/pid", "--host", self.url, "--storage-driver", "vfs"]
        arguments += ["--containerd", f"{self.folder}/containerd.sock"]
        arguments += ["--iptables=false", "--ip-masq=false", "--ip-forward=false"]
        arguments += ["--live-restore"] if self._live_restore else []
        (self.folder / "pid").unlink(missing_ok=True)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ["unshare", "--net", "--", "dockerd", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def load(self, root: bytes, image: str) -> str:
        """Import a root file system (a tar archive) as an image, and return its name."""
        repository, _, tag = image.rpartition(":")
        with self.client() as client:
            client.import_image_from_data(root, repository=repository, tag=tag)
        return image

    @contextlib.contextmanager
    def client(self, *, timeout_s: float = 60.0) -> Iterator[Any]:
        """Yield the SDK's client of this dockerd, whatever DOCKER_HOST says."""
        import docker

        made = docker.APIClient(base_url=self.url, version="auto", timeout=timeout_s)
        try:
            yield made
        finally:
            made.close()

    def containers(self, **labels: str) -> list[dict[str, Any]]:
        """Return what dockerd says of its containers with these labels, the ended ones too."""
        with self.client() as client:
            wanted = [f"{name}={value}" for name, value in labels.items()]
            listed = client.containers(all=True, filters={"label": wanted} if wanted else None)
            return [client.inspect_container(entry["Id"]) for entry in listed]

    def freeze(self) -> None:
        """Stop the process: the kernel still accepts connections, and no request is answered. The containers go on."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let the process go on; it handles the requests that came meanwhile."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill dockerd. The containers live on until it is started again, and with `live_restore` also after that."""
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End both daemons and all containers, and remove the folder."""
        with contextlib.suppress(Exception):
            self.thaw()
            if self.process.poll() is not None:
                self.start()
            with self.client(timeout_s=20.0) as client:
                for entry in client.containers(all=True):
                    client.remove_container(entry["Id"], force=True, v=True)
        for process in (self.process, self._containerd):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.terminate()
                process.wait(20.0)
            if process.poll() is None:
                process.kill()
                process.wait()
        # Processes that a killed dockerd has left.
        for pid in self._helpers():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        with open("/proc/mounts") as mounts:
            inside = [line.split()[1] for line in mounts if f" {self.folder}/" in line]
        for mount in sorted(inside, reverse=True):
            subprocess.run(["umount", "--lazy", mount], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start_containerd(self) -> subprocess.Popen[bytes]:
        config = self.folder / "containerd.toml"
        config.write_text('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
        arguments = ["--config", str(config), "--root", f"{self.folder}/containerd"]
        arguments += ["--state", f"{self.folder}/state", "--address", f"{self.folder}/containerd.sock"]
        with (self.folder / "containerd.log").open("ab") as log:
            return subprocess.Popen(
                ["containerd", *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.settimeout(5.0)
            try:
                line.connect(str(self.socket))
                line.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                return b" 200 " in line.recv(100)
            except OSError:
                return False

    def _helpers(self) -> list[int]:
        """Find the pids of the shims, by their command lines, which name the folder."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if f"{self.folder}/".encode() in (entry / "cmdline").read_bytes():
                        found.append(int(entry.name))
        return found


@dataclass
class Rule:
    """What the proxy does with the requests that match.

    hang:    the request reaches the engine after `heal` only; the client may be gone by then
    swallow: the engine acts, and its answer never reaches the client
    cut:     the engine acts, and the connection is closed in place of the answer
    refuse:  the connection is closed, and the request does not reach the engine
    delay:   the request reaches the engine `seconds` later
    """

    what: str
    method: str
    path: re.Pattern[str]
    #: Number of requests that the rule still applies to; None for all.
    left: int | None
    seconds: float = 0.0
    released: threading.Event = field(default_factory=threading.Event)
    #: Requests that the rule was applied to, as (method, path).
    met: list[tuple[str, str]] = field(default_factory=list)


class EngineProxy:
    """A unix socket that forwards to an engine's socket, by rules.

    The proxy expects one request at a time on each connection, as the SDK sends them.
    """

    def __init__(self, engine_socket: str | Path, *, folder: str | Path | None = None) -> None:
        self._engine_socket = str(engine_socket)
        self._own_folder = None if folder is not None else tempfile.mkdtemp(prefix="launch-proxy.", dir="/tmp")
        self.path = Path(folder or self._own_folder or "") / "proxy.sock"
        self.url = f"unix://{self.path}"
        self._rules: list[Rule] = []
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        #: Requests that were read, as (method, path without its version).
        self.seen: list[tuple[str, str]] = []
        self._listener: socket.socket | None = None
        self.up()

    def rule(
        self, what: str, method: str = "", path: str = "", *, times: int | None = None, seconds: float = 0.0
    ) -> Rule:
        """Apply a rule to the next `times` requests (None: all) whose method and path (a regular expression) match."""
        made = Rule(what, method, re.compile(path), times, seconds)
        with self._lock:
            self._rules.append(made)
        return made

    def heal(self) -> None:
        """Remove all rules; requests that hang go on to the engine."""
        with self._lock:
            rules, self._rules = self._rules, []
        for rule in rules:
            rule.released.set()

    def down(self) -> None:
        """Behave as a stopped engine: close all connections, and accept none."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        self.path.unlink(missing_ok=True)
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            _hang_up(connection)

    def up(self) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self.path))
        listener.listen(100)
        self._listener = listener
        threading.Thread(target=self._listen, args=(listener,), name="engine-proxy", daemon=True).start()

    def close(self) -> None:
        self.heal()
        self.down()
        if self._own_folder is not None:
            shutil.rmtree(self._own_folder, ignore_errors=True)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _listen(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), name="engine-proxy", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        engine = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with self._lock:
            self._open |= {client, engine}
        try:
            engine.connect(self._engine_socket)
            answers = _Answers(engine, client)
            threading.Thread(target=answers.pump, name="engine-proxy", daemon=True).start()
            requests = _Reader(client)
            while head := requests.until(_HEAD_END):
                if not self._forward(head, requests, answers):
                    break
        except OSError:
            pass
        finally:
            with self._lock:
                self._open -= {client, engine}
            _hang_up(client)
            _hang_up(engine)

    def _forward(self, head: bytes, requests: _Reader, answers: _Answers) -> bool:
        """Forward one request by the rule for it; False when the connection is over."""
        method, path = head.split(b" ", 2)[:2]
        shown = (method.decode(), re.sub(r"^/v[\d.]+", "", path.decode()))
        rule = self._rule_for(*shown)
        answers.mode = rule.what if rule is not None and rule.what in ("swallow", "cut") else ""
        if rule is not None and rule.what == "refuse":
            return False
        body = requests.body_of(head)
        if rule is not None and rule.what == "hang":
            rule.released.wait()
        if rule is not None and rule.what == "delay":
            time.sleep(rule.seconds)
        answers.engine.sendall(head)
        for part in body:
            answers.engine.sendall(part)
        return True

    def _rule_for(self, method: str, path: str) -> Rule | None:
        with self._lock:
            self.seen.append((method, path))
            for rule in self._rules:
                if rule.left != 0 and rule.method in ("", method) and rule.path.search(path):
                    if rule.left is not None:
                        rule.left -= 1
                    rule.met.append((method, path))
                    return rule
        return None


class _Answers:
    """The answers on one connection, from the engine to the client."""

    def __init__(self, engine: socket.socket, client: socket.socket) -> None:
        self.engine = engine
        self._client = client
        self.mode = ""

    def pump(self) -> None:
        with contextlib.suppress(OSError):
            while data := self.engine.recv(1 << 16):
                if self.mode == "cut":
                    break
                if self.mode != "swallow":
                    self._client.sendall(data)
        if self.mode != "swallow":
            _hang_up(self._client)
        # A swallowed answer leaves the connection open: the client goes on waiting.


class _Reader:
    """Reads the requests of one client."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self._buffer = b""

    def until(self, end: bytes) -> bytes:
        """Read up to and with `end`; b'' when the client has closed the connection."""
        while (at := self._buffer.find(end)) < 0:
            if len(self._buffer) > _MAX_HEAD or not self._more():
                return b""
        found, self._buffer = self._buffer[: at + len(end)], self._buffer[at + len(end) :]
        return found

    def body_of(self, head: bytes) -> list[bytes]:
        """Read the whole body, so that it can be sent after the client is gone."""
        if re.search(rb"\r\ntransfer-encoding: *chunked\r\n", head, re.IGNORECASE):
            return list(self._chunks())
        length = re.search(rb"\r\ncontent-length: *(\d+)\r\n", head, re.IGNORECASE)
        return [self._exactly(int(length[1]))] if length else []

    def _chunks(self) -> Iterator[bytes]:
        while True:
            line = self.until(b"\r\n")
            size = int(line.split(b";")[0] or b"0", 16)
            yield line + self._exactly(size + 2)
            if not size:
                return

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size and self._more():
            pass
        found, self._buffer = self._buffer[:size], self._buffer[size:]
        return found

    def _more(self) -> bool:
        data = self._client.recv(1 << 16)
        self._buffer += data
        return bool(data)


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(OSError):
        connection.close()
