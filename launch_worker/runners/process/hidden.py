"""Names what a job in a sandbox must not see: its worker's folder, keys and sockets, the stores of others' files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from launch_worker.config_folder import config_folder
from launch_worker.settings import Settings


class Hidden(NamedTuple):
    """Paths without links."""

    #: Folders, which `make` makes where they are not there yet.
    folders: tuple[str, ...]
    #: Files and sockets, and folders that are an admin's to make.
    others: tuple[str, ...] = ()

    @classmethod
    def of(cls, settings: Settings, env: Mapping[str, str]) -> Hidden:
        """What a worker with these settings and this environment hides."""
        folders = [settings.work_dir, *_stores(settings), config_folder(env)]
        others = [settings.sealing_keys, settings.signing_key, *_sockets(env)]
        return cls(_real(folders), _real(others))

    @property
    def paths(self) -> tuple[str, ...]:
        return self.folders + self.others

    def make(self) -> None:
        """Make the folders: one that came to be while a job runs would be there for that job."""
        for folder in self.folders:
            if os.access(folder, os.F_OK):
                continue
            with contextlib.suppress(OSError):
                os.makedirs(folder, exist_ok=True)

    def why_not_beside(self, writable: Sequence[str]) -> str:
        """Why jobs that may write in these folders could reach or move what is hidden; '' where none can."""
        for folder in writable:
            real = os.path.realpath(folder)
            for path in self.paths:
                if f"{real}/".startswith(f"{path}/"):
                    return f"{folder}, writable for jobs, lies in {path}, which is hidden from them"
                # In the folder itself it is a mount of the sandbox, which nobody there can move.
                if os.path.dirname(path).startswith(f"{real}/"):
                    return f"jobs could move the folder in {folder}, writable for them, in which {path} is hidden"
        return ""


def _real(paths: Sequence[Path | str | None]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(os.path.realpath(path) for path in paths if path is not None))


def _stores(settings: Settings) -> Iterator[str]:
    for url in (settings.log_url, settings.output_url, settings.upload_url):
        if url.startswith("file://"):
            yield unquote(urlsplit(url).path)


def _sockets(env: Mapping[str, str]) -> Iterator[str]:
    for name in ("DOCKER_HOST", "SSH_AUTH_SOCK"):
        path = env.get(name, "").removeprefix("unix://")
        if path.startswith("/"):
            yield path
