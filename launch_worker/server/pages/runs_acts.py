"""Acts on many runs at once: first says what would happen, and for more than a few takes the number, typed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, NamedTuple, cast
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from starlette.responses import Response

from launch_worker.api.filters import NEWEST_FIRST, parse_filter, parse_order
from launch_worker.errors import BrokerUnavailableError, InputError, RefusedError
from launch_worker.humane import count, plural
from launch_worker.model.many import MEANINGS, MOST, UNTYPED, ManyAct, Meaning, Refusals
from launch_worker.model.run import Record
from launch_worker.people.roles import Act, may
from launch_worker.server.asker import Asker, allowed
from launch_worker.server.forms import Form, FormHere
from launch_worker.server.pages.runs_view import View
from launch_worker.server.pages.shown import show
from launch_worker.server.routes.acts import CancellingMany, DeletingMany, RetryingMany
from launch_worker.server.served import Served
from launch_worker.server.shared import SharedHere
from launch_worker.untrusted.text import clean

router = APIRouter(include_in_schema=False)
#: Ids that are named one by one, and runs and groups that an address names.
_MOST_NAMED, _MOST_IDS = 10, 200
_PAGE = 500


@dataclass(frozen=True)
class Selection:
    """The runs that a person has chosen: by their ids and groups, or all that fit a list."""

    view: View
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    #: Time, in milliseconds, before which the runs of a list were created: newer ones were not seen by who confirms.
    until_ms: int

    @classmethod
    def of(cls, pairs: Sequence[tuple[str, str]], now_ms: int) -> Selection:
        """Read the parameters of an address or a form. Raises InputError where nothing is chosen."""

        def values(name: str) -> tuple[str, ...]:
            return tuple(dict.fromkeys(value for key, value in pairs if key == name and value))

        until = next(iter(values("until")), "")
        until_ms = int(until) if until.isascii() and until.isdecimal() and len(until) < 15 else now_ms
        if values("all"):
            return cls(View.of(pairs), (), (), until_ms)
        ids, groups = values("id"), values("group")
        if not ids and not groups:
            raise InputError("no run is selected; go back, and tick the boxes at the beginning of the rows")
        if len(ids) + len(groups) > _MOST_IDS:
            raise InputError(f"at most {_MOST_IDS} rows can be selected at once; take all that match in place of that")
        return cls(View({}), ids, groups, until_ms)

    @property
    def is_all(self) -> bool:
        return not self.ids and not self.groups

    def wanted(self, person: str, now_ms: int) -> dict[str, Any]:
        """The filter of these runs."""
        if self.is_all:
            until = {"created_at": {"$lte": self.until_ms / 1000}}
            return {"$and": [self.view.wanted(person, now_ms), until]}
        named = {"id": self.ids, "group": self.groups}
        return {"$or": [{field: {"$in": list(values)}} for field, values in named.items() if values]}

    def pairs(self) -> list[tuple[str, str]]:
        """The selection as hidden fields."""
        if self.is_all:
            return [*self.view.pairs(), ("all", "1"), ("until", str(self.until_ms))]
        return [*(("id", one) for one in self.ids), *(("group", one) for one in self.groups)]

    def said(self) -> str:
        """The selection for the audit."""
        if self.is_all:
            return f"all with {urlencode(self.view.pairs()) or 'no filter'}"
        named = [*self.ids, *self.groups]
        return ", ".join(named[:_MOST_NAMED]) + (" …" if len(named) > _MOST_NAMED else "")


class Chosen(NamedTuple):
    """What an act would do to a selection."""

    #: Runs that it would be done to, the newest `MOST` of them, and how many of these are in which state.
    ids: list[str]
    by_state: Mapping[str, int]
    #: Number of runs in a fitting state that are not the person's to act on.
    not_allowed: int
    #: Number of runs in other states, by state.
    others: Mapping[str, int]
    #: Whether there are more than `MOST`.
    is_cut: bool


def choose(served: Served, asker: Asker, word: Meaning, selection: Selection) -> Chosen:
    """Look at the selected runs: to which it can be done, and to which not, and why."""
    now_ms = served.now_us() // 1000
    given = selection.wanted(asker.person.name, now_ms)
    fitting = parse_filter({"$and": [given, {"state": {"$in": list(word.states)}}]})
    listing = served.listing(fitting, parse_order(NEWEST_FIRST), per_page=_PAGE)
    records: Iterator[Record] = listing.records()
    ids: list[str] = []
    by_state: Counter[str] = Counter()
    not_allowed = 0
    for record in islice(records, MOST):
        if may(asker.person, Act.ACT_ON_RUN, project=record.project, owner=record.user):
            ids.append(record.id)
            by_state[record.state.value] += 1
        else:
            not_allowed += 1
    others = Counter(_count_others(served, given, word))
    return Chosen(ids, by_state, not_allowed, others, next(records, None) is not None)


def _count_others(served: Served, given: Mapping[str, Any], word: Meaning) -> dict[str, int]:
    """The selected runs in other states, by state; empty where nobody counts them."""
    wanted = parse_filter({"$and": [given, {"state": {"$nin": list(word.states)}}]})
    listing = served.listing(wanted, parse_order(NEWEST_FIRST), per_page=_PAGE)
    try:
        return {values[0]: number for values, number in listing.counts(["state"]).items()}
    except InputError:
        return dict(Counter(record.state.value for record in islice(listing.records(), MOST)))


@router.get("/runs/acts")
def confirm_page(
    request: Request, shared: SharedHere, asker: Annotated[Asker, allowed(Act.ACT_ON_RUN)], act: str = ""
) -> Response:
    """Say what an act would do, and ask for a word."""
    word = MEANINGS.get(cast(ManyAct, act))
    if word is None:
        raise InputError(f"what can be done to many runs is: {', '.join(MEANINGS)}")
    served = Served(shared, asker)
    selection = Selection.of(request.query_params.multi_items(), served.now_us() // 1000)
    chosen = choose(served, asker, word, selection)
    return show(
        request,
        shared,
        asker,
        "runs_acts",
        act=act,
        word=word,
        chosen=chosen,
        selection=selection,
        most=MOST,
        is_typed=len(chosen.ids) > UNTYPED,
        back=selection.view.url(),
    )


@router.post("/runs/acts/retry")
def retry_many(
    request: Request,
    shared: SharedHere,
    asker: RetryingMany,
    form: FormHere,
) -> Response:
    """Start a new attempt of each."""
    return _act(request, shared, asker, "retry", form)


@router.post("/runs/acts/cancel")
def cancel_many(
    request: Request,
    shared: SharedHere,
    asker: CancellingMany,
    form: FormHere,
) -> Response:
    """Ask for the end of each."""
    return _act(request, shared, asker, "cancel", form)


@router.post("/runs/acts/delete")
def delete_many(
    request: Request,
    shared: SharedHere,
    asker: DeletingMany,
    form: FormHere,
) -> Response:
    """Delete each with all that is kept of it."""
    return _act(request, shared, asker, "delete", form)


def _act(request: Request, shared: SharedHere, asker: Asker, act: ManyAct, form: Form) -> Response:
    word = MEANINGS[act]
    served = Served(shared, asker)
    selection = Selection.of(form.pairs(), served.now_us() // 1000)
    chosen = choose(served, asker, word, selection)
    asker.begin(f"{plural(len(chosen.ids), 'run')}: {selection.said()}")
    if len(chosen.ids) > UNTYPED:
        _check_number(form.text("number"), form.text("count"), now=len(chosen.ids))
    done, away = 0, ""
    refusals = Refusals()
    try:
        for one in served.act_on_many(act, chosen.ids, reason="", grace_s=None):
            if one.refusal is None:
                done += 1
            else:
                refusals.add(one.run_id, one.refusal)
    except BrokerUnavailableError as error:
        away = str(error)
    refused = refusals.by_reason
    if away:
        asker.fail(f"stopped after {count(done)}: {away}")
    elif refused and not done:
        asker.fail(next(iter(refused)))
    return show(
        request,
        shared,
        asker,
        "runs_done",
        word=word,
        done=done,
        refused=[(clean(why), ids[:_MOST_NAMED], len(ids)) for why, ids in refused.items()],
        away=away,
        left=len(chosen.ids) - done - sum(map(len, refused.values())),
        chosen=chosen,
        most=MOST,
        back=selection.view.url(),
    )


def _check_number(typed: str, shown: str, *, now: int) -> None:
    """Raises RefusedError unless the number was typed that the page before showed, and it is about that many still."""
    wanted = shown.replace(",", "").strip()
    if not wanted.isdecimal() or typed.replace(",", "").strip() != wanted:
        raise RefusedError(f"type the number of runs, {count(now)}, to confirm; nothing was done")
    if now > int(wanted) * 1.1 + UNTYPED:
        raise RefusedError(f"there are {count(now)} such runs by now, not {count(int(wanted))}; nothing was done")
