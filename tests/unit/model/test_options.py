"""The table of options agrees with what is written by hand: `RunSpec`, `api.submit`, and the docs."""

from __future__ import annotations

from dataclasses import fields

from launch_worker.cli.submit import submit_command
from launch_worker.model.container_options import PULLS
from launch_worker.model.options import CHECKS, COMMAND_LINE, CONTAINER, ITEM, LINE, OPTIONS, PYTHON, SPEC
from launch_worker.model.schedule import MISSED, OVERLAPS
from launch_worker.model.spec import RunSpec
from launch_worker.submission.options import Item
from tools.reference import submit_options

#: Fields of a run that no option says: who submitted it, its places among others, and what the system makes of it.
OF_THE_SYSTEM = {
    "author",
    "upload",
    "array",
    "array_index",
    "array_limit",
    "sweep",
    "sweep_index",
    "scheduler",
    "secrets",
}
#: Fields that are checked together with others.
CHECKED_TOGETHER = {
    *("command", "env", "env_from", "cwd", "cwd_required", "uri", "upload", "image", "container", "memory", "cpus"),
    *("requirements_files", "not_on_same_worker", "secrets"),
}


def test_every_argument_of_submit_is_an_option_that_python_has() -> None:
    in_table = {submit_options.python_name(option) for option in OPTIONS if PYTHON in option.places}
    assert in_table == submit_options.python_names()


def test_every_field_of_a_run_is_an_option_or_the_systems_own() -> None:
    assert {option.field for option in OPTIONS if option.owner == SPEC} | OF_THE_SYSTEM == {
        field.name for field in fields(RunSpec)
    }


def test_every_field_of_a_run_is_checked() -> None:
    assert set(CHECKS) | CHECKED_TOGETHER == {field.name for field in fields(RunSpec)}


def test_an_option_of_a_submission_is_a_field_of_an_item() -> None:
    assert {option.field for option in OPTIONS if option.owner == ITEM} <= {field.name for field in fields(Item)}


def test_names_and_other_names_of_options_are_unique() -> None:
    names = [name for option in OPTIONS for name in (option.name, *option.aliases)]
    assert len(names) == len(set(names))


def test_every_option_of_the_command_line_is_one_of_launch_submit() -> None:
    typed = {parameter.name for parameter in submit_command.params}
    assert {option.name for option in OPTIONS if COMMAND_LINE in option.places} <= typed


def test_every_option_of_launch_submit_that_names_a_run_is_a_key_of_a_line_too() -> None:
    assert all(LINE in option.places for option in OPTIONS if COMMAND_LINE in option.places)


def test_the_choices_of_a_pull_are_those_of_containers() -> None:
    (pull,) = (option for option in OPTIONS if option.owner == CONTAINER and option.name == "pull")
    assert pull.choices == PULLS


def test_the_choices_of_a_recurrence_are_those_of_schedules() -> None:
    choices = {str(option.name): getattr(option.type, "choices", ()) for option in submit_command.params}
    assert (tuple(choices["missed"]), tuple(choices["overlap"])) == (MISSED, OVERLAPS)


def test_the_usual_values_that_help_shows_are_those_of_a_run() -> None:
    # No new attempts come of a number that is not said, either.
    plain = RunSpec(command=("true",), retries=0)
    for option in OPTIONS:
        if not option.usual:
            continue
        text = option.usual.split(",") if option.name == "retry_on" else option.usual
        shown = int(option.usual) if option.usual.isdecimal() and not option.field.endswith("_s") else text
        assert option.reader(option.name, shown) == getattr(plain, option.field), option.name
