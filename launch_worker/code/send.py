"""Sends a folder of the submitter's machine to the storage of uploads."""

from __future__ import annotations

import tempfile
from pathlib import Path

from launch_worker.code.archive import make_archive
from launch_worker.code.storage import storage_of
from launch_worker.settings import Settings
from launch_worker.store.store import Store


def send_folder(folder: Path, *, settings: Settings, store: Store) -> str:
    """Keep the folder's content, unless it is kept already. Returns the sha256 that a spec's `upload` takes.

    Raises InputError for what cannot be sent, BrokerUnavailableError, and LaunchError for other storages.
    """
    with tempfile.TemporaryFile() as archive:
        sha256 = make_archive(folder, archive, limit_bytes=settings.upload_bytes)
        storage = storage_of(settings, store)
        if not storage.renew(sha256):
            archive.seek(0)
            storage.put(sha256, archive)
    return sha256
