"""Puts a commit of a git repository, with its submodules, into a folder, and keeps what was fetched."""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch_worker.code.cache import locked, remove, throw_away_unused
from launch_worker.code.git import LOCAL, REMOTE, Git, GitError, explain
from launch_worker.errors import CodeError, InputError
from launch_worker.model.git_url import GitSource, submodule_url
from launch_worker.runners.process import tree
from launch_worker.untrusted.plain_files import read_plain

KEPT_REPOSITORIES = 20
#: Commits of a cached repository, which only grows: with more it is fetched anew.
KEPT_COMMITS = 50
_MOST_SUBMODULES = 100
_DEEPEST_SUBMODULE = 10
#: Files and folders of a commit, its submodules' included.
MAX_ENTRIES = 1_000_000
#: Size of a pack with the whole history per limit of a checkout, at most.
_HISTORY_FACTOR = 5
_ALL_HISTORY = str(0x7FFFFFFF)
#: Configuration of a cached repository.
_CONFIG = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n"
_FULL_ID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SHORT_ID = re.compile(r"[0-9a-f]{7,63}")
_NOT_THERE = re.compile(r"couldn't find remote ref", re.IGNORECASE)
#: Errors of git when another git works in the same repository.
_DISTURBED = re.compile(r"since we read it|\.lock': File exists|cannot lock ref", re.IGNORECASE)
_NOT_SERVED = re.compile(r"unadvertised object|not our ref|couldn't find remote ref", re.IGNORECASE)


@dataclass(frozen=True)
class Submodule:
    """A folder of a commit that is another repository's commit."""

    path: str
    url: str
    commit: str


