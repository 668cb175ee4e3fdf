"""The walk through the pages: each block is run as it stands, and each that is not has a reason."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.walk.pages import REPO, PageError, blocks, pages


def page(folder: Path, text: str) -> Path:
    path = folder / "page.md"
    path.write_text(text.replace("'''", "```"))
    return path


def walk(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.walk", "--here", str(page(folder, text))]
    env = {"PATH": os.environ["PATH"]}
    return subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.stem)
def test_each_block_of_a_page_can_be_run_or_says_why_not(path: Path) -> None:
    """A page in README, tutorial or how-to whose blocks are of sh, and whose marks are those that there are."""
    assert blocks(path)


def test_a_block_that_fails_fails_the_walk_and_is_named(tmp_path: Path) -> None:
    done = walk(tmp_path, "'''sh\ntrue\n'''\n\n'''sh\necho before\nfalse\necho after\n'''\n")
    assert done.returncode == 1
    assert "page.md:6 failed" in done.stderr
    assert "before" in done.stderr
    assert "\nafter" not in done.stdout


def test_what_one_block_sets_the_next_has_and_every_shell_has_what_is_for_each(tmp_path: Path) -> None:
    text = """
<!-- each-shell -->
<!-- machine: both -->
'''sh
HOST=ADDRESS
'''
'''sh
OWN=1
'''
<!-- background: is up -->
<!-- machine: second -->
'''sh
echo "$HOST [$OWN] is up"
sleep 600
'''
'''sh
echo "own [$OWN]"
'''
"""
    done = walk(tmp_path, text)
    assert done.returncode == 0, done.stderr
    assert "own [1]" in done.stdout
    assert "HOST=127." in done.stdout
    assert ".1 [] is up" in done.stdout


def test_a_block_that_is_not_run_is_named_with_its_reason(tmp_path: Path) -> None:
    done = walk(tmp_path, "<!-- no-run: needs a GPU -->\n'''sh\nfalse\n'''\n<!-- install -->\n'''sh\nfalse\n'''\n")
    assert done.returncode == 0, done.stderr
    assert "| page.md | 0 | 0 | line 3: needs a GPU; line 7: this walk has an environment |" in done.stdout
    assert "Blocks not run: 2." in done.stdout


@pytest.mark.parametrize("end", ["sleep 600", "setsid sh -c 'exec sleep 600' &\nsleep 600"])
def test_nothing_of_a_walk_is_left_running(tmp_path: Path, end: str) -> None:
    mark = f"{tmp_path.name}-{os.getpid()}"
    done = walk(
        tmp_path, f"<!-- background: up -->\n'''sh\nexport MARK={mark}\necho up\n{end}\n'''\n'''sh\ntrue\n'''\n"
    )
    assert done.returncode == 0, done.stderr
    assert not [path for path in Path("/proc").glob("[0-9]*/environ") if has(path, mark)]


def has(path: Path, mark: str) -> bool:
    try:
        return mark.encode() in path.read_bytes()
    except OSError:
        return False


@pytest.mark.parametrize(
    "text", ["<!-- norun: x -->\n'''sh\n'''\n", "<!-- no-run -->\n'''sh\n'''\n", "'''python\n'''\n"]
)
def test_a_block_with_an_unknown_mark_or_of_another_language_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(PageError, match=r"page\.md"):
        blocks(page(tmp_path, f"{text}\n'''\n"))
