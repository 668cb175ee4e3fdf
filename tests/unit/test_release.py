"""What `make release` and `make bundle` promise, as far as it is told without building an environment."""

from __future__ import annotations

import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from launch_worker import __version__
from launch_worker.cli.main import group
from launch_worker.cli.submit import submit_command
from tools.release import REPO, ReleaseError, build, check_tag, sums, wanted
from tools.requirements import read_pins

HASH = "--hash=sha256:" + "0" * 64


def tracked(*paths: str) -> set[str]:
    done = subprocess.run(["git", "ls-files", *paths], cwd=REPO, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not done.stdout:
        pytest.skip("no checkout of git")
    return {name for name in done.stdout.splitlines() if (REPO / name).exists()}


def test_the_wheel_has_the_whole_package_and_nothing_else_and_the_sdist_all_that_git_has(tmp_path: Path) -> None:
    package, everything = tracked("launch_worker"), tracked()
    wheel, sdist = build(tmp_path)
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
    assert package - names == set()
    assert {name for name in names if not name.startswith("launch_worker/")} == set()
    with tarfile.open(sdist) as tar:
        kept = {name.partition("/")[2] for name in tar.getnames()}
    assert {name for name in everything - kept if not name.startswith((".ci/", "bench/results/kept/"))} == set()


@pytest.mark.parametrize("program", [group, submit_command])
def test_both_programs_say_the_version_of_the_code(program: object) -> None:
    done = CliRunner().invoke(program, ["--version"])  # type: ignore[arg-type]
    assert (done.exit_code, done.output.split()[-1]) == (0, __version__)


def test_a_tag_that_says_another_version_is_refused() -> None:
    check_tag([], "1.0")
    check_tag(["v1.0"], "1.0")
    with pytest.raises(ReleaseError, match=r"has the tag v1\.0rc1, and launch_worker/__init__\.py says 1\.0"):
        check_tag(["v1.0rc1"], "1.0")


def test_a_bundle_has_what_any_patch_of_its_python_needs() -> None:
    pins = read_pins(
        f"a==1 ; python_full_version < '3.11.3' \\\n    {HASH}\n"
        f"b==1 ; python_full_version >= '3.12' \\\n    {HASH}\n"
        f"c==1 ; sys_platform == 'win32' \\\n    {HASH}\n"
    )
    assert wanted(pins, "3.11") == [f"a==1 {HASH}\n"]
    assert wanted(pins, "3.12") == [f"b==1 {HASH}\n"]


def test_sums_name_each_file_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels/a").write_text("")
    (tmp_path / "SHA256SUMS").write_text("".join(sums(tmp_path)))
    subprocess.run(["sha256sum", "--quiet", "--check", "SHA256SUMS"], cwd=tmp_path, check=True)
    assert next(sums(tmp_path)).endswith("  wheels/a\n")
