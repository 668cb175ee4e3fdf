"""A job's own side: what it writes for its worker, and that it costs and breaks nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from launch_worker import current_run
from launch_worker.current import CurrentRun

#: More than the module takes on a loaded machine, and less than `json`, `re` or `typing` would add.
MAX_IMPORT_S = 0.005


class Folder:
    """A run's folder, and what was told in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        config = path / "config.json"
        config.write_text(json.dumps({"run_id": "r1", "config": {"lr": 0.1, "layers": [1, 2]}}))
        self.run = CurrentRun(
            {
                "LAUNCH_RUN_ID": "r1",
                "LAUNCH_ATTEMPT": "2",
                "LAUNCH_SWEEP_ID": "s1",
                "LAUNCH_NAME": "train.py",
                "LAUNCH_PROJECT": "me/iris",
                "LAUNCH_QUEUE": "gpu",
                "LAUNCH_RUN_DIR": str(path),
                "LAUNCH_CONFIG": str(config),
            }
        )

    @property
    def told(self) -> list[dict[str, Any]]:
        path = self.path / "to_worker"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_a_run_knows_what_it_is(folder: Folder) -> None:
    run = folder.run
    assert run
    assert (run.id, run.attempt, run.sweep_id) == ("r1", 2, "s1")
    assert (run.name, run.project, run.queue) == ("train.py", "me/iris", "gpu")
    assert run.config == {"lr": 0.1, "layers": [1, 2]}
    assert folder.told == []


def test_all_that_is_told_is_a_line_of_json(folder: Folder) -> None:
    run = folder.run
    run.heartbeat()
    run.log({"loss": 0.5})
    run.log({"loss": 0.25}, step=7)
    run.log({"loss": 0.125})
    run.log("half of it is done")
    run.summary["best"] = 0.125
    run.summary.update(a=1, b="two")
    run.mark_preempting()
    run.checkpoint(wait=True)
    run.finish(3)
    assert folder.told == [
        {"heartbeat": True},
        {"log": {"loss": 0.5}, "step": 0},
        {"log": {"loss": 0.25}, "step": 7},
        {"log": {"loss": 0.125}, "step": 8},
        {"message": "half of it is done"},
        {"summary": {"best": 0.125}},
        {"summary": {"a": 1, "b": "two"}},
        {"preempting": True},
        {"finish": 3},
    ]
    assert run.summary == {"loss": 0.125, "best": 0.125, "a": 1, "b": "two"}


def test_heartbeats_in_an_inner_loop_are_few_lines(folder: Folder) -> None:
    for _ in range(10_000):
        folder.run.heartbeat()
    assert 1 <= len(folder.told) < 100


@pytest.mark.parametrize(("given", "told"), [(0, 0), (None, 0), (3, 3), (True, 1), (-1, 1), (256, 1)])
def test_finish_takes_what_exit_codes_there_are(folder: Folder, given: int | None, told: int) -> None:
    folder.run.finish(given)
    assert folder.told == [{"finish": told}]


def test_whether_it_shall_stop_is_a_file_and_the_first_look_is_told(folder: Folder) -> None:
    assert not folder.run.should_stop()
    assert folder.run.stop_reason == ""
    assert not folder.run.should_stop()
    assert folder.told == [{"heeds_stop": True}]
    (folder.path / "stop").write_text("cancelled by ada\n")
    assert folder.run.should_stop()
    assert folder.run.stop_reason == "cancelled by ada"


def test_values_that_are_no_json_are_told_as_their_item_or_as_text(folder: Folder) -> None:
    folder.run.summary["numpy"] = Item(0.5)
    folder.run.summary["path"] = Path("/x")
    folder.run.log({"both": [Item(1), object]})
    assert folder.told[:2] == [{"summary": {"numpy": 0.5}}, {"summary": {"path": "/x"}}]
    assert folder.told[2]["log"]["both"][0] == 1


class Item:
    """As a scalar of numpy or torch."""

    def __init__(self, value: float) -> None:
        self.value = value

    def item(self) -> float:
        return self.value


