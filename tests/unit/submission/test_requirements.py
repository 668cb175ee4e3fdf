"""The requirements of a submitter's machine: read there, with what they include, for a run that brings no code."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch_worker.errors import InputError
from launch_worker.submission.options import read_options
from launch_worker.submission.requirements import attach


def test_the_content_comes_with_what_it_includes_by_paths_from_a_common_folder(tmp_path: Path) -> None:
    (tmp_path / "envs").mkdir()
    (tmp_path / "base.txt").write_text("numpy\n")
    (tmp_path / "envs" / "gpu.txt").write_text("-r ../base.txt\ntorch\n")
    given = attach(read_options({"requirements": "envs/gpu.txt"}), folder=str(tmp_path)).given
    assert given["requirements"] == "envs/gpu.txt"
    assert given["requirements_files"] == {"envs/gpu.txt": "-r ../base.txt\ntorch\n", "base.txt": "numpy\n"}


def test_a_file_of_the_code_is_not_read_but_must_be_in_an_uploaded_folder(tmp_path: Path) -> None:
    item = read_options({"requirements": "r.txt", "uri": "https://x/y.git"})
    assert attach(item, folder=str(tmp_path)).given == {"requirements": "r.txt", "uri": "https://x/y.git"}
    with pytest.raises(InputError, match=r"'r.txt' is no file of"):
        attach(read_options({"requirements": "r.txt", "upload": str(tmp_path)}), folder="/")
    (tmp_path / "r.txt").write_text("")
    item = attach(read_options({"requirements": "r.txt", "upload": str(tmp_path)}), folder="/")
    assert "requirements_files" not in item.given


@pytest.mark.parametrize(
    ("content", "said"), [(None, "there is no requirements file"), (b"\xff", "byte 1 is not UTF-8")]
)
def test_a_file_that_cannot_be_read_is_named_with_its_place(tmp_path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / "r.txt").write_bytes(content)
    with pytest.raises(InputError, match=f"^jobs:3: .*{said}"):
        attach(read_options({"requirements": "r.txt"}, where="jobs:3"), folder=str(tmp_path))
