"""What of a folder is sent is what git would take: against git itself, on random trees and ignore files."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launch_worker.code import listing
from launch_worker.code.listing import list_folder
from launch_worker.errors import InputError

ENV = {"PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1", "HOME": "/nonexistent", "LC_ALL": "C"}
NAMES = ("a", "b", "ab", ".env", "x.py", "y.py", "doc", "config", "a b", "[a]", "é")
WORDS = (
    "a",
    "b",
    "ab",
    ".env",
    "*",
    "*.py",
    "?",
    "[ab]",
    "[!a]",
    "[a-",
    "[[:alpha:]]",
    "**",
    "a*",
    "*b",
    "\\a",
    "doc",
    "config",
)


def git(folder: Path, *words: str) -> bytes:
    return subprocess.run(["git", *words], cwd=folder, env=ENV, capture_output=True, check=True).stdout


def taken(folder: Path) -> set[str]:
    """git's own answer."""
    words = ("ls-files", "--others", "--cached", "--exclude-standard", "-z")
    return {os.fsdecode(name) for name in git(folder, *words).split(b"\0") if name}


def sent(folder: Path) -> set[str]:
    try:
        return {entry.path for entry in list_folder(folder) if not entry.is_folder}
    except InputError as error:
        if "nothing to send" not in str(error):
            raise
        return set()


def fill(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        if any(parent.is_file() for parent in path.parents) or path.is_dir():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture(autouse=True)
def no_other_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "GIT_CONFIG_NOSYSTEM"):
        monkeypatch.setenv(name, ENV[name])


paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4).map("/".join)
patterns = st.tuples(
    st.sampled_from(("", "", "", "!", "!", "#", "\\!")),
    st.sampled_from(("", "", "/")),
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map("/".join),
    st.sampled_from(("", "", "/", " ", "\\ ", "/**", "\r")),
).map("".join)
rules = st.lists(patterns, min_size=1, max_size=4).map("\n".join)
ignores = st.dictionaries(st.sampled_from((".gitignore", "a/.gitignore", "doc/.gitignore", "doc/a/.gitignore")), rules)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=st.lists(paths, min_size=1, max_size=12), ignores=ignores)
def test_a_folder_that_is_no_checkout_goes_by_gits_rules(files: list[str], ignores: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = fill(Path(name), ignores | dict.fromkeys(files, ""))
        ours = sent(folder)
        git(folder, "init", "--quiet")
        assert ours == taken(folder)
        # By the same rules where the folder is a checkout, and there is no git.
        with pytest.MonkeyPatch.context() as without:
            without.setattr(shutil, "which", lambda *_, **__: None)
            assert sent(folder) == ours


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        ({".gitignore": "*\n!*/\n!*.py\n"}, {"m.py", "pkg/m.py", "pkg/deep/m.py"}),
        ({".gitignore": ".env\n", "config/.gitignore": "!/config\n"}, None),
        ({".gitignore": ".env\n", "pkg/.gitignore": "!/config\n"}, None),
        ({".gitignore": "doc/**/\n"}, None),
    ],
)
def test_the_rules_that_a_library_got_wrong(tmp_path: Path, rules: dict[str, str], kept: set[str] | None) -> None:
    files = (
        "m.py",
        "pkg/m.py",
        "pkg/deep/m.py",
        "pkg/x",
        ".env",
        "pkg/config/.env",
        "config/config/.env",
        "doc/a/b",
        "doc/c",
    )
    folder = fill(tmp_path, rules | dict.fromkeys(files, ""))
    ours = sent(folder)
    git(folder, "init", "--quiet")
    assert ours == taken(folder)
    assert kept is None or ours == kept
    if ".env" in rules[".gitignore"]:
        assert not [path for path in ours if path.endswith(".env")]


def checkout(folder: Path, files: Mapping[str, str], *, tracked: tuple[str, ...] = ()) -> Path:
    fill(folder, files)
    git(folder, "init", "--quiet")
    if tracked:
        git(folder, "add", "--force", "--", *tracked)
    return folder


def test_a_checkout_is_sent_as_git_has_it(tmp_path: Path) -> None:
    files = {
        ".gitignore": "*.log\n/.env\n",
        "kept.log": "",
        "a.log": "",
        ".env": "",
        "new": "",
        "gone": "",
        "local": "",
    }
    folder = checkout(tmp_path, files, tracked=("kept.log", "gone"))
    (folder / "gone").unlink()
    (folder / ".git" / "info" / "exclude").write_text("local\n")
    assert sent(folder) == {".gitignore", "kept.log", "new"}


def test_a_folder_of_a_checkout_goes_by_the_ignore_files_above_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkout(
        tmp_path, {".gitignore": ".env\nout/\n", "pkg/.env": "", "pkg/x": "", "pkg/out/y": "", "out/z": ""}
    )
    assert sent(folder / "pkg") == {"x"}
    assert sent(folder / "out") == set()
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    assert sent(folder / "pkg") == {"x"}
    with pytest.raises(InputError, match=r"is ignored in .*\.launchignore"):
        list_folder(folder / "out")
    (folder / "out" / ".launchignore").write_text("")
    assert sent(folder / "out") == {".launchignore", "z"}


def test_a_checkout_inside_a_folder_is_sent_as_its_own_git_has_it_and_never_what_is_ignored_outside(
    tmp_path: Path,
) -> None:
    checkout(tmp_path / "sub", {".gitignore": "built\n", "built": "", ".env": "", "x": "", "t": ""}, tracked=("t",))
    fill(tmp_path, {".gitignore": ".env\n", ".env": "", "y": ""})
    wanted = {".gitignore", "y", "sub/.gitignore", "sub/x", "sub/t"}
    assert sent(tmp_path) == wanted
    checkout(tmp_path, {})
    assert sent(tmp_path) == wanted


def test_what_git_tracks_behind_a_link_is_not_sent(tmp_path: Path) -> None:
    outside = fill(tmp_path / "outside", {"secret": "s"})
    folder = checkout(tmp_path / "in", {"d/secret": "mine", "x": ""}, tracked=("d/secret", "x"))
    shutil.rmtree(folder / "d")
    (folder / "d").symlink_to(outside)
    (folder / ".gitignore").write_text("/d\n")
    assert sent(folder) == {".gitignore", "x"}


def test_a_hostile_checkout_starts_no_program(tmp_path: Path) -> None:
    folder = checkout(tmp_path / "in", {"x": ""}, tracked=("x",))
    hook = fill(tmp_path, {"hook": f"#!/bin/sh\ntouch {tmp_path}/sprung\n"}) / "hook"
    hook.chmod(0o755)
    git(folder, "config", "core.fsmonitor", str(hook))
    assert sent(folder) == {"x"}
    assert not (tmp_path / "sprung").exists()


def test_an_environment_that_names_another_repository_is_not_heeded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = checkout(tmp_path / "other", {"o": ""}, tracked=("o",))
    folder = checkout(tmp_path / "in", {"x": "", ".gitignore": "y\n", "y": ""})
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git" / "index"))
    assert sent(folder) == {".gitignore", "x"}


def test_a_damaged_checkout_goes_by_the_same_rules(tmp_path: Path) -> None:
    folder = fill(tmp_path, {".git/HEAD": "nonsense", ".gitignore": "y\n", "x": "", "y": ""})
    assert listing._by_git(str(folder)) is None
    assert sent(folder) == {".gitignore", "x"}