def test_lines_of_many_threads_and_processes_do_not_mix(folder: Folder) -> None:
    def tell(number: int) -> None:
        for _ in range(200):
            folder.run.summary["x" * 500] = number

    threads = [threading.Thread(target=tell, args=(number,)) for number in range(4)]
    child = os.fork()
    if child == 0:
        tell(9)
        os._exit(0)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.waitpid(child, 0)
    assert len(folder.told) == 1000


@pytest.fixture
def training(folder: Folder) -> CurrentRun:
    """A job whose checkpoints are kept."""
    return CurrentRun(
        {
            "LAUNCH_RUN_ID": "r1",
            "LAUNCH_RUN_DIR": str(folder.path),
            "LAUNCH_CHECKPOINT_DIR": str(folder.path / "checkpoint"),
            "LAUNCH_RESUMED": "1",
        }
    )


@pytest.mark.parametrize(
    ("wait", "name", "answer", "done"),
    [
        (False, "checkpoint_taken", "{}", True),
        (True, "checkpointed", "{}", True),
        (False, "checkpoint_taken", "{} the disk is full", False),
        (True, "checkpoint_taken", "{} the disk is full", False),
    ],
)
def test_a_checkpoint_waits_for_its_workers_answer(
    training: CurrentRun, folder: Folder, *, wait: bool, name: str, answer: str, done: bool
) -> None:
    def worker() -> None:
        while not (told := folder.told):
            time.sleep(0.001)
        (folder.path / f"{name}.partial").write_text(answer.format(told[0]["checkpoint"]) + "\n")
        (folder.path / f"{name}.partial").rename(folder.path / name)

    (folder.path / "checkpoint_taken").write_text("7 that was another one\n")
    thread = threading.Thread(target=worker)
    thread.start()
    assert training.checkpoint(wait=wait, timeout_s=60) is done
    thread.join()
    assert training.is_resumed
    assert training.checkpoint(timeout_s=0) is False, "a later one has no answer yet"


def test_where_no_checkpoints_are_kept_the_job_goes_on(folder: Folder) -> None:
    assert folder.run.checkpoint(wait=True) is False
    assert (folder.run.checkpoint_dir, folder.run.is_resumed, folder.told) == ("", False, [])


def use_all_of(run: CurrentRun) -> None:
    run.heartbeat()
    run.log({"loss": 1.0}, step=3)
    run.log("words")
    run.summary["x"] = 1
    run.summary |= {"y": 2}
    assert run.summary.setdefault("z", 3) == 3
    run.mark_preempting()
    run.finish()
    assert not run.should_stop()
    assert run.stop_reason == ""


def test_outside_a_run_it_is_false_and_every_call_is_harmless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = CurrentRun({})
    assert not run
    assert (run.id, run.attempt, run.sweep_id, run.config) == ("", 0, "", {})
    use_all_of(run)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder_env", ["/nowhere/at/all", "/proc", ""])
def test_a_folder_that_cannot_be_written_is_no_reason_to_fail(folder_env: str) -> None:
    use_all_of(CurrentRun({"LAUNCH_RUN_ID": "r1", "LAUNCH_RUN_DIR": folder_env, "LAUNCH_CONFIG": "/nowhere"}))


def test_closed_standard_output_is_no_reason_to_fail() -> None:
    program = "import sys; from launch_worker import current_run; sys.stdout.close(); current_run().finish()"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=30).returncode == 0


def test_it_is_always_the_same_run() -> None:
    assert current_run() is current_run()


def test_importing_it_is_quick_and_loads_no_other_library() -> None:
    """Issue 6: under 5 ms; as the interpreter itself counts it, on a machine that may be loaded."""
    program = "import sys; from launch_worker import current_run; current_run(); print(*sys.modules)"
    took: list[float] = []
    for _ in range(15):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-c", program], capture_output=True, text=True, check=True, timeout=30
        )
        # Lines read: self [us] | cumulative | imported package. Of the outermost ones after the interpreter's own.
        lines = [line.removeprefix("import time:").split("|") for line in done.stderr.splitlines() if "|" in line]
        own = next(at for at, line in enumerate(lines) if line[2].strip() == "site") + 1
        took.append(sum(int(line[0]) for line in lines[own:]) / 1e6)
        loaded = {name.partition(".")[0] for name in done.stdout.split()}
        strays = loaded - set(sys.stdlib_module_names) - {"launch_worker"}
        assert not {name for name in strays if not name.startswith("_")} - {"sitecustomize", "usercustomize"}, strays
        assert not {"json", "re", "typing", "asyncio"} & loaded
        if min(took) < MAX_IMPORT_S:
            break
    assert min(took) < MAX_IMPORT_S, took