class Repositories:
    """The repositories that this machine's workers have fetched; `folder` is their cache."""

    def __init__(
        self, folder: Path, *, git: Git, limit_bytes: int, check_url: Callable[[str], None] = lambda _: None
    ) -> None:
        """`limit_bytes` bounds all that one run checks out; `check_url` raises InputError for a submodule's URL."""
        self._check_url = check_url
        self._folder = folder
        self._git = git
        self._limit_bytes = self._bytes_left = limit_bytes
        self._entries_left = MAX_ENTRIES
        self._submodules_left = _MOST_SUBMODULES

    def check_out(self, source: GitSource, folder: Path, *, depth: int = 0) -> str:
        """Put the source's present commit into the empty folder, as a repository of its own. Returns the commit.

        A branch wins over a tag of the same name. Raises CodeError and StartGivenUpError.
        """
        cache = self._folder / hashlib.sha256(source.url.encode()).hexdigest()[:32]
        try:
            commit = self._put(source, cache, folder)
        except GitError as error:
            raise explain(error, source.url) from None
        finally:
            throw_away_unused(self._folder, keep=KEPT_REPOSITORIES)
        for module in self._submodules(source.url, folder):
            self._check_out_submodule(module, folder, depth=depth + 1)
        return commit

    def _put(self, source: GitSource, cache: Path, folder: Path) -> str:
        if _FULL_ID.fullmatch(source.ref):
            with locked(cache, patience=self._git.patience, shared=True):
                _restore_config(cache)
                if self._has(cache, source.ref):
                    self._measure(cache, source, source.ref)
                    self._copy(cache, source, source.ref, folder)
                    return source.ref
        with locked(cache, patience=self._git.patience):
            self._make_ready(cache)
            commit = self._fetch(cache, source)
            self._in_cache(cache, "update-ref", f"refs/launch/commits/{commit}", commit)
            self._measure(cache, source, commit)
            self._copy(cache, source, commit, folder)
        return commit

    # -- the cache ---------------------------------------------------------------------------------------------------

    def _make_ready(self, cache: Path) -> None:
        if cache.is_dir():
            _restore_config(cache)
            if _half_done(cache):
                _end_disturbers(cache)
            kept = self._in_cache(cache, "for-each-ref", "--format=%(refname)", "refs/launch/commits")
            if len(kept.splitlines()) < KEPT_COMMITS:
                return
        self._make_anew(cache)

    def _make_anew(self, cache: Path) -> None:
        remove(cache)
        partial = cache.with_name(cache.name + ".partial")
        remove(partial)
        self._git.run("init", "--quiet", "--bare", "--template=", "--", str(partial), folder=cache.parent)
        partial.rename(cache)
        _restore_config(cache)

    def _has(self, cache: Path, commit: str) -> bool:
        """Whether the commit was fetched whole. (A mere object may be what a cut fetch of others left.)"""
        if not cache.is_dir():
            return False
        try:
            self._in_cache(cache, "rev-parse", "--verify", "--quiet", f"refs/launch/commits/{commit}")
        except GitError:
            return False
        return True

    def _fetch(self, cache: Path, source: GitSource) -> str:
        if _FULL_ID.fullmatch(source.ref):
            if not self._has(cache, source.ref):
                try:
                    self._fetch_one(cache, source.url, source.ref)
                except GitError as error:
                    # Old servers send only commits that they advertise.
                    if not _NOT_SERVED.search(str(error)):
                        raise
                    self._fetch_all(cache, source.url)
            return self._resolve(cache, source, source.ref)
        for name in _meanings(source.ref):
            try:
                self._fetch_one(cache, source.url, name)
                return self._resolve(cache, source, "refs/launch/fetched")
            except GitError as error:
                if not _NOT_THERE.search(str(error)):
                    raise
        if _SHORT_ID.fullmatch(source.ref):
            self._fetch_all(cache, source.url)
        return self._resolve(cache, source, source.ref)

    def _fetch_one(self, cache: Path, url: str, name: str) -> None:
        self._fetch_refs(cache, url, f"+{name}:refs/launch/fetched", depth="1", limit_bytes=self._limit_bytes)

    def _fetch_all(self, cache: Path, url: str) -> None:
        heads, tags = "+refs/heads/*:refs/launch/heads/*", "+refs/tags/*:refs/launch/tags/*"
        limit_bytes = _HISTORY_FACTOR * self._limit_bytes
        self._fetch_refs(cache, url, heads, tags, depth=_ALL_HISTORY, limit_bytes=limit_bytes)

    def _fetch_refs(self, cache: Path, url: str, *refs: str, depth: str, limit_bytes: int) -> None:
        options = ("--quiet", "--no-tags", "--no-write-fetch-head", f"--depth={depth}")
        command = ("fetch", *options, "--", url, *refs)
        try:
            self._in_cache(cache, *command, protocols=REMOTE, file_bytes=limit_bytes)
        except GitError as error:
            if not _DISTURBED.search(str(error)):
                raise
            _end_disturbers(cache)
            self._in_cache(cache, *command, protocols=REMOTE, file_bytes=limit_bytes)

    def _in_cache(self, cache: Path, *arguments: str, **options: Any) -> str:
        return self._git.run(*arguments, folder=cache, repository=".", **options)

    def _resolve(self, cache: Path, source: GitSource, name: str) -> str:
        try:
            words = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
            # The last line only: an old git prints the option too.
            return self._in_cache(cache, *words).split()[-1]
        except GitError as error:
            what = f"branch, tag or commit {source.ref!r}" if source.ref else "default branch"
            raise CodeError(f"the repository {source.url} has no {what}; check the ref", detail=str(error)) from None

    def _measure(self, cache: Path, source: GitSource, commit: str) -> None:
        """Refuse a commit that would fill the disk or the memory, before it is checked out.

        A few kilobytes of a repository may stand for any number of files.
        """
        rest = bytearray()

        def count(data: bytes) -> None:
            rest.extend(data)
            *entries, last = rest.split(b"\0")
            rest[:] = last
            self._entries_left -= len(entries)
            for entry in entries:
                size = entry.partition(b"\t")[0].rpartition(b" ")[2]
                self._bytes_left -= int(size) if size.isdigit() else 0
            if self._entries_left < 0:
                raise CodeError(
                    f"{source.url} has more than {MAX_ENTRIES:,} files and folders, which is more than is checked out; "
                    "send what the job needs with --upload"
                )
            if self._bytes_left < 0:
                raise CodeError(
                    f"{source.url} has more than {self._limit_bytes:,} bytes of files, which is what this worker takes "
                    "(20 times LAUNCH_UPLOAD_BYTES); raise that, or send what the job needs with --upload"
                )

        self._in_cache(cache, "ls-tree", "-r", "-t", "-l", "-z", "--full-tree", commit, consume=count)

    # -- the job's folder --------------------------------------------------------------------------------------------

    def _copy(self, cache: Path, source: GitSource, commit: str, folder: Path) -> None:
        """Make a repository of the one commit that does not need the cache."""
        self._git.run("init", "--quiet", "--template=", "--", str(folder), folder=folder)
        self._in_folder(folder, "config", "remote.origin.url", source.url)
        options = ("--quiet", "--no-tags", "--no-write-fetch-head", "--depth=1")
        kept = f"refs/launch/commits/{commit}"
        self._in_folder(folder, "fetch", *options, "--", str(cache), kept, protocols=LOCAL)
        self._in_folder(folder, "checkout", "--quiet", "--detach", commit)

    def _in_folder(self, folder: Path, *arguments: str, protocols: str = "") -> str:
        return self._git.run(*arguments, folder=folder, repository=".git", protocols=protocols)

    def _submodules(self, url: str, folder: Path) -> Iterator[Submodule]:
        if not os.path.lexists(folder / ".gitmodules"):
            return
        try:
            by_path = self._declared_submodules(folder)
            tree = self._in_folder(folder, "ls-tree", "-z", "HEAD", "--", *by_path) if by_path else ""
        except GitError as error:
            raise CodeError(f"the .gitmodules of {url} cannot be used: {error}", detail=str(error)) from None
        for line in tree.split("\0"):
            kind, _, path = line.partition("\t")
            module = by_path.get(path, {})
            if not kind.startswith("160000 ") or module.get("update") == "none":
                continue
            try:
                found = Submodule(path, submodule_url(module.get("url", ""), parent=url), kind.split()[2])
                self._check_url(found.url)
                yield found
            except InputError as error:
                raise CodeError(f"submodule {path!r} of {url}: {error}") from None

    def _declared_submodules(self, folder: Path) -> dict[str, dict[str, str]]:
        """The settings of each submodule, by its path."""
        words = ("config", "--no-includes", "--blob", "HEAD:.gitmodules", "--null", "--list")
        modules: dict[str, dict[str, str]] = {}
        for line in self._in_folder(folder, *words).split("\0"):
            key, _, value = line.partition("\n")
            section, _, rest = key.partition(".")
            name, _, word = rest.rpartition(".")
            if section == "submodule":
                modules.setdefault(name, {})[word] = value
        if len(modules) > _MOST_SUBMODULES:
            raise self._too_many_submodules()
        return {module["path"]: module for module in modules.values() if module.get("path")}

    def _too_many_submodules(self) -> CodeError:
        return CodeError(
            f"the repository has more than {_MOST_SUBMODULES} submodules, or some {_DEEPEST_SUBMODULE} levels deep; "
            "send a checkout with --upload"
        )

    def _check_out_submodule(self, module: Submodule, folder: Path, *, depth: int) -> None:
        self._submodules_left -= 1
        if self._submodules_left < 0 or depth > _DEEPEST_SUBMODULE:
            raise self._too_many_submodules()
        inside = folder / module.path
        # A link in the way would lead the checkout out of the folder.
        if Path(os.path.realpath(inside)) != Path(os.path.realpath(folder)) / module.path or not inside.is_dir():
            raise CodeError(f"the path of submodule {module.path!r} is not a plain folder of the repository")
        try:
            self.check_out(GitSource(module.url, module.commit), inside, depth=depth)
        except CodeError as error:
            text = f"submodule {module.path!r}: {error}"
            raise CodeError(text, detail=error.detail, worker_fault=error.worker_fault) from None


