"""Python environments of a machine: made once by a real uv, from a folder of wheels, and never used half made."""

from __future__ import annotations

import json
import os
import secrets
import stat
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from launch_worker.code.environments import Environments, Wanted, disk_bytes, folder_of, kept, wanted_by
from launch_worker.code.patience import Patience
from launch_worker.code.uv import Uv, check_logins, find_uv
from launch_worker.errors import CodeError, InputError, StartGivenUpError
from launch_worker.model.spec import RunSpec
from launch_worker.runners.process import tree
from launch_worker.settings import Settings
from tests.conftest import wait_until
from tests.support.wheels import UV, SlowSource, add_wheel, uv_settings


class Machine:
    """The environments of one machine, as a worker of it has them."""

    def __init__(self, folder: Path) -> None:
        self.wheels = folder / "wheels"
        for version in ("1.0", "2.0"):
            add_wheel(self.wheels, "tiny", version)
        self.env = {"PATH": os.environ["PATH"], "HOME": str(folder), **uv_settings(self.wheels)}
        self.settings = Settings(work_dir=folder / "work")
        #: Marks of an attempt that no other test has: what carries them is ended after each build.
        self.marks = {"LAUNCH_RUN_ID": "1m83cyvtfq1tc69", "LAUNCH_TOKEN": str(secrets.randbits(60))}
        self.said: list[str] = []
        self.held: list[str] = []

    def environments(self) -> Environments:
        return Environments(self.settings, self.env)

    def make(self, wanted: Wanted, *, unwanted: Callable[[], bool] = lambda: False, limit_s: float = 60.0) -> str:
        made = self.environments()
        patience = Patience.of(limit_s, unwanted=unwanted)
        uv = Uv(UV, made.cache, patience, self.env, self.marks, self.said.append)
        return made.make(wanted, uv, hold=self.held.append)

    def find(self, wanted: Wanted) -> str:
        return self.environments().find(wanted, hold=self.held.append, patience=Patience.of(60))

    def builders(self) -> list[object]:
        """The living processes of its builds."""
        return list(tree.members(None, marked=tree.marks(self.marks)))

    def fails(self, wanted: Wanted) -> CodeError:
        with pytest.raises(CodeError) as error:
            self.make(wanted)
        return error.value


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def listed(text: str, *, python: str = "") -> Wanted:
    """The environment of a list of requirements."""
    return Wanted("requirements.txt", {"requirements.txt": text}, python)


def version_in(environment: str, package: str = "tiny") -> str:
    command = [f"{environment}/bin/python", "-c", f"import {package}; print({package}.VERSION)"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


class Until(Patience):
    """A start timeout of a second that is over when a condition is true, however slow the machine is."""

    def __init__(self, is_over: Callable[[], bool]) -> None:
        super().__init__(time.monotonic() + 60.0, 1.0, what="the environment")
        object.__setattr__(self, "is_over", is_over)

    def check(self) -> None:
        if self.is_over():  # type: ignore[attr-defined]
            object.__setattr__(self, "deadline", 0.0)
        super().check()


def test_it_is_made_once_and_found_by_all_that_ask_for_the_same(machine: Machine) -> None:
    wanted = listed("tiny==1.0\n")
    assert machine.find(wanted) == ""
    made = machine.make(wanted)
    assert version_in(made) == "1.0"
    assert any("tiny==1.0" in line for line in machine.said), machine.said
    assert machine.find(wanted) == machine.make(wanted) == made
    key = Path(made).parents[1].name
    assert machine.held == [key] * 3
    changed = machine.make(listed("tiny==2.0\n"))
    assert (version_in(changed), version_in(made)) == ("2.0", "1.0")
    machine.env["UV_INDEX_CORP_PASSWORD"] = "another"
    assert machine.find(wanted) == made, "a new password changes nothing"
    machine.env["UV_RESOLUTION"] = "lowest"
    assert machine.find(wanted) == "", "a setting that decides what is installed makes another one"


def test_no_job_can_write_to_it(machine: Machine) -> None:
    made = machine.make(listed("tiny"))
    for folder, _, names in os.walk(made):
        for path in (folder, *(os.path.join(folder, name) for name in names)):
            assert os.path.islink(path) or not stat.S_IMODE(os.stat(path).st_mode) & 0o222, path


def test_one_whose_python_has_gone_is_made_anew(machine: Machine) -> None:
    made = machine.make(listed("tiny"))
    os.chmod(f"{made}/bin", 0o700)
    os.unlink(f"{made}/bin/python")
    assert machine.find(listed("tiny")) == ""
    again = machine.make(listed("tiny"))
    assert (again != made, version_in(again), os.path.exists(made)) == (True, "2.0", False)


@pytest.mark.parametrize("kind", ["include", "project", "lock", "pylock"])
def test_each_kind_of_requirements_is_installed(machine: Machine, tmp_path: Path, kind: str) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "envs").mkdir()
    (code / "envs" / "all.txt").write_text("-r ../base.txt\n")
    (code / "base.txt").write_text("tiny<2\n")
    dependent = '[project]\nname = "job"\nversion = "1"\nrequires-python = ">=3.9"\ndependencies = ["tiny<2"]\n'
    (code / "pyproject.toml").write_text(dependent)
    named = {"include": "envs/all.txt", "project": "pyproject.toml", "lock": "uv.lock", "pylock": "pylock.toml"}[kind]
    export = ["export", "--quiet", "--no-emit-project", "--format", "pylock.toml", "-o", "pylock.toml"]
    for command in {"lock": [["lock"]], "pylock": [["lock"], export]}.get(kind, []):
        subprocess.run([UV, *command], cwd=code, env=machine.env, check=True, capture_output=True)
    spec = RunSpec(command=("true",), upload="a" * 64, requirements=named)
    wanted = wanted_by(spec, code)
    assert wanted is not None
    assert version_in(machine.make(wanted)) == "1.0"