def test_a_job_knows_when_it_is_killed(folder: Folder) -> None:
    run = folder.run
    assert (run.stop_deadline, run.time_left) == (None, None)
    (folder.path / "stop").write_text("by ada\n")
    assert (run.stop_reason, run.stop_deadline) == ("by ada", None), "a worker of an older release"
    (folder.path / "stop").write_text(f"by ada\ndeadline={int(time.time()) + 100}\n")
    assert run.stop_reason == "by ada"
    assert run.stop_deadline is not None
    assert run.time_left is not None
    assert 0 < run.time_left <= 100
    (folder.path / "stop").write_text("by ada\ndeadline=soon\nmore\n")
    assert run.stop_deadline is None


def test_a_job_knows_the_time_until_its_limit(tmp_path: Path) -> None:
    run = CurrentRun(
        {"LAUNCH_RUN_ID": "r1", "LAUNCH_RUN_DIR": str(tmp_path), "LAUNCH_DEADLINE": str(int(time.time()) + 60)}
    )
    assert run.time_left is not None
    assert 0 < run.time_left <= 60
    assert CurrentRun({}).time_left is None


# -- save --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CurrentRun:
    """A run with a folder of outputs, in another current folder."""
    (tmp_path / "outputs").mkdir()
    (tmp_path / "cwd/best").mkdir(parents=True)
    (tmp_path / "cwd/best/model.pt").write_text("weights")
    (tmp_path / "cwd/a.txt").write_text("a")
    monkeypatch.chdir(tmp_path / "cwd")
    return CurrentRun({"LAUNCH_RUN_ID": "r1", "LAUNCH_OUTPUT_DIR": str(tmp_path / "outputs")})


def outputs(run: CurrentRun) -> dict[str, str]:
    top = Path(run.output_dir)
    return {str(path.relative_to(top)): path.read_text() for path in top.rglob("*") if path.is_file()}


def test_a_file_or_folder_or_pattern_is_copied_with_its_folders(saving: CurrentRun, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/b.txt").write_text("b")
    assert saving.save("best/model.pt") == [f"{saving.output_dir}/best/model.pt"]
    assert saving.save(tmp_path / "other/b.txt") == [f"{saving.output_dir}/b.txt"]
    assert saving.save("../other/b.txt", base_path="..") == [f"{saving.output_dir}/other/b.txt"]
    assert outputs(saving) == {"best/model.pt": "weights", "b.txt": "b", "other/b.txt": "b"}
    assert len(saving.save("*")) == 2
    assert outputs(saving)["a.txt"] == "a"
    saving.save(tmp_path / "other")
    assert outputs(saving)["other/b.txt"] == "b"


def test_a_file_that_is_saved_again_is_replaced_and_one_that_is_there_stays(saving: CurrentRun) -> None:
    saving.save("a.txt")
    Path("a.txt").write_text("again")
    saving.save("a.txt")
    assert outputs(saving) == {"a.txt": "again"}
    there = Path(saving.output_dir, "deep", "c")
    there.parent.mkdir()
    there.write_text("c")
    assert saving.save(there) == [str(there)]
    assert outputs(saving) == {"a.txt": "again", "deep/c": "c"}


def test_what_is_not_there_is_an_error_and_what_cannot_be_copied_is_said(
    saving: CurrentRun, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no 'none\.\*' to save"):
        saving.save("none.*")
    Path(saving.output_dir, "a.txt").mkdir()
    assert saving.save("a.txt") == []
    assert "launch_worker: 'a.txt' was not saved: " in capsys.readouterr().err
    assert outputs(saving) == {}


def test_where_no_outputs_are_kept_nothing_is_copied(tmp_path: Path) -> None:
    assert CurrentRun({"LAUNCH_RUN_ID": "r1"}).save("none") == []
    assert CurrentRun({}).save(tmp_path) == []
