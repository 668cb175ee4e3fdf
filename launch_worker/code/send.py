"""Sends a folder of the submitter's machine to the storage of uploads."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from launch_worker.code.archive import Counted, make_archive
from launch_worker.code.storage import storage_of
from launch_worker.settings import Settings
from launch_worker.store.store import Store


def send_folder(
    folder: Path, *, settings: Settings, store: Store, on_sent: Callable[[int, int], None] = lambda *_: None
) -> str:
    """Keep the folder's content, unless it is kept already. Returns the sha256 that a spec's `upload` takes.

    `on_sent` is called with the bytes that are sent, and all. Raises InputError for what cannot be sent,
    BrokerUnavailableError, and LaunchError for other storages.
    """
    with tempfile.TemporaryFile() as archive:
        sha256 = make_archive(folder, archive, limit_bytes=settings.upload_bytes)
        storage = storage_of(settings, store)
        if not storage.renew(sha256):
            storage.put(sha256, Counted(archive, on_sent))
    return sha256