def test_what_is_found_by_itself_in_the_root_of_the_code(tmp_path: Path) -> None:
    spec = RunSpec(command=("true",), upload="a" * 64, requirements="auto")
    assert wanted_by(spec, tmp_path) is None
    (tmp_path / "requirements.txt").write_text("tiny")
    (tmp_path / "pyproject.toml").write_text("[tool.ruff]\n")
    found = wanted_by(spec, tmp_path)
    assert found == Wanted("requirements.txt", {"requirements.txt": "tiny"}, ""), "a file for tools only is none"
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    assert (found := wanted_by(spec, tmp_path)) is not None
    assert found.main == "pyproject.toml"
    assert wanted_by(RunSpec(command=("true",), upload="a" * 64, requirements="none", python="3.12"), tmp_path) is None
    (tmp_path / "out.txt").symlink_to("/etc/hostname")
    with pytest.raises(InputError, match="lead out of the code"):
        wanted_by(RunSpec(command=("true",), upload="a" * 64, requirements="out.txt"), tmp_path)


def test_of_two_workers_that_race_one_makes_it(machine: Machine) -> None:
    slow = SlowSource(machine.wheels)
    with ThreadPoolExecutor(2) as pool:
        racers = [pool.submit(machine.make, listed("slow")) for _ in range(2)]
        wait_until(lambda: slow.builds or racers[0].done(), timeout_s=60, what="a build has begun")
        slow.go_on()
        assert racers[0].result() == racers[1].result()
    assert slow.builds == 1
    assert not machine.builders(), "a process that a build has left behind is ended"


@pytest.mark.parametrize("how", ["cancel", "timeout"])
def test_a_build_that_nobody_wants_is_ended_with_all_that_it_started(machine: Machine, how: str) -> None:
    slow = SlowSource(machine.wheels)
    if how == "cancel":
        with pytest.raises(StartGivenUpError):
            machine.make(listed("slow"), unwanted=lambda: slow.builds > 0)
    else:
        # Its time is over once the build has begun, however slow the machine is.
        made, patience = machine.environments(), Until(lambda: slow.builds > 0)
        uv = Uv(UV, made.cache, patience, machine.env, machine.marks, machine.said.append)
        with pytest.raises(CodeError, match="the environment was not there within the start timeout of 1 s"):
            made.make(listed("slow"), uv, hold=machine.held.append)
    assert not machine.builders()
    assert machine.held == []
    assert kept(folder_of(machine.settings))[0] == 0
    slow.go_on()
    assert version_in(machine.make(listed("slow")), "slow") == "1.0"


def test_what_goes_wrong_is_one_sentence_and_uvs_last_lines(machine: Machine) -> None:
    error = machine.fails(listed("tiny==3.0\n"))
    assert str(error).startswith("the environment of requirements.txt could not be made: "), error
    assert "tiny==3.0" in str(error)
    assert (error.worker_fault, "tiny==3.0" in error.detail) == (False, True)
    assert not list(machine.environments().folder.glob("*/*/venv")), "nothing half is left"
    error = machine.fails(listed("tiny", python="3.99"))
    assert "this worker has no such Python" in str(error)
    assert "UV_PYTHON_DOWNLOADS=automatic" in str(error)
    assert error.worker_fault, "another worker may have it"
    error = machine.fails(listed("tiny is what I want\n"))
    assert "requirements.txt" in str(error)
    assert not error.worker_fault
    # An index that does not answer, with a login that nobody may see.
    for name in ("UV_NO_INDEX", "UV_OFFLINE"):
        del machine.env[name]
    machine.env |= {
        "UV_DEFAULT_INDEX": "http://me:hidden-word@127.0.0.1:1/simple",
        "UV_HTTP_RETRIES": "0",
        "UV_INDEX_CORP_PASSWORD": "other-secret",
    }
    machine.said.clear()
    error = machine.fails(listed("unheard-of\n# other-secret\n"))
    assert "could not be fetched by this worker" in str(error), error
    assert error.worker_fault
    told = "\n".join((str(error), error.detail, *machine.said))
    assert "hidden-word" not in told
    assert "other-secret" not in told


