"""Connects to the container engine, Docker or Podman's socket, and turns its errors into sentences."""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import docker
import docker.errors
import docker.utils
import requests
import urllib3

from launch_worker.errors import EngineAwayError, NoContainerError, StartError
from launch_worker.model.usage import Used
from launch_worker.untrusted.text import read_json, read_map

log = logging.getLogger("launch_worker.engine")

#: Seconds for the answer to a call that only looks.
_LOOK_TIMEOUT_S = 10.0
#: Seconds for the answer to a call that makes, starts or removes something; a pull answers piece by piece.
_WORK_TIMEOUT_S = 60.0
#: Statuses by which a proxy in between says that the engine did not answer in time.
_OF_A_PROXY = (502, 503, 504)

#: Ends another thread's reading of an answer.
Cut: TypeAlias = Callable[[], None]

#: Beginning of the sentence for an engine's own words.
REFUSED = "the container engine refused: "
#: Words by which engines say that a container is gone, or will be in a moment.
_IS_GONE = re.compile("no such container|dead or marked for removal", re.IGNORECASE)
#: Bits that Go's file modes have for anything but a plain file, and the one for a folder.
_NO_FILE, _FOLDER = 0x8F280000, 0x80000000


@dataclass(frozen=True)
class FileInContainer:
    """The facts about a file that an engine gives without reading it."""

    size: int
    modified: str
    is_file: bool
    is_folder: bool = False


class Engine:
    """The engine that DOCKER_HOST names, else the local one; connected to when first asked. Thread-safe.

    Every call has a deadline. After an EngineAwayError it is unknown whether the engine did, or will do, the thing: an
    engine that hangs does it when it goes on, though the caller is gone.
    """

    def __init__(self, *, look_timeout_s: float = _LOOK_TIMEOUT_S) -> None:
        self._look_timeout_s = look_timeout_s
        self._connecting = threading.Lock()
        self._api: docker.APIClient | None = None
        self._worker: docker.APIClient | None = None

    def api(self) -> Any:
        """A client of the engine's API for calls that only look. Raises EngineAwayError."""
        if self._api is None:
            self._connect()
        return self._api

    def worker(self) -> Any:
        """A client for calls that make, start or remove something, which take longer. Raises EngineAwayError."""
        if self._worker is None:
            self._connect()
        return self._worker

    def _connect(self) -> None:
        if not self._connecting.acquire(timeout=self._look_timeout_s):
            raise EngineAwayError(_no_answer("timed out"))
        try:
            if self._worker is None:
                with clear_errors(), _sound_configuration():
                    known = docker.utils.kwargs_from_env()
                    self._api = docker.APIClient(version="auto", timeout=self._look_timeout_s, **known)
                    self._worker = docker.APIClient(version=self._api.api_version, timeout=_WORK_TIMEOUT_S, **known)
        finally:
            self._connecting.release()

    def ping(self, *, timeout_s: float) -> None:
        """Ask whether the engine lives. Raises EngineAwayError when it does not answer in time."""
        api = self.api()
        with clear_errors(), api.get(f"{api.base_url}/_ping", timeout=timeout_s) as response:
            response.raise_for_status()

    @contextlib.contextmanager
    def stream(
        self,
        path: str,
        options: Mapping[str, Any],
        *,
        silence_s: float | None = _LOOK_TIMEOUT_S,
        on_open: Callable[[Cut], None] = lambda _: None,
    ) -> Iterator[Iterator[bytes]]:
        """Read the engine's answer as it comes; the SDK's own reader takes three times as long for each message.

        `silence_s` is the longest time between two pieces. None is for a job, which may be silent for days: `on_open`
        then gets a function that ends the reading from another thread.
        Raises EngineAwayError, NoContainerError, StartError, also while it is read.
        """
        api = self.api()
        with clear_errors():
            url = f"{api.base_url}/v{api.api_version}{path}"
            head_s = _WORK_TIMEOUT_S if silence_s is None else silence_s
            with api.get(url, params=options, stream=True, timeout=(self._look_timeout_s, head_s)) as response:
                line: socket.socket = response.raw.connection.sock
                line.settimeout(silence_s)
                on_open(partial(_hang_up, line))
                if response.status_code in _OF_A_PROXY:
                    raise EngineAwayError(_no_answer(f"status {response.status_code}"))
                if response.status_code == 404 or (response.status_code >= 400 and _IS_GONE.search(response.text)):
                    raise NoContainerError(response.text)
                if response.status_code >= 400:
                    raise StartError(f"{REFUSED}{response.text}")
                yield response.iter_content(chunk_size=None)

    def stat(self, container: str, path: str) -> FileInContainer | None:
        """The facts about a file; None when there is no such file or container. Raises EngineAwayError, StartError."""
        api = self.api()
        with clear_errors():
            url = f"{api.base_url}/v{api.api_version}/containers/{container}/archive"
            with api.head(url, params={"path": path}, timeout=self._look_timeout_s) as response:
                if response.status_code in _OF_A_PROXY:
                    raise EngineAwayError(_no_answer(f"status {response.status_code}"))
                if response.status_code == 404:
                    return None
                stat = response.headers.get("X-Docker-Container-Path-Stat")
                if response.status_code >= 400 or not stat:
                    raise StartError(f"the container engine refused to look at {path}: status {response.status_code}")
            found = read_json(base64.b64decode(stat))
            mode = int(found["mode"])
            return FileInContainer(int(found["size"]), str(found["mtime"]), not mode & _NO_FILE, bool(mode & _FOLDER))

    def used_by(self, container: str) -> Used:
        """What a running container has used by now. Raises EngineAwayError, NoContainerError, StartError."""
        with clear_errors():
            # One look: else the engine waits for a second one, a second later.
            stats = self.api().stats(container, stream=False, one_shot=True)
        cpu, memory = stats.get("cpu_stats") or {}, stats.get("memory_stats") or {}
        cpu_ns, used = (cpu.get("cpu_usage") or {}).get("total_usage"), memory.get("usage")
        if not cpu_ns or used is None:
            return Used()  # it has just ended
        # As `docker stats`: pages of files that nobody has used for a while are no memory of the job. The first name is
        # that of control groups v1.
        counts = memory.get("stats") or {}
        cached = counts.get("total_inactive_file", counts.get("inactive_file", 0))
        return Used(cpu_s=cpu_ns / 1e9, memory=max(0, used - cached))

    def put(self, container: str, folder: str, archive: bytes) -> None:
        """Unpack a tar archive into a folder. Raises EngineAwayError, NoContainerError, StartError."""
        with clear_errors():
            self.api().put_archive(container, folder, archive)

    def log_in(self, login: Mapping[str, str]) -> None:
        """Have a registry judge a login by user and password. Raises EngineAwayError; StartError with its words."""
        api = self.api()
        with clear_errors():
            # Not by the SDK's `login`, which would read the user's own credentials too.
            url = f"{api.base_url}/v{api.api_version}/auth"
            with api.post(url, json=dict(login), timeout=self._look_timeout_s) as response:
                if response.status_code in _OF_A_PROXY:
                    raise EngineAwayError(_no_answer(f"status {response.status_code}"))
                if response.status_code >= 400:
                    raise StartError(REFUSED + str(read_map(response.content).get("message", response.text)))

    def remembers(self, container: str, *events: str) -> bool:
        """Whether the engine remembers one of these events of the container; after its restart it remembers none.

        An engine keeps its last 256 events in memory. Raises EngineAwayError.
        """
        with clear_errors():
            wanted = {"container": [container], "event": list(events)}
            # Until a little later, for clocks differ. Past events come at once.
            with contextlib.closing(self.api().events(since=1, until=int(time.time()) + 1, filters=wanted)) as found:
                return any(True for _ in found)

    def close(self) -> None:
        for client in (self._api, self._worker):
            if client is not None:
                client.close()


