"""Puts the code of a run into a folder of this machine, and pins its commit."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from launch_worker.code.archive import UNPACKED_FACTOR
from launch_worker.code.cache import locked, remove, throw_away_unused
from launch_worker.code.git import Git
from launch_worker.code.patience import Patience
from launch_worker.code.repository import Repositories
from launch_worker.code.storage import storage_of
from launch_worker.code.unpack import unpack
from launch_worker.errors import CodeError, LaunchError
from launch_worker.model.git_url import GitSource, parse_git_url
from launch_worker.model.run import Record
from launch_worker.model.spec import RunSpec
from launch_worker.runners.disk import shortage_of
from launch_worker.settings import Settings
from launch_worker.store.store import Store
from launch_worker.untrusted.plain_files import open_plain

log = logging.getLogger("launch_worker.code")

KEPT_ARCHIVES = 20


def fetch_code(
    spec: RunSpec,
    record: Record,
    folder: Path,
    *,
    settings: Settings,
    store: Store,
    patience: Patience,
    worker_env: Mapping[str, str] = os.environ,
    check_url: Callable[[str], None] = lambda _: None,
) -> str:
    """Make `folder` and put the run's code into it. Returns the commit, or '' for an upload.

    `check_url` raises InputError for a repository, or a submodule, from which no code may come. The first attempt
    writes the commit to the record, and every later one gets that commit. Raises InputError, CodeError,
    StartGivenUpError, and OSError for this machine's own disk.
    """
    folder.mkdir(parents=True, mode=0o700)
    # Marks by which a child that outlives its worker is found, as other processes of the attempt are.
    marks = {"LAUNCH_RUN_ID": record.id, "LAUNCH_TOKEN": str(record.token)}
    if spec.upload:
        _fetch_upload(spec.upload, folder, settings=settings, store=store, patience=patience, marks=marks)
        return ""
    source = parse_git_url(spec.uri)
    check_url(source.url)
    wanted = GitSource(source.url, record.commit) if record.commit else source
    git = Git(patience, worker_env, marks)
    limit_bytes = settings.upload_bytes * UNPACKED_FACTOR
    cache = settings.work_dir / "code" / "git"
    repositories = Repositories(cache, git=git, limit_bytes=limit_bytes, check_url=check_url)
    try:
        commit = repositories.check_out(wanted, folder)
    except CodeError as error:
        # git has many words for a full disk.
        shortage = shortage_of(settings)
        if not shortage:
            raise
        raise CodeError(f"{error}; {shortage}", detail=error.detail, worker_fault=True) from None
    log.info("code.fetched run=%s repository=%s ref=%s commit=%s", record.id, source.url, source.ref, commit)
    if not record.commit:
        patience.outlast_redis(lambda: store.pin(record.id, record.token, commit))
    return commit


def working_folder(code: Path, cwd: str | None) -> Path:
    """The folder of the code that a relative `cwd` names. Raises CodeError when it is not there, or leads out."""
    inside = code / (cwd or "")
    real, root = os.path.realpath(inside), os.path.realpath(code)
    if real != root and not real.startswith(root + os.sep):
        raise CodeError(f"the working directory {cwd!r} leads out of the code; name a folder inside")
    if not os.path.isdir(real):
        raise CodeError(f"the code has no folder {cwd!r}; check --cwd")
    return Path(real)


def _fetch_upload(
    sha256: str, folder: Path, *, settings: Settings, store: Store, patience: Patience, marks: Mapping[str, str]
) -> None:
    cache = settings.work_dir / "code" / "uploads"
    kept = cache / f"{sha256}.tar.gz"
    with locked(kept, patience=patience):
        archive = _open_kept(kept, sha256, limit_bytes=settings.upload_bytes)
        if archive is None:
            _download(sha256, kept, settings=settings, store=store, patience=patience)
            archive = os.fdopen(open_plain(kept), "rb")
        else:
            _renew(sha256, settings=settings, store=store, patience=patience)
    throw_away_unused(cache, keep=KEPT_ARCHIVES)
    with archive:
        limit_bytes = settings.upload_bytes * UNPACKED_FACTOR
        unpack(archive, folder, limit_bytes=limit_bytes, patience=patience, marks=marks)


def _open_kept(kept: Path, sha256: str, *, limit_bytes: int) -> BinaryIO | None:
    """The archive that an earlier run left here, if its content is unchanged."""
    try:
        archive = os.fdopen(open_plain(kept), "rb")
    except FileNotFoundError:
        return None
    except OSError as error:
        # A job has put something else there.
        log.error("code.cache_damaged file=%s: %s; it is fetched anew", kept, error)
        remove(kept)
        return None
    digest, left = hashlib.sha256(), limit_bytes
    while left > 0 and (data := archive.read(1 << 20)):
        left -= len(data)
        digest.update(data)
    if digest.hexdigest() != sha256:
        log.error("code.cache_damaged file=%s: it is fetched anew", kept)
        archive.close()
        kept.unlink()
        return None
    archive.seek(0)
    return archive


def _download(sha256: str, kept: Path, *, settings: Settings, store: Store, patience: Patience) -> None:
    partial = kept.with_name(f".{sha256}.{secrets.token_hex(4)}.partial")

    def download() -> bool:
        with partial.open("wb") as target:
            found = storage_of(settings, store).get(sha256, target, limit_bytes=settings.upload_bytes)
        if found:
            partial.rename(kept)
        return found

    try:
        if not patience.outlast_redis(lambda: patience.await_thread(download)):
            raise CodeError(
                f"the upload {sha256[:12]} is gone: submit again (if it is new, does the submitter have another "
                "LAUNCH_UPLOAD_URL than this worker?)"
            )
    except CodeError:
        raise
    except LaunchError as error:
        raise CodeError(str(error), worker_fault=True) from None
    finally:
        partial.unlink(missing_ok=True)


def _renew(sha256: str, *, settings: Settings, store: Store, patience: Patience) -> None:
    """Renew the upload, so that it does not expire while used. A failure does not matter: the run has its code."""
    with contextlib.suppress(LaunchError):
        patience.await_thread(lambda: storage_of(settings, store).renew(sha256))
