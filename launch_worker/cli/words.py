"""Finds the runs and groups that a person names on the command line: by an id, its beginning, a name, or `@`."""

from __future__ import annotations

from collections.abc import Sequence

from launch_worker.api.client import Api
from launch_worker.api.naming import Named, chosen, is_exact
from launch_worker.cli.errors import say_problem
from launch_worker.errors import InputError, UnknownRunError
from launch_worker.humane import plural
from launch_worker.ids import GROUP_ID
from launch_worker.model.checks import WISHES
from launch_worker.model.inputs import split_input
from launch_worker.model.sweep import unknown_sweep


def id_of(api: Api, word: str, *, takes_newest: bool = False, all_by: str = "") -> str:
    """The id of the run or group that a word means; an id stays as it is, and is not looked up.

    Of several the newest is taken with `takes_newest`, and a line on standard error says so; else AmbiguousNameError is
    raised, which names `all_by`, a command with NAME for all of them.
    """
    return word if is_exact(word) else _found(api, word, takes_newest=takes_newest, all_by=all_by).id


def ids_of(api: Api, words: Sequence[str], *, takes_newest: bool = False, all_by: str = "") -> tuple[str, ...]:
    """The same for several words, before anything is done to one of them; each id once."""
    return tuple(dict.fromkeys(id_of(api, word, takes_newest=takes_newest, all_by=all_by) for word in words))


def run_id_of(api: Api, word: str, *, takes_newest: bool = False) -> str:
    """The same for a command that is about one run. Of a group it is the last run, or, without `takes_newest`, none."""
    if is_exact(word) and not GROUP_ID.fullmatch(word):
        return word
    found = None if GROUP_ID.fullmatch(word) else _found(api, word, takes_newest=takes_newest)
    if found is not None and found.kind == "run":
        return found.id
    group = api.group(word if found is None else found.id)
    what = f"{group.kind_of()} {group.id} has {plural(group.record.size, 'run')}"
    ids = api.transport.group_runs(group.record, skip=max(0, group.record.size - 1), limit=1)
    if not ids or not takes_newest:
        raise InputError(f"{what}; name one of them, as listed by: launch-worker runs --group {group.id}")
    if group.record.size > 1:
        say_problem(f"{what}; this is the last one, {ids[0]}")
    return ids[0]


def sweep_id_of(api: Api, word: str) -> str:
    """The same for a command that is about a sweep."""
    try:
        return word if is_exact(word) else chosen(api.transport, word, kind="sweep")[0].id
    except UnknownRunError:
        raise unknown_sweep(word) from None


def after_of(url: str | None, after: Sequence[str]) -> list[str]:
    """The conditions of `--after` with the ids of what their words mean: `@`, `train:any`."""
    api, found = Api(url), []
    for text in after:
        word, colon, wish = text.rpartition(":")
        if wish.lower() not in WISHES or not colon:
            # A name may have a colon.
            word, colon, wish = text, "", ""
        found.append(f"{id_of(api, word)}{colon}{wish}")
    return found


def inputs_of(url: str | None, inputs: Sequence[str]) -> list[str]:
    """The values of `--input` with the ids of the runs that their words mean: `@:model.pt`, `train:.:data`."""
    api, found = Api(url), []
    for text in inputs:
        word, *more = split_input(text)
        found.append(":".join([run_id_of(api, word), *filter(None, more)]))
    return found


def _found(api: Api, word: str, *, takes_newest: bool, all_by: str = "") -> Named:
    found, note = chosen(api.transport, word, takes_newest=takes_newest, all_by=all_by)
    if note:
        say_problem(note)
    return found