def _hang_up(line: socket.socket) -> None:
    """End another thread's reading from this socket."""
    with contextlib.suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def clear_errors(*, image: str = "", program: str = "") -> Iterator[None]:
    """Turn the SDK's errors into EngineAwayError, NoContainerError, or StartError with a sentence."""
    try:
        yield
    except docker.errors.APIError as error:
        if error.status_code in _OF_A_PROXY:
            raise EngineAwayError(_no_answer(f"status {error.status_code}")) from None
        # Podman has other status codes, and small letters.
        if _IS_GONE.search(str(error.explanation)):
            raise NoContainerError(str(error.explanation)) from None
        raise StartError(_explain(error, image, program), worker_fault=is_of_the_machine(str(error))) from None
    except (docker.errors.DockerException, requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise EngineAwayError(_no_answer(_cause(error))) from None


@contextlib.contextmanager
def _sound_configuration() -> Iterator[None]:
    """Say it where the SDK fails at docker's configuration of this user, which it reads for each client."""
    try:
        yield
    except (docker.errors.InvalidConfigFile, ValueError, TypeError, AttributeError):
        # The error's text may have a part of a secret.
        raise EngineAwayError(
            "the container engine is not asked: docker's configuration of the worker's user (config.json in "
            "DOCKER_CONFIG, or in ~/.docker) cannot be read; mend or delete it"
        ) from None


def _no_answer(cause: str) -> str:
    return (
        f"the container engine does not answer at {address()}: {cause}; start it, or set DOCKER_HOST where the worker "
        "is started"
    )


def address() -> str:
    """The address of the engine."""
    return os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"


#: Words of an engine whose machine lacks something: disk, a driver.
_OF_THE_MACHINE = re.compile(r"no space left|could not select device driver|read-only file system|too many open files")


def is_of_the_machine(text: str) -> bool:
    """Whether an engine says by these words that its machine lacks something."""
    return bool(_OF_THE_MACHINE.search(text))


def _explain(error: docker.errors.APIError, image: str, program: str) -> str:
    text = " ".join(str(error.explanation or error).split())
    # A pattern would take minutes for some of the names that a submitter may give a program.
    said = text.partition("exec: ")[2]
    if "executable file not found" in text or "no such file or directory" in said:
        return f"command {program!r} was not found in image {image}"
    if "permission denied" in said:
        return f"command {program!r} is not executable in image {image}"
    if "No such image" in text:
        return f"image {image} is not on this worker"
    if "could not select device driver" in text:
        return f"the container engine cannot give GPUs: {text}; install the NVIDIA container toolkit"
    return f"{REFUSED}{text}"


def _cause(error: BaseException) -> str:
    """The innermost error's text: the SDK wraps a refused connection five times."""
    found = re.search(r"(?:\[Errno \d+\]|\b\w*Error\(\d+,) ?'?([A-Za-z ]+)", str(error))
    return (found[1].strip() if found else str(error) or type(error).__name__)[:300]
