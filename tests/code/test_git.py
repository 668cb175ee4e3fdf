"""Real repositories over HTTPS: every kind of ref, submodules, hostile content, refusals as one sentence. W11."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launch_worker.code import repository as repository_module
from launch_worker.code.cache import throw_away_unused
from launch_worker.code.fetch import fetch_code
from launch_worker.code.git import Git, GitError
from launch_worker.code.patience import Patience
from launch_worker.errors import CodeError, StartGivenUpError
from launch_worker.ids import new_run_id
from launch_worker.model.spec import RunSpec
from launch_worker.queues.queue import QueueConfig
from launch_worker.settings import Settings
from launch_worker.store.store import Store
from tests.code.conftest import Fetch
from tests.conftest import wait_until
from tests.support.githost import PASSWORD, USER, GitHost, Repository


def failure(fetch: Fetch, uri: str, **options: Any) -> CodeError:
    with pytest.raises(CodeError) as error:
        fetch(uri, **options)
    assert "\n" not in str(error.value), "one sentence"
    return error.value


# -- refs ----------------------------------------------------------------------------------------------------------


def test_the_default_branch_a_branch_a_tag_and_a_commit_resolve(repository: Repository, fetch: Fetch) -> None:
    first = repository.commit({"a": "1"})
    repository.git("tag", "v1@rc")
    repository.git("tag", "--annotate", "--message", "m", "v1-annotated")
    repository.git("checkout", "--quiet", "-b", "feature/x")
    second = repository.commit({"a": "2"})
    repository.git("checkout", "--quiet", "main")
    third = repository.commit({"a": "3"})
    for ref, commit, text in (
        ("", third, "3"),
        ("@main", third, "3"),
        ("@feature/x", second, "2"),
        ("@refs/heads/feature/x", second, "2"),
        ("@v1@rc", first, "1"),
        ("@v1-annotated", first, "1"),
        (f"@{first}", first, "1"),
        (f"@{second[:10]}", second, "2"),
    ):
        got, folder = fetch(repository.url + ref)
        assert (got, (folder / "a").read_text()) == (commit, text), ref
    assert len(list((folder.parent / "cache").glob("*.lock"))) == 1, "one repository in the cache"


def test_a_branch_wins_over_a_tag_of_the_same_name(repository: Repository, fetch: Fetch) -> None:
    repository.commit({"a": "tagged"})
    repository.git("tag", "same")
    repository.git("branch", "other")
    repository.git("checkout", "--quiet", "-b", "same")
    commit = repository.commit({"a": "branched"})
    assert fetch(f"{repository.url}@same")[0] == commit


def test_an_unknown_ref_and_an_unknown_commit_are_named(repository: Repository, fetch: Fetch) -> None:
    repository.commit({"a": "1"})
    assert "no branch, tag or commit 'nope'" in str(failure(fetch, f"{repository.url}@nope"))
    assert f"'{'0' * 39}1'" in str(failure(fetch, f"{repository.url}@{'0' * 39}1"))
    assert "'abcdef0'" in str(failure(fetch, f"{repository.url}@abcdef0"))


def test_a_repository_without_any_commit_says_so(repository: Repository, fetch: Fetch) -> None:
    assert "no default branch" in str(failure(fetch, repository.url))


def test_a_server_that_gives_out_no_bare_commit_is_asked_for_more(
    repository: Repository, worker_env: dict[str, str], fetch: Fetch
) -> None:
    old = repository.commit({"a": "old"})
    repository.commit({"a": "new"})
    # In the protocol's first version a server allows only what it advertises.
    worker_env |= {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "protocol.version", "GIT_CONFIG_VALUE_0": "0"}
    commit, folder = fetch(f"{repository.url}@{old}")
    assert (commit, (folder / "a").read_text()) == (old, "old")


def test_only_the_one_commit_is_fetched(repository: Repository, fetch: Fetch) -> None:
    for number in range(3):
        repository.commit({"a": str(number)})
    _, folder = fetch(repository.url)
    log = subprocess.run(["git", "log", "--oneline"], cwd=folder, capture_output=True, text=True, check=True)
    assert len(log.stdout.splitlines()) == 1


# -- the cache -----------------------------------------------------------------------------------------------------


def test_a_commit_that_was_fetched_before_needs_no_server(host: GitHost, repository: Repository, fetch: Fetch) -> None:
    commit = repository.commit({"a": "1"})
    fetch(repository.url)
    before = len(host.requests)
    _, folder = fetch(f"{repository.url}@{commit}")
    assert len(host.requests) == before
    assert (folder / "a").read_text() == "1"


def test_a_job_keeps_its_repository_when_the_cache_is_gone(repository: Repository, fetch: Fetch) -> None:
    repository.commit({"a": "1"})
    _, folder = fetch(repository.url)
    shutil.rmtree(folder.parent / "cache")
    show = subprocess.run(["git", "show", "HEAD:a"], cwd=folder, capture_output=True, text=True, check=True)
    assert show.stdout == "1"


def test_the_longest_unused_repositories_are_thrown_away(
    host: GitHost, fetch: Fetch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(repository_module, "KEPT_REPOSITORIES", 2)
    made = [host.repository(f"lru-{tmp_path.name}-{number}") for number in range(3)]
    for one in made:
        one.commit({"a": "1"})
        fetch(one.url)
    left = [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    assert len(left) == 2
    before = len(host.requests)
    fetch(f"{made[2].url}@{made[2].git('rev-parse', 'HEAD')}")
    assert len(host.requests) == before, "the newest are left"


def test_what_is_in_use_is_not_thrown_away(repository: Repository, fetch: Fetch, tmp_path: Path) -> None:
    from launch_worker.code.cache import locked

    repository.commit({"a": "1"})
    fetch(repository.url)
    (entry,) = [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    with locked(entry, patience=Patience.of(5), shared=True):
        throw_away_unused(tmp_path / "cache", keep=0)
        assert entry.is_dir()
    throw_away_unused(tmp_path / "cache", keep=0)
    assert not list((tmp_path / "cache").iterdir())


def test_what_killed_workers_left_half_made_is_thrown_away_after_a_day(tmp_path: Path) -> None:
    old, new = tmp_path / "a.partial", tmp_path / ".b.partial"
    (old / "refs").mkdir(parents=True)
    new.touch()
    os.utime(old, (1, 1))
    throw_away_unused(tmp_path, keep=1)
    assert list(tmp_path.iterdir()) == [new]


def test_a_repository_that_has_grown_is_fetched_anew(
    repository: Repository, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository_module, "KEPT_COMMITS", 2)
    for number in range(4):
        commit = repository.commit({"a": str(number)})
        assert fetch(repository.url)[0] == commit


def test_locks_that_a_killed_git_left_do_no_harm(repository: Repository, fetch: Fetch, tmp_path: Path) -> None:
    repository.commit({"a": "1"})
    fetch(repository.url)
    (entry,) = [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    for name in ("shallow.lock", "packed-refs.lock", "refs/launch/fetched.lock"):
        (entry / name).touch()
    commit = repository.commit({"a": "2"})
    assert fetch(repository.url)[0] == commit


@pytest.mark.parametrize("way", ["config", "link", "commondir"])
def test_what_a_job_configures_in_the_cache_leads_no_later_run_elsewhere(
    host: GitHost, repository: Repository, fetch: Fetch, tmp_path: Path, way: str
) -> None:
    evil = host.repository(f"{repository.folder.name}-evil-{way}")
    evil.commit({"file": "evil"})
    repository.commit({"file": "good"})
    fetch(repository.url)
    (cache,) = (path for path in (tmp_path / "cache").rglob("config") if "refs" in os.listdir(path.parent))
    text = f'[core]\nbare = true\n[url "{evil.url}"]\n\tinsteadOf = {repository.url}\n'
    other = tmp_path / "other"
    other.mkdir()
    if way == "config":
        cache.write_text(text)
    else:
        (other / "config").write_text(text)
        if way == "link":
            cache.unlink()
            cache.symlink_to(other / "config")
        else:
            (cache.parent / "commondir").write_text(str(other))
    commit = repository.commit({"file": "newer"})
    assert fetch(repository.url)[0] == commit


def test_what_a_killed_worker_left_writing_in_the_cache_disturbs_no_fetch(
    repository: Repository, fetch: Fetch, tmp_path: Path
) -> None:
    """Its git lives on for a while, without the lock that its worker had."""
    repository.commit({"a": "1"})
    fetch(repository.url)
    (entry,) = [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    # Git compares whole seconds.
    code = "import itertools, os\nfor second in itertools.count(): os.utime('shallow', (second, second))"
    left = subprocess.Popen([sys.executable, "-c", code], cwd=entry)
    try:
        commit = repository.commit({"a": "2"})
        assert fetch(repository.url)[0] == commit
        assert left.wait(10) == -signal.SIGKILL
    finally:
        left.kill()
        left.wait()


def test_several_slots_fetch_the_same_repository_at_once(repository: Repository, fetch: Fetch) -> None:
    commit = repository.commit({"a": "1"})
    got: list[str] = []
    threads = [threading.Thread(target=lambda: got.append(fetch(repository.url)[0])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [commit] * 4


# -- submodules ----------------------------------------------------------------------------------------------------


def test_submodules_are_there_recursively_with_relative_urls(
    host: GitHost, repository: Repository, fetch: Fetch
) -> None:
    name = repository.folder.name
    inner, outer = host.repository(f"{name}-inner"), host.repository(f"{name}-outer")
    old = inner.commit({"i": "inner"})
    inner.commit({"i": "newer"})
    outer_commit = outer.add_submodule("deep/inner", f"../{name}-inner", old)
    repository.commit({"a": "1"})
    repository.add_submodule("lib", outer.url, outer_commit)
    _, folder = fetch(repository.url)
    assert (folder / "lib" / "deep" / "inner" / "i").read_text() == "inner", "the commit that is meant, not the newest"
    status = subprocess.run(["git", "status", "--porcelain"], cwd=folder, capture_output=True, text=True, check=True)
    assert status.stdout == ""


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc",
        "ext::sh -c touch% /tmp/owned",
        "/etc",
        "http://127.0.0.1/x",
        "--upload-pack=x",
        "../../../x",
        "git://h/x",
    ],
)
def test_a_submodule_of_a_forbidden_kind_is_refused_before_git_runs(
    url: str, repository: Repository, fetch: Fetch
) -> None:
    repository.add_submodule("lib", url, "1" * 40)
    assert "submodule 'lib'" in str(failure(fetch, repository.url))


def test_a_submodule_comes_only_from_where_the_queue_allows(repository: Repository, fetch: Fetch) -> None:
    repository.add_submodule("lib", "https://169.254.169.254/x", "1" * 40)
    queue = QueueConfig(allow_uris=(repository.url,))
    error = failure(fetch, repository.url, check_url=queue.check_git_url)
    assert "code from https://169.254.169.254/x is not allowed in this queue" in str(error)


def test_a_submodule_cannot_leave_the_folder_through_a_link(
    host: GitHost, repository: Repository, fetch: Fetch, tmp_path: Path
) -> None:
    evil = host.repository(f"{repository.folder.name}-evil")
    commit = evil.commit({"x": "x"})
    outside = tmp_path / "outside"
    (outside / "lib").mkdir(parents=True)
    os.symlink(outside, repository.folder / "out")
    repository.git("config", "--file", ".gitmodules", "submodule.lib.path", "out/lib")
    repository.git("config", "--file", ".gitmodules", "submodule.lib.url", evil.url)
    repository.commit()
    # A tree that no git makes by itself: `out` is a link and a folder with the submodule in it.
    inner = repository.git_with_input(f"160000 commit {commit}\tlib\n", "mktree", "--missing")
    listed = repository.git("ls-tree", "HEAD")
    tree = repository.git_with_input(f"{listed}\n040000 tree {inner}\tout\n", "mktree")
    repository.git("update-ref", "refs/heads/main", repository.git("commit-tree", "-m", "evil", tree))
    with contextlib.suppress(CodeError):
        fetch(repository.url)
    assert [path.name for path in outside.rglob("*")] == ["lib"]


def test_a_submodule_that_is_gone_is_named(host: GitHost, repository: Repository, fetch: Fetch) -> None:
    repository.add_submodule("lib", "../no-such-thing", "1" * 40)
    error = failure(fetch, repository.url)
    assert str(error).startswith("submodule 'lib': there is no repository")


def test_a_submodule_without_a_url_is_named(repository: Repository, fetch: Fetch) -> None:
    repository.add_submodule("lib", "", "1" * 40)
    assert "submodule 'lib'" in str(failure(fetch, repository.url))


@pytest.mark.parametrize("text", ["[submodule", "", "\\0", '[include]\npath = /etc/passwd\n[submodule "x"]\nurl = x\n'])
def test_odd_gitmodules_do_no_harm(text: str, repository: Repository, fetch: Fetch) -> None:
    repository.commit({".gitmodules": text, "a": "1"})
    try:
        _, folder = fetch(repository.url)
    except CodeError as error:
        assert ".gitmodules" in str(error)  # noqa: PT017 (either answer is right)
    else:
        assert (folder / "a").exists()


def test_a_submodule_that_is_not_to_be_updated_stays_empty(repository: Repository, fetch: Fetch) -> None:
    repository.git("config", "--file", ".gitmodules", "submodule.lib.update", "none")
    repository.add_submodule("lib", "file:///etc", "1" * 40)
    _, folder = fetch(repository.url)
    assert not list((folder / "lib").iterdir())


# -- hostile content -----------------------------------------------------------------------------------------------


def test_hooks_and_monitors_have_no_effect(
    repository: Repository, worker_env: dict[str, str], fetch: Fetch, tmp_path: Path
) -> None:
    mark = tmp_path / "owned"
    script = f"#!/bin/sh\ntouch {mark}\n"
    for name in ("post-checkout", "reference-transaction", "post-merge", "post-index-change", "fsmonitor"):
        for folder in (
            repository.folder / ".git" / "hooks",
            repository.folder / "hooks",
            tmp_path / "template" / "hooks",
        ):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(script)
            (folder / name).chmod(0o755)
    repository.commit(
        {
            ".gitconfig": "[core]\nfsmonitor = hooks/fsmonitor\n",
            "config": "[core]\nfsmonitor = hooks/fsmonitor\n",
            "HEAD": "ref: refs/heads/main\n",
            "objects/x": "",
            "refs/x": "",
        }
    )
    repository.git("config", "core.fsmonitor", str(repository.folder / "hooks" / "fsmonitor"))
    mark.unlink(missing_ok=True)
    # Even where the operator's own configuration has them.
    (Path(worker_env["HOME"]) / ".gitconfig").write_text(
        f"[init]\ntemplateDir = {tmp_path}/template\n"
        f"[core]\nhooksPath = {tmp_path}/template/hooks\nfsmonitor = {tmp_path}/template/hooks/fsmonitor\n"
    )
    fetch(repository.url)
    fetch(repository.url)
    assert not mark.exists()


def test_git_sees_nothing_of_the_workers_secrets(
    repository: Repository, worker_env: dict[str, str], fetch: Fetch, tmp_path: Path
) -> None:
    repository.commit({"a": "1"})
    helper = tmp_path / "helper"
    helper.write_text(f"#!/bin/sh\nenv > {tmp_path}/seen\necho username={USER}\necho password={PASSWORD}\n")
    helper.chmod(0o755)
    (Path(worker_env["HOME"]) / ".gitconfig").write_text(f"[credential]\nhelper = {helper}\n")
    shutil.copytree(repository.folder, repository.folder.parent / "private" / repository.folder.name)
    _, folder = fetch(repository.url.replace("/r", "/private/r"))
    seen = (tmp_path / "seen").read_text()
    assert "GIT_TERMINAL_PROMPT=0" in seen
    assert "REDIS" not in seen
    assert "hidden" not in seen
    assert PASSWORD not in (folder / ".git" / "config").read_text()


def test_configuration_cannot_allow_a_protocol(
    worker_env: dict[str, str], repository: Repository, fetch: Fetch
) -> None:
    (Path(worker_env["HOME"]) / ".gitconfig").write_text(
        '[protocol "file"]\nallow = always\n[protocol "ext"]\nallow = always\n'
        f'[url "ext::sh -c touch%20x "]\ninsteadOf = {repository.url}\n'
    )
    assert "protocol that is not allowed" in str(failure(fetch, repository.url))


# -- failures ------------------------------------------------------------------------------------------------------


def test_a_repository_that_is_not_there_is_said(host: GitHost, fetch: Fetch) -> None:
    error = failure(fetch, f"{host.url}/nothing")
    assert f"there is no repository {host.url}/nothing" in str(error)
    assert "not found" in error.detail


def test_a_login_that_is_refused_is_said(host: GitHost, fetch: Fetch) -> None:
    assert "refused the login" in str(failure(fetch, f"{host.url}/private/x"))


def test_a_certificate_that_nobody_vouches_for_is_said(
    worker_env: dict[str, str], repository: Repository, fetch: Fetch
) -> None:
    del worker_env["GIT_SSL_CAINFO"]
    assert "TLS certificate" in str(failure(fetch, repository.url))


def test_a_host_that_is_not_there_is_said(fetch: Fetch) -> None:
    assert "could not be reached" in str(failure(fetch, "https://127.0.0.1:1/x"))
    assert "could not be reached" in str(failure(fetch, "https://nowhere.invalid/x"))


def test_a_redirect_to_plain_http_is_not_followed(host: GitHost, fetch: Fetch) -> None:
    assert "protocol that is not allowed" in str(failure(fetch, f"{host.url}/moved/x"))


def test_a_worker_without_git_says_so(
    worker_env: dict[str, str], fetch: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    worker_env["PATH"] = str(tmp_path)
    error = failure(fetch, "https://127.0.0.1:1/x")
    assert "git is not installed on this worker" in str(error)
    assert error.worker_fault


def test_a_server_that_hangs_ends_at_the_start_timeout(host: GitHost, fetch: Fetch) -> None:
    begun = time.monotonic()
    assert "within the start timeout of 0.5 s" in str(failure(fetch, f"{host.url}/hangs/x", limit_s=0.5))
    assert time.monotonic() - begun < 4


def test_a_fetch_that_is_no_longer_wanted_ends_at_once_with_all_its_processes(
    host: GitHost, worker_env: dict[str, str], tmp_path: Path
) -> None:
    unwanted = threading.Event()
    git = Git(Patience.of(30, unwanted=unwanted.is_set), worker_env, {"LAUNCH_RUN_ID": tmp_path.name})
    threading.Timer(0.5, unwanted.set).start()
    begun = time.monotonic()
    with pytest.raises(StartGivenUpError):
        git.run("ls-remote", "--", f"{host.url}/hangs/x", folder=tmp_path, protocols="https")
    assert time.monotonic() - begun < 4
    wait_until(lambda: not _processes_with(f"LAUNCH_RUN_ID={tmp_path.name}"))


def test_what_git_says_is_bounded_and_clean(worker_env: dict[str, str], tmp_path: Path) -> None:
    say = "printf 'https://u:pw@h/\\033[31m %s\\n' $i >&2"
    shout = f"!f() {{ for i in 1 2 3 4 5 6 7 8 9 10 11 12; do {say}; done; exit 3; }}; f"
    git = Git(Patience.of(10), worker_env)
    with pytest.raises(GitError) as error:
        git.run("-c", f"alias.shout={shout}", "shout", folder=tmp_path)
    lines = str(error.value).splitlines()
    assert len(lines) == 8
    assert "pw" not in str(error.value)
    assert "\033" not in str(error.value)


# -- ssh -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form", ["git@example.org:{path}", "ssh://git@example.org:2222{path}", "ssh://example.org{path}"]
)
def test_ssh_and_scp_like_urls_run_ssh(
    form: str, repository: Repository, worker_env: dict[str, str], fetch: Fetch, tmp_path: Path
) -> None:
    commit = repository.commit({"a": "1"})
    ssh = tmp_path / "ssh"
    # Stands in for ssh and the server behind it: notes its arguments, then does what the server is asked to do.
    ssh.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n'
        'for last; do :; done\nunset GIT_ALLOW_PROTOCOL\nexec sh -c "$last"\n'
    )
    ssh.chmod(0o755)
    worker_env |= {"GIT_SSH_COMMAND": str(ssh), "GIT_SSH_VARIANT": "ssh"}
    got, folder = fetch(form.format(path=repository.folder) + "@main")
    assert (got, (folder / "a").read_text()) == (commit, "1")
    asked = (tmp_path / "asked").read_text().splitlines()[0]
    assert "example.org git-upload-pack '" in asked
    assert ("-p 2222" in asked) == ("2222" in form)


def test_ssh_never_asks_a_person(worker_env: dict[str, str], fetch: Fetch) -> None:
    error = failure(fetch, "ssh://git@127.0.0.1:1/x", limit_s=10)
    assert "could not be reached" in str(error)


def _processes_with(mark: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in path.read_bytes().split(b"\0"):
                found.append(path.parent.name)
        except OSError:
            continue
    return found


@pytest.mark.parametrize("least", [0, 1 << 60])
def test_a_fetch_that_fails_while_the_disk_has_too_little_room_is_the_machines_fault(
    tmp_path: Path, host: GitHost, worker_env: dict[str, str], store: Store, least: int
) -> None:
    """Whatever git's words are, which know nothing of it here."""
    run_id = new_run_id()
    store.create(run_id, RunSpec(command=("true",)))
    settings = replace(Settings.from_env(worker_env), work_dir=tmp_path, min_free_bytes=least)
    with pytest.raises(CodeError, match="there is no repository") as caught:
        fetch_code(
            RunSpec(command=("true",), uri=f"{host.url}/nothing"),
            store.get(run_id),
            tmp_path / "code" / "of-the-job",
            settings=settings,
            store=store,
            patience=Patience.of(30.0, unwanted=lambda: False),
            worker_env=worker_env,
        )
    assert caught.value.worker_fault == bool(least)
    assert ("make room there" in str(caught.value)) == bool(least)


@pytest.mark.parametrize("name", [".git", ".GIT", "git~1", ".."])
def test_an_entry_of_a_tree_that_stands_for_git_or_a_folder_above_is_refused(
    repository: Repository, fetch: Fetch, name: str
) -> None:
    blob = repository.git_with_input("#!/bin/sh\ntouch owned\n", "hash-object", "-w", "--stdin")
    inner = repository.git_with_input(f"100755 blob {blob}\tpost-checkout\n", "mktree")
    tree = subprocess.run(
        ["git", "hash-object", "-t", "tree", "-w", "--stdin", "--literally"],
        cwd=repository.folder,
        input=f"40000 {name}\0".encode() + bytes.fromhex(inner),
        capture_output=True,
        check=True,
    ).stdout.decode()
    repository.git("update-ref", "refs/heads/main", repository.git("commit-tree", "-m", "hostile", tree.strip()))
    with pytest.raises(CodeError, match=r"invalid path|malformed|fsck|bad tree"):
        fetch(repository.url)
