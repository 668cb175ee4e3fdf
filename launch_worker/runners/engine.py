"""The container engine: connecting to it, and its errors as sentences. Docker's API; Podman's compatible socket too."""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import docker
import docker.errors
import docker.utils
import requests
import urllib3

from launch_worker.foreign import read_json
from launch_worker.runners.errors import EngineAwayError, NoContainerError, StartError

log = logging.getLogger("launch_worker.engine")

#: For one answer; a pull answers piece by piece.
_TIMEOUT_S = 60


#: What Go's file modes of anything but a plain file have.
_NO_FILE = 0x8F280000


@dataclass(frozen=True)
class FileInContainer:
    """What an engine tells of a file without reading it."""

    size: int
    modified: str
    is_file: bool


class Engine:
    """The engine that DOCKER_HOST names, else the local one; connected to when first asked. Thread-safe."""

    def __init__(self) -> None:
        self._connecting = threading.Lock()
        self._api: docker.APIClient | None = None

    def api(self) -> Any:
        """A client of the engine's API. Raises EngineAwayError."""
        with self._connecting:
            if self._api is None:
                with clear_errors():
                    self._api = docker.APIClient(version="auto", timeout=_TIMEOUT_S, **docker.utils.kwargs_from_env())
            return self._api

    @contextlib.contextmanager
    def stream(self, path: str, options: Mapping[str, Any]) -> Iterator[Iterator[bytes]]:
        """What the engine sends, as it comes: the SDK's own reader of logs takes three times as long for each message.

        Raises EngineAwayError, NoContainerError, StartError, also while it is read.
        """
        api = self.api()
        with clear_errors():
            # No time-out between two messages: a job may be silent for days.
            url = f"{api.base_url}/v{api.api_version}{path}"
            with api.get(url, params=options, stream=True, timeout=(_TIMEOUT_S, None)) as response:
                if response.status_code == 404:
                    raise NoContainerError(response.text)
                if response.status_code >= 400:
                    raise StartError(f"the container engine refused: {response.text}")
                yield response.iter_content(chunk_size=None)

    def stat(self, container: str, path: str) -> FileInContainer | None:
        """None when there is no such file, or container. Raises EngineAwayError, StartError."""
        api = self.api()
        with clear_errors():
            url = f"{api.base_url}/v{api.api_version}/containers/{container}/archive"
            with api.head(url, params={"path": path}, timeout=_TIMEOUT_S) as response:
                if response.status_code == 404:
                    return None
                told = response.headers.get("X-Docker-Container-Path-Stat")
                if response.status_code >= 400 or not told:
                    raise StartError(f"the container engine refused to look at {path}: status {response.status_code}")
            found = read_json(base64.b64decode(told))
            return FileInContainer(int(found["size"]), str(found["mtime"]), not int(found["mode"]) & _NO_FILE)

    def put(self, container: str, folder: str, archive: bytes) -> None:
        """Unpack a tar archive into a folder. Raises EngineAwayError, NoContainerError, StartError."""
        with clear_errors():
            self.api().put_archive(container, folder, archive)

    def close(self) -> None:
        if self._api is not None:
            self._api.close()


@contextlib.contextmanager
def clear_errors(*, image: str = "", program: str = "") -> Iterator[None]:
    """The SDK's errors as ours: EngineAwayError, NoContainerError, or StartError with a sentence."""
    try:
        yield
    except docker.errors.APIError as error:
        # Podman tells it with other status codes, and in small letters.
        if "no such container" in str(error.explanation).lower():
            raise NoContainerError(str(error.explanation)) from None
        raise StartError(_explain(error, image, program)) from None
    except (docker.errors.DockerException, requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise EngineAwayError(
            f"the container engine does not answer at {address()}: {_cause(error)}; start it, or set DOCKER_HOST where "
            "the worker is started"
        ) from None


def address() -> str:
    return os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"


def _explain(error: docker.errors.APIError, image: str, program: str) -> str:
    text = " ".join(str(error.explanation or error).split())
    if "executable file not found" in text or re.search(r"exec: .*no such file or directory", text):
        return f"command {program!r} was not found in image {image}"
    if re.search(r"exec: .*permission denied", text):
        return f"command {program!r} is not executable in image {image}"
    if "No such image" in text:
        return f"image {image} is not on this worker"
    if "could not select device driver" in text:
        return f"the container engine cannot give GPUs: {text}; install the NVIDIA container toolkit"
    return f"the container engine refused: {text}"


def _cause(error: BaseException) -> str:
    """The innermost error's text: the SDK wraps a refused connection five times."""
    found = re.search(r"(?:\[Errno \d+\]|\w*Error\(\d+,) ?'?([A-Za-z ]+)", str(error))
    return (found[1].strip() if found else str(error) or type(error).__name__)[:300]