def _restore_config(cache: Path) -> None:
    """Give a cached repository the configuration that it is made with. The caller has its lock.

    A job of the worker's user can write there, and git would take a commit from wherever that tells it to.
    """
    if not cache.is_dir():
        return
    for foreign in ("commondir", "config.worktree", "objects/info/alternates", "objects/info/http-alternates"):
        remove(cache / foreign)
    config = cache / "config"
    try:
        is_ours = read_plain(config, most_bytes=len(_CONFIG)) == _CONFIG.encode()
    except OSError:
        is_ours = False
    if not is_ours:
        partial = cache / f"config.{os.getpid()}.{threading.get_ident()}"
        partial.write_text(_CONFIG)
        if config.is_dir():
            remove(config)
        partial.rename(config)


def _end_disturbers(cache: Path) -> None:
    """End git processes that still write there, and delete their lock files, which would block every later fetch.

    The git of a killed worker lives on for a while without the cache's lock. The caller has that lock.
    """
    folder = os.path.realpath(cache)
    tree.end(lambda: tree.working_in(folder), wait=time.sleep)
    for left in _half_done(cache):
        left.unlink(missing_ok=True)


def _half_done(cache: Path) -> list[Path]:
    return [*cache.glob("*.lock"), *cache.glob("refs/**/*.lock"), *cache.glob("objects/pack/tmp_*")]


def _meanings(ref: str) -> list[str]:
    """The full names that a ref may stand for, the likeliest first."""
    if not ref or ref == "HEAD":
        return ["HEAD"]
    return [ref] if ref.startswith("refs/") else [f"refs/heads/{ref}", f"refs/tags/{ref}"]
