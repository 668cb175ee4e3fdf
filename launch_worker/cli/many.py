"""Acts on many runs that options choose: says what would happen, asks, and says what became of them."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import click

from launch_worker import terminal
from launch_worker.api.client import Api, Run
from launch_worker.cli.errors import say_problem
from launch_worker.cli.selection import conditions_of
from launch_worker.errors import BrokerUnavailableError, InputError, LaunchError, ServerUnavailableError
from launch_worker.humane import count, plural
from launch_worker.model.many import MEANINGS, MOST, UNTYPED, Done, ManyAct, Refusals
from launch_worker.model.states import RunState
from launch_worker.terminal import Screen

#: Runs that a preview shows, and ids that a refusal names.
_SHOWN, _NAMED = 5, 5
#: Words for what became of runs, after their number.
_BECAME = {
    "killed": "Killed, which had not started",
    "requested": "being stopped",
    "Pending": "Pending again",
    "deleted": "deleted",
}
_AWAY = (BrokerUnavailableError, ServerUnavailableError)

Command = TypeVar("Command", bound=Callable[..., Any])


class Brake(NamedTuple):
    """How a person wants to be asked."""

    yes: bool
    dry_run: bool


def with_brake(command: Command) -> Command:
    """Decorate a command with the options of `Brake`."""
    yes = click.option("--yes", is_flag=True, help="Do it to all that the options choose, without a question.")
    dry_run = click.option("--dry-run", is_flag=True, help="Show what the options choose, and do nothing.")
    return yes(dry_run(command))


def check_ways(words: Sequence[str], selection: Mapping[str, Any], brake: Brake, act: ManyAct) -> bool:
    """Whether options choose the runs, and not words. Raises InputError for both, and for neither."""
    is_chosen = any(selection.values())
    if bool(words) == is_chosen:
        how = f"by --queue, --name, --tag, --filter … (launch-worker {act} --help)"
        raise InputError(
            f"runs are named, or chosen by options, not both; leave out {words[0][:40]!r}, or the options"
            if words
            else f"name the runs to {act}, or choose them {how}"
        )
    if not is_chosen and (brake.yes or brake.dry_run):
        raise InputError("--yes and --dry-run are for runs that are chosen by options; leave them out")
    return is_chosen


def act_on_chosen(
    api: Api, act: ManyAct, selection: Mapping[str, Any], brake: Brake, *, as_json: bool, grace_s: float | None = None
) -> int:
    """Do it to the runs that the options choose, once a person has seen how many they are. Returns the exit code.

    It is done to those that were seen, and to no others that fit by then.
    """
    meaning = MEANINGS[act]
    given = conditions_of(api, selection)
    found = api.runs(filters={"$and": [*given, {"state": {"$in": list(meaning.states)}}]}, per_page=500)
    runs = found[: MOST + 1]
    is_cut, runs = len(runs) > MOST, runs[:MOST]
    for notice in found.notices:
        say_problem(notice)
    if brake.dry_run and as_json:
        for run in runs:
            terminal.echo_json(run.as_json())
        return 0
    if not runs:
        terminal.say(f"no run fits that could be {meaning.becomes}; nothing was changed", err=True)
        return 0
    if brake.dry_run or not brake.yes:
        _say_preview(act, runs, is_cut=is_cut, err=not brake.dry_run)
    if brake.dry_run:
        return 0
    if not brake.yes:
        _ask(act, len(runs))
    return act_on_all(api, act, [run.id for run in runs], as_json=as_json, grace_s=grace_s, what="")


def act_on_all(
    api: Api, act: ManyAct, run_ids: Sequence[str], *, what: str, as_json: bool, grace_s: float | None = None
) -> int:
    """Do it to all of these runs, and say what became of them, after `what` they are; returns the exit code."""
    became: Counter[str] = Counter()
    refusals = Refusals()
    code = 0
    try:
        for done in api.transport.act_on_many(act, run_ids, reason="", grace_s=grace_s):
            if done.refusal is None:
                became[done.word] += 1
            else:
                refusals.add(done.run_id, done.refusal)
            if as_json:
                _say_json(act, done)
    except _AWAY as error:
        say_problem(str(error))
        told = sum(became.values()) + sum(map(len, refusals.by_reason.values()))
        left = f"of {count(len(run_ids))} runs it is not known whether they are {MEANINGS[act].becomes}"
        say_problem(f"{count(len(run_ids) - told)} {left}; the same command again does the rest")
        code = error.exit_code
    if not as_json:
        said = ", ".join(f"{plural(number, 'run is', 'runs are')} {_BECAME[word]}" for word, number in became.items())
        terminal.say(what, said or f"no run is {MEANINGS[act].becomes}")
    for reason, ids in refusals.by_reason.items():
        more = f" and {count(len(ids) - _NAMED)} more" if len(ids) > _NAMED else ""
        how_many = f"{plural(len(ids), 'run')} refused, {', '.join(ids[:_NAMED])}{more}: "
        say_problem(f"{how_many}{reason}")
    return code or refusals.exit_code


def _say_json(act: ManyAct, done: Done) -> None:
    if done.refusal is None:
        terminal.echo_json({"id": done.run_id, act: done.word})
    else:
        terminal.echo_json({"id": done.run_id, act: None, "refused": str(done.refusal)})


def _say_preview(act: ManyAct, runs: Sequence[Run], *, is_cut: bool, err: bool) -> None:
    """Say how many they are, in which states, which the newest are, and what it means for them."""
    # Imported by those who are asked: most name their runs.
    from launch_worker.cli.runs_table import Row, lines, usual_columns

    screen = Screen.of(sys.stderr if err else sys.stdout)
    shown = [Row(run.record, run.as_json()) for run in runs[:_SHOWN]]
    said = [
        terminal.styled(f"{act} {plural(len(runs), 'run')}: {_by_state(run.record.state for run in runs)}", bold=True)
    ]
    said += lines(shown, usual_columns(places=False), screen)
    if len(runs) > _SHOWN:
        said.append(terminal.styled(f"and {count(len(runs) - _SHOWN)} more", dim=True))
    if is_cut:
        said += terminal.wrapped(f"These are the newest {count(MOST)}, and more fit: do it again for the rest.", screen)
    terminal.put([*said, *terminal.wrapped(MEANINGS[act].meaning, screen)], err=err)


def _by_state(states: Iterable[RunState]) -> str:
    counted = Counter(state.value for state in states)
    return ", ".join(f"{count(counted[state.value])} {state.value}" for state in RunState if counted[state.value])


def _ask(act: ManyAct, number: int) -> None:
    """Ask whether it shall be done. Raises click.Abort for no, and InputError where nobody can answer."""
    if not sys.stdin.isatty():
        raise InputError(f"nobody can be asked whether to {act} {plural(number, 'run')}; add --yes to do it")
    if number <= UNTYPED:
        click.confirm(f"{act} {'it' if number == 1 else 'them'}?", abort=True, err=True)
        return
    typed = click.prompt(f"type the number of runs, {count(number)}, to {act} them", err=True)
    if typed.replace(",", "").strip() != str(number):
        raise LaunchError(f"that is not {count(number)}; nothing was changed")