def test_uv_is_the_one_that_is_named_or_beside_python_or_on_path(tmp_path: Path) -> None:
    named = tmp_path / "uv"
    named.write_text("#!/bin/sh\n")
    named.chmod(0o755)
    assert find_uv(Settings(uv=str(named)), {}) == str(named)
    assert find_uv(Settings(uv=str(tmp_path / "none")), {}) == ""
    assert find_uv(Settings(), {"PATH": "/nowhere"}) == UV


def test_unused_ones_are_deleted_by_age_and_size_and_never_one_that_an_attempt_has(machine: Machine) -> None:
    texts = ["tiny==1.0", "tiny==2.0", "tiny"]
    made = [Path(machine.make(listed(text))).parents[1] for text in texts]
    for age, entry in enumerate(made):
        os.utime(f"{entry}.lock", (1000.0 + age,) * 2)
    attempt = machine.settings.work_dir / "workers" / "o" / "runs" / "r.1.1"
    attempt.mkdir(parents=True)
    (attempt / "environment").write_text(made[0].name)
    object.__setattr__(machine.settings, "environment_age_s", 10**10)
    object.__setattr__(machine.settings, "environment_bytes", 10**12)
    newest = Path(machine.make(listed("tiny>0"))).parents[1]
    assert [entry.exists() for entry in (*made, newest)] == [True, True, True, True]
    # Too large by any measure: all go that no attempt has.
    object.__setattr__(machine.settings, "environment_bytes", 1)
    last = Path(machine.make(listed("tiny<9"))).parents[1]
    assert [entry.exists() for entry in (*made, newest)] == [True, False, False, False]
    assert not last.exists(), "of this one the test keeps no note"
    assert kept(folder_of(machine.settings)) == (1, disk_bytes(machine.environments().folder))
    assert version_in(f"{next(made[0].glob('*/venv'))}") == "1.0"
    assert not list(machine.environments().cache.glob("archive*/*")), "what only uv's cache has goes too"


def test_a_setting_that_is_not_uvs_does_not_reach_it(machine: Machine) -> None:
    machine.env |= {"LAUNCH_REDIS_URL": "redis://:hidden@nowhere/0", "UV_PYTHON": "3.99", "PYTHONPATH": "/nowhere"}
    made = machine.make(listed("tiny"))
    assert json.dumps(machine.said).count("hidden") == 0
    assert version_in(made) == "2.0"


INDEX = """[project]
name = "x"
version = "1"
dependencies = ["tiny"]
[[tool.uv.index]]
name = "co-rp"
url = "{url}"
"""


def test_no_file_of_a_run_has_the_workers_login_sent_elsewhere(machine: Machine) -> None:
    machine.env |= {"UV_INDEX_CO_RP_USERNAME": "us", "UV_INDEX_CO_RP_PASSWORD": "hidden"}
    evil, own = ({"pyproject.toml": INDEX.format(url=f"https://{host}/simple")} for host in ("evil:8443", "index.corp"))
    error = machine.fails(Wanted("pyproject.toml", evil, ""))
    assert "has an index 'co-rp' at https://evil:8443/simple, and this worker has a login" in str(error)
    assert not error.worker_fault
    known = {**machine.env, "UV_INDEX": "other=https://x/y co-rp=https://u:p@index.corp/simple/"}
    check_logins(own, known)
    check_logins(evil, {"UV_INDEX_OTHER_PASSWORD": "hidden"})
    for files in (evil, {"uv.toml": '[[index]]\nname = "CO_RP"\nurl = "http://index.corp/"'}):
        with pytest.raises(CodeError, match="does not know it to be there"):
            check_logins(files, known)
    assert "reads no list from elsewhere" in str(machine.fails(listed("-c https://evil/list.txt\ntiny")))
    check_logins(listed("-c https://evil/list.txt\ntiny").files, {"UV_INDEX": "https://index.corp/simple"})
    check_logins({"pyproject.toml": "[", "uv.toml": "index = 7"}, machine.env)


def test_files_that_came_with_a_run_are_looked_at_here_too() -> None:
    for text, said in (
        ("-r /etc/passwd", "includes '/etc/passwd'"),
        ("-r ../../etc/passwd", "which is not there"),
        ("-e .", "local package"),
        ("-i https://x/${UV_INDEX_CORP_PASSWORD}/", "names the variable"),
    ):
        spec = RunSpec(command=("x",), requirements="r.txt", requirements_files={"r.txt": text})
        with pytest.raises(InputError, match=said):
            wanted_by(spec, None)
