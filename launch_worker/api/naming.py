"""Says what a word of a person may mean: the id of a run or a group, the beginning of one, a name, or `@`."""

from __future__ import annotations

import re
import shlex
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from launch_worker.errors import AmbiguousNameError, UnknownRunError
from launch_worker.humane import ago, count
from launch_worker.ids import GROUP_ID, RUN_ID
from launch_worker.model.group import GroupRecord
from launch_worker.model.label import Label

#: The word for the last run or group that its user submitted.
LAST = "@"
#: A run of an array as lists show it, `part[3]`.
INDEXED = re.compile(r"(.+)\[(\d{1,9})\]", re.DOTALL)
#: Characters of the beginning of an id, at least; and of a word, at most.
LEAST_PREFIX, MOST_WORD = 4, 200
#: The newest runs of Redis of which names are compared. There is no index of names.
MOST_LOOKED = 10_000
#: Runs and groups that a refusal lists, and that a server tells of.
_MOST_LISTED, MOST_TOLD = 10, 100


class Named(NamedTuple):
    """A run or a group, as people tell it from others."""

    id: str
    #: One of run, array, bulk, sweep.
    kind: str
    name: str
    #: State of a run; of a group how many of its runs are in which state.
    state: str
    created_at: int

    @property
    def shown(self) -> str:
        """The thing in a sentence."""
        return f"{'group' if self.kind == 'bulk' else self.kind} {self.id}"

    @classmethod
    def of_run(cls, label: Label) -> Named:
        return cls(label.id, "run", label.name, label.state, label.created_at)

    @classmethod
    def of_group(cls, group: GroupRecord) -> Named:
        counts = ", ".join(f"{number} {kind}" for kind, number in group.counts.items() if number)
        return cls(group.id, group.kind, group.name, counts or "no runs", group.created_at)


class Meant(NamedTuple):
    """All that a word may mean."""

    #: Runs and groups, the newest first, `MOST_TOLD` at most.
    things: tuple[Named, ...]
    #: Number of them all.
    number: int
    #: Whether older runs may have the name too: only the newest `MOST_LOOKED` were looked at.
    is_cut: bool = False

    def as_json(self) -> dict[str, Any]:
        return {"things": [one._asdict() for one in self.things], "number": self.number, "is_cut": self.is_cut}

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Meant:
        things = tuple(Named(**{name: one[name] for name in Named._fields}) for one in said["things"])
        return cls(things, said["number"], said["is_cut"])


class Means(Protocol):
    """A way to ask what a word means; every transport has it."""

    def meant_by(self, word: str) -> Meant: ...


def is_exact(word: str) -> bool:
    """Whether a word can only be an id, or W&B's path that ends with one: nothing is looked up for it."""
    return bool(GROUP_ID.fullmatch(word) or RUN_ID.fullmatch(word.rpartition("/")[2]))


def is_word(word: str) -> bool:
    """Whether a run or a group can be named so."""
    return 0 < len(word) <= MOST_WORD and word.isprintable()


def fits(word: str, run_id: str, name: str) -> bool:
    """Whether a run has this name, or its id or that of a group after it begins so."""
    if name == word:
        return True
    return len(word) >= LEAST_PREFIX and run_id.startswith((word, word[1:] if word[0] in "ab" else word))


def things_of(
    word: str, labels: Iterable[Label], groups: Mapping[str, GroupRecord], sweeps: Iterable[Named]
) -> list[Named]:
    """The runs and groups that a word means, the newest first.

    The runs of a group are one thing where the word means all of them: those of an array have one name.
    """
    of_group: dict[str, list[Label]] = defaultdict(list)
    for label in labels:
        of_group[label.group].append(label)
    things = {sweep.id: sweep for sweep in sweeps}
    for group_id, runs in of_group.items():
        group = groups.get(group_id)
        named = [label for label in runs if label.name == word]
        begun = [label for label in runs if label.id.startswith(word)]
        if group is not None and group.kind != "sweep":
            is_array = group.kind == "array" and bool(named)
            is_whole = len(runs) > 1 and max(len(named), len(begun)) >= group.size - group.gone
            if is_array or is_whole or (len(word) >= LEAST_PREFIX and group_id.startswith(word)):
                things[group_id] = Named.of_group(group)
            if is_array or is_whole:
                continue
        things |= {label.id: Named.of_run(label) for label in (*named, *begun)}
    return sorted(things.values(), key=lambda one: (one.created_at, one.id), reverse=True)


def chosen(way: Means, word: str, *, takes_newest: bool = False, kind: str = "", all_by: str = "") -> tuple[Named, str]:
    """The one run or group (of this kind, if one is given) that a word means; and a sentence if of several, else ''.

    With `takes_newest` the newest of several is chosen, else they raise AmbiguousNameError, which names `all_by`, a
    command with NAME for all that have the word as their name. None raise UnknownRunError.
    """
    if not is_word(word):
        raise _unknown(word)
    meant = way.meant_by(word)
    if kind:
        of_kind = tuple(one for one in meant.things if one.kind == kind)
        meant = Meant(of_kind, len(of_kind), meant.is_cut)
    if not meant.things:
        raise _unknown(word, is_cut=meant.is_cut)
    first = meant.things[0]
    if meant.number == 1:
        return first, ""
    how = _how(meant, word)
    if takes_newest:
        return first, f"{count(meant.number)} {how}; this is the newest, {first.shown}"
    by_name = all_by.replace("NAME", shlex.quote(word)) if any(one.name == word for one in meant.things) else ""
    more = f", or all with: {by_name}" if by_name else ""
    raise AmbiguousNameError(f"{count(meant.number)} {how}; name one of them by its id{more}", tuple(_lines(meant)))


def _how(meant: Meant, word: str) -> str:
    what = "runs" if all(one.kind == "run" for one in meant.things) else "runs and groups"
    if all(one.name == word for one in meant.things):
        return f"{what} have the name {word!r}"
    if all(one.name != word for one in meant.things):
        return f"{what} have ids that begin with {word!r}"
    return f"{what} have the name {word!r}, or ids that begin so"


def _lines(meant: Meant) -> list[str]:
    now = time.time()
    shown = meant.things[:_MOST_LISTED]
    lines = [f"{one.id:<16}  {one.state}, {ago(now - one.created_at / 1e6)}" for one in shown]
    more = meant.number - len(shown)
    return [*lines, f"and {count(more)} more"] if more else lines


def _unknown(word: str, *, is_cut: bool = False) -> UnknownRunError:
    if word == LAST:
        where = f" among the newest {count(MOST_LOOKED)} runs" if is_cut else ""
        return UnknownRunError(f"you have submitted no run{where}; list all with: launch-worker runs")
    where = f" among the newest {count(MOST_LOOKED)}" if is_cut else ""
    shown = repr(word if len(word) <= 60 else f"{word[:60]}…")
    return UnknownRunError(
        f"there is no run {shown}{where}: it is neither a name, nor an id or its beginning; "
        "list them with: launch-worker runs"
    )
