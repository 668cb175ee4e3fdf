"""The files that requirements are: their kinds, what they include, and what no run may bring."""

from __future__ import annotations

import pytest

from launch_worker.errors import InputError
from launch_worker.model.requirements import MAX_BYTES, check_path, gather
from launch_worker.model.spec import RunSpec
from launch_worker.queues.queue import QueueConfig

LOCK = """version = 1
[[package]]
name = "project"
source = {{ {source} }}
"""


def test_included_files_and_what_uv_heeds_beside_are_gathered() -> None:
    files = {
        "envs/gpu.txt": (
            "-r ../base.txt  # for all\n-c\\\n more/pins.txt\n--requirement=https://x/y.txt\ntorch\n-f ./wheels\n"
        ),
        "base.txt": "--constraint envs/more/pins.txt\nnumpy @ https://x/numpy.whl\n",
        "envs/more/pins.txt": "numpy<3\n",
        "envs/uv.toml": "[pip]\n",
        "other.txt": "",
    }
    assert gather("envs/gpu.txt", files.get) == {name: text for name, text in files.items() if name != "other.txt"}
    locked = {"uv.lock": LOCK.format(source='virtual = "."'), "pyproject.toml": "[project]", ".python-version": "3.12"}
    assert gather("uv.lock", locked.get) == locked
    assert list(gather("pyproject.toml", locked.get)) == ["pyproject.toml", ".python-version"]


@pytest.mark.parametrize(
    ("main", "files", "said"),
    [
        ("r.txt", {}, "there is no requirements file 'r.txt'"),
        ("r.txt", {"r.txt": "-r base.txt"}, "r.txt needs 'base.txt', which is not there"),
        ("r.txt", {"r.txt": "-r /etc/base.txt"}, "name it relative to r.txt"),
        ("r.txt", {"r.txt": "-i https://x/${UV_INDEX_CORP_PASSWORD}/\ntorch"}, "names the variable"),
        ("r.txt", {"r.txt": "-r b.txt", "b.txt": "a @ https://${X}@y/a.whl"}, "b.txt names the variable"),
        ("r.txt", {"r.txt": "-e ."}, "r.txt names the local package '-e .'"),
        ("r.txt", {"r.txt": "./lib"}, "local package './lib'"),
        ("r.txt", {"r.txt": "lib @ file:///lib"}, "local package"),
        ("uv.lock", {"uv.lock": LOCK.format(source='editable = "lib"'), "pyproject.toml": ""}, "local package 'lib'"),
        ("uv.lock", {"uv.lock": ""}, "uv.lock needs 'pyproject.toml'"),
        ("setup.py", {"setup.py": ""}, "are none that uv reads"),
        ("r.txt", {"r.txt": "x" * (MAX_BYTES + 1)}, "send the folder with --upload"),
    ],
)
def test_what_cannot_be_an_environment_is_said(main: str, files: dict[str, str], said: str) -> None:
    with pytest.raises(InputError) as error:
        gather(main, files.get)
    assert said in str(error.value)


@pytest.mark.parametrize("path", ["/etc/r.txt", "../r.txt", "a/../r.txt", "./r.txt", "environment.yml"])
def test_a_file_of_the_code_is_inside_it(path: str) -> None:
    with pytest.raises(InputError):
        check_path(path)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"requirements": "r.txt"}, "must come along"),
        ({"requirements": "auto"}, "name a file, or send the code"),
        ({"requirements": "r.txt", "requirements_files": {"s.txt": ""}}, "are not among the files"),
        ({"requirements": "r.txt", "requirements_files": {"r.txt": "", "../s": ""}}, "could lead out"),
        ({"requirements": "r.txt", "requirements_files": {"r.txt": ""}, "upload": "a" * 64}, "leave out"),
        ({"requirements": "auto", "image": "busybox"}, "a container has the packages of its image"),
        ({"python": "3.12", "image": "busybox"}, "leave out --python"),
        ({"python": "/usr/bin/python3"}, "python '/usr/bin/python3' is not allowed"),
        ({"python": "--help"}, "is not allowed"),
    ],
)
def test_a_run_that_cannot_have_its_environment_is_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(InputError) as error:
        RunSpec(command=("true",), **given)  # type: ignore[arg-type]
    assert said in str(error.value)


def test_the_environment_that_a_queue_gives_is_for_processes_with_code() -> None:
    queue = QueueConfig(defaults={"requirements": "auto", "python": "3.12"})
    code = {"command": ("true",), "upload": "a" * 64}
    assert queue.spec_of(code).requirements == "auto"
    assert queue.spec_of(code | {"requirements": "none"}).requirements == "none"
    assert queue.spec_of({"command": ("true",)}).requirements == ""
    container = queue.spec_of(code | {"image": "busybox"})
    assert (container.requirements, container.python) == ("", "")
    in_containers = QueueConfig(resource="container", container={"image": "busybox"})
    with pytest.raises(InputError, match="a container has the packages of its image"):
        in_containers.checked(in_containers.spec_of(code | {"requirements": "auto"}))
