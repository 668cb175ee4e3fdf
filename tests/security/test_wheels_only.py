"""A run of a queue that confines its jobs asks for a Python environment: uv, the worker's process, acts for nobody."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from launch_worker.code.environments import Environments, Wanted
from launch_worker.code.patience import Patience
from launch_worker.code.uv import Uv
from launch_worker.errors import CodeError
from launch_worker.settings import Settings
from tests.support.wheels import UV, SlowSource, add_wheel, uv_settings


class Worker:
    """What a worker makes of the files of a run whose job is confined."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.wheels = folder / "wheels"
        #: A file that is there once something of the run's was executed.
        self.trace = folder / "executed"
        self.env = {"PATH": os.environ["PATH"], "HOME": str(folder), **uv_settings(self.wheels)}
        self.env |= {"UV_NO_BUILD": "1", "UV_COMPILE_BYTECODE": "1"}
        program = folder / "python"
        program.write_text(f'#!/bin/sh\ntouch {self.trace}\nexec python3 "$@"\n')
        program.chmod(0o755)
        add_wheel(self.wheels, "tiny", "1.0")

    def make(self, **files: str) -> Path:
        """Make the environment of these files, whose names have _ for their dots; the first is the main one."""
        named = {name.replace("__", "-").replace("_", "."): text for name, text in files.items()}
        made = Environments(Settings(work_dir=self.folder / "work"), self.env)
        marks = {"LAUNCH_RUN_ID": "1m83cyvtfq1tc69", "LAUNCH_TOKEN": "7"}
        uv = Uv(UV, made.cache, Patience.of(60), self.env, marks, lambda _: None)
        return Path(made.make(Wanted(next(iter(named)), named, ""), uv, hold=lambda _: None))


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return Worker(tmp_path)


PROJECT = '[project]\nname = "job"\nversion = "1"\ndependencies = ["tiny"]\n'


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"pyproject_toml": PROJECT + '[tool.uv.pip]\npython = "FOLDER/python"\n'}, "the setting 'pip.python'"),
        ({"pyproject_toml": PROJECT + '[tool.uv.pip]\ntarget = "FOLDER/target"\n'}, "the setting 'pip.target'"),
        ({"pyproject_toml": PROJECT, "_python__version": "FOLDER/python\n"}, "names the program"),
        ({"r_txt": "tiny\n", "uv_toml": 'cache-dir = "FOLDER/cache"\n'}, "the setting 'cache-dir'"),
        ({"r_txt": "tiny\n", "uv_toml": '[pip]\nprefix = "FOLDER/prefix"\n'}, "the setting 'pip.prefix'"),
        ({"r_txt": "tiny\n", "uv_toml": "what = is this"}, "cannot be read"),
        ({"r_txt": "-r https://evil.example/list.txt\n"}, "includes https://evil.example/list.txt"),
        (
            {"pyproject_toml": PROJECT + '[tool.uv.sources]\ntiny = {path = "FOLDER/evil", editable = true}\n'},
            "takes 'tiny' from a folder",
        ),
        (
            {"pylock_toml": '[[packages]]\nname = "tiny"\ndirectory = {path = "FOLDER/evil"}\n'},
            "takes 'tiny' from a folder",
        ),
        (
            {"uv_lock": '[[package]]\nname = "tiny"\nsource = {editable="FOLDER/evil"}\n', "pyproject_toml": PROJECT},
            "takes 'tiny' from a folder",
        ),
    ],
)
def test_a_file_by_which_uv_would_execute_or_write_something_is_refused(
    worker: Worker, files: dict[str, str], said: str
) -> None:
    before = set(worker.folder.iterdir())
    with pytest.raises(CodeError, match=said):
        worker.make(**{name: text.replace("FOLDER", str(worker.folder)) for name, text in files.items()})
    assert {path.name for path in set(worker.folder.iterdir()) - before} <= {"work"}


def test_no_source_is_built(worker: Worker) -> None:
    source = SlowSource(worker.wheels)
    source.go_on()
    with pytest.raises(CodeError, match="slow"):
        worker.make(r_txt="slow\n")
    dynamic = '[project]\nname = "job"\nversion = "1"\ndynamic = ["dependencies"]\n'
    with pytest.raises(CodeError, match=r"[Bb]uild"):
        worker.make(pyproject_toml=f'{dynamic}[build-system]\nrequires = []\nbuild-backend = "none"\n')
    assert source.builds == 0


def test_what_a_wheel_has_python_execute_at_its_start_is_not_executed_and_its_modules_are_compiled(
    worker: Worker,
) -> None:
    spying = f"import pathlib; pathlib.Path({str(worker.trace)!r}).touch()\n"
    add_wheel(worker.wheels, "spy", "1.0", more={"spy.pth": spying})
    made = worker.make(r_txt="spy\n")
    assert list(made.glob("lib/*/site-packages/__pycache__/spy.*.pyc"))
    assert not worker.trace.exists()


def test_a_project_that_only_chooses_packages_is_taken(worker: Worker) -> None:
    (worker.folder / "code").mkdir()
    project = f'{PROJECT}[tool.uv]\nresolution = "lowest"\n[tool.uv.sources]\nother = {{git = "https://x.example/y"}}\n'
    (worker.folder / "code" / "pyproject.toml").write_text(project)
    env = {**worker.env, "UV_NO_BUILD": "0"}
    subprocess.run([UV, "lock"], cwd=worker.folder / "code", env=env, check=True, capture_output=True)
    lock = (worker.folder / "code" / "uv.lock").read_text()
    for files in ({"uv_lock": lock, "pyproject_toml": project}, {"pyproject_toml": project, "_python__version": "3\n"}):
        assert list(worker.make(**files).glob("lib/*/site-packages/__pycache__/tiny.*.pyc"))
