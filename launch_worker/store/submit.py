"""Writes what submitters create: new runs, one by one and many at once.

This module imports no redis: `launch-submit` takes as long as its imports.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn, TypeVar

from launch_worker.errors import DamagedError, InputError, LaunchError
from launch_worker.model import item_schema
from launch_worker.model.checks import PRIORITIES
from launch_worker.model.notify import field_of
from launch_worker.model.spec import RunSpec
from launch_worker.store import keys
from launch_worker.store.redis.client import Client, text
from launch_worker.store.redis.library import function_of
from launch_worker.store.redis.transport import Again, Line, NotReady

#: Wish for the end of a run or group of which the submitter may not know.
UNSEEN = "unseen"


class Created(NamedTuple):
    """The answer for a run that was submitted."""

    #: Whether the run was made now; False when a run with its id was there already.
    is_new: bool
    #: Number of live workers that consume the run's queue.
    consumers: int
    #: Id of the run that has the key already, for which this one was not made; '' for none.
    holder: str = ""


class Once(NamedTuple):
    """A key that one run or array has for a time."""

    #: Name of the key: a hash of the key and its user.
    slot: str
    #: Seconds for which it is had; None until the end of the run or array.
    for_s: float | None
    #: Place of this run in its array.
    place: int = 0


class Announced(NamedTuple):
    """An array or a bulk submission, as its submitter announces it."""

    #: Id in names of Redis.
    key: str
    #: Id as people write it.
    id: str
    #: Number of its runs.
    size: int


class New(NamedTuple):
    """A run to be submitted; the fields are the arguments of `Creator.create`."""

    run_id: str
    spec: RunSpec
    queue_config: str = ""
    pool_config: str = ""
    delay_s: float = 0.0
    at_us: int | None = None
    #: Name of the user, as a server has proven it, and the groups of that user.
    user: str = ""
    user_groups: tuple[str, ...] = ()
    group: Announced | None = None
    #: Runs and groups that it waits for, and the wish for each one's end, where the spec does not say all of that. One
    #: with the wish UNSEEN is refused as if it was not there.
    waits: Mapping[str, str] | None = None
    once: Once | None = None
    #: Signature of the submitter (`trust/signatures.py`); '' for none.
    signature: str = ""


class Configs(NamedTuple):
    """The configurations of a queue and of its pool: JSON, '' for none."""

    queue_config: str = ""
    pool_config: str = ""


class ConfigChanged(Exception):
    """The queue or its pool has another configuration than the one that gave the run its defaults."""

    def __init__(self, queue_config: str, pool_config: str) -> None:
        super().__init__("the queue's configuration is another one")
        #: The configurations that there are now.
        self.configs = Configs(queue_config, pool_config)


T = TypeVar("T")


#: The answer for one of many runs.
Creation = Created | ConfigChanged | LaunchError


class Creator(Client):
    """The part of `Store` that a submitter needs."""

    def configs_of(self, queue: str) -> Configs:
        """The configurations of a queue and its pool, as they are now."""
        try:
            settings = self.settings_of("queue", queue)
            pool = self.settings_of("pool", settings["pool"]) if settings.get("pool") else {}
        except DamagedError as error:
            raise DamagedError(
                f"the settings of queue {queue!r} cannot be read, so nothing is submitted to it: {error}; an admin "
                f"deletes the key {keys.queue(queue)} and makes the queue anew: launch-worker queues create {queue}"
            ) from None
        return Configs(settings.get("config", ""), pool.get("config", ""))

    def with_configs(self, queue: str, write: Callable[[Configs], T]) -> T:
        """What `write` returns for a queue's configurations; it is called again when they changed meanwhile."""
        configs = self.configs_of(queue)
        while True:
            try:
                return write(configs)
            except ConfigChanged as changed:
                configs = changed.configs

    def create(
        self,
        run_id: str,
        spec: RunSpec,
        *,
        queue_config: str = "",
        pool_config: str = "",
        delay_s: float = 0.0,
        at_us: int | None = None,
        reason: str = "",
        if_queue_known: bool = False,
        user: str = "",
        user_groups: tuple[str, ...] = (),
        group: Announced | None = None,
        waits: Mapping[str, str] | None = None,
        once: Once | None = None,
        signature: str = "",
    ) -> Created:
        """(nothing) -> Pending, with the item in its queue. Idempotent by id.

        The run waits until `at_us` (server microseconds), or for `delay_s`. Raises ConfigChanged when a configuration
        has changed, InputError when the run waits for a run that is not there, and with `if_queue_known` when nobody
        knows its queue. Where another run has its key (`once`), nothing is made.
        """
        when = (delay_s, at_us, user, user_groups)
        new = New(run_id, spec, queue_config, pool_config, *when, group, waits, once, signature)
        [answer] = self._created([new], self._call("create", *_creations([new], reason, if_queue_known, self.acl_user)))
        if isinstance(answer, Exception):
            raise answer
        return answer

    def create_batches(
        self, batches: Iterable[Sequence[New]], *, if_queue_known: bool = False
    ) -> Iterator[list[Creation]]:
        """Create batch after batch, each in one call; yields the answers of a batch in its order.

        A batch is taken from `batches` and sent while Redis works on the one before. A refused run says nothing of the
        others. A caller may end `batches` after a refusal; the answers of the batch that was sent by then still come.
        """
        sent: deque[tuple[Sequence[New], list[str | int]]] = deque()
        line, is_first = self._transport.line(), True
        try:
            for batch in batches:
                calls = _creations(batch, "", if_queue_known, self.acl_user)
                line.send("FCALL", function_of("create"), 0, *calls)
                sent.append((batch, calls))
                # The first answer is awaited: where the library must be loaded, the next batch must not overtake.
                if is_first or len(sent) > 1:
                    yield self._answered(line, *sent.popleft())
                is_first = False
            while sent:
                yield self._answered(line, *sent.popleft())
        finally:
            line.close()

    def seal_group(self, group: str, *, is_whole: bool) -> None:
        """Note that no more runs are added to a group of which fewer were made than announced.

        `is_whole`: runs that were there before stand for the others. Else those count as runs that never ran.
        """
        self._call("seal_group", group, "whole" if is_whole else "cut")

    def _answered(self, line: Line, batch: Sequence[New], calls: Sequence[str | int]) -> list[Creation]:
        try:
            reply = line.receive()
        except (Again, NotReady):
            reply = self._call("create", *calls)
        return [reply] * len(batch) if isinstance(reply, LaunchError) else self._created(batch, reply)

    def _created(self, batch: Sequence[New], reply: Iterable[Sequence[Any]]) -> list[Creation]:
        """The answers in a reply of the `create` script."""
        answers: list[Creation] = []
        for consumers, *found in reply:
            for answer in found:
                if isinstance(answer, int):
                    answers.append(Created(bool(answer), consumers))
                    continue
                if isinstance(answer, list) and answer[0] == -4:
                    answers.append(Created(False, consumers, text(answer[1])))
                    continue
                try:
                    self._refuse(batch[len(answers)].spec, answer)
                except (ConfigChanged, LaunchError) as error:
                    answers.append(error)
        return answers

    def _refuse(self, spec: RunSpec, answer: Any) -> NoReturn:
        if isinstance(answer, Exception):
            raise self._error(answer)
        _refuse(spec, answer)


def fields_of(spec: RunSpec, waits: Mapping[str, str] | None = None) -> list[str | int]:
    """The fields of a new record; a field is left out where its absence means the same. `waits`: as of `New`."""
    fields: list[str | int] = ["name", spec.name, "spec", spec.to_json()]
    if spec.priority != "medium":
        fields += ["priority", PRIORITIES[spec.priority]]
    if spec.project:
        fields += ["project", spec.project]
    if spec.tags:
        fields += ["tags", json.dumps(spec.tags)]
    if (version := item_schema.version_of(spec)) > 1:
        fields += ["version", version]
    if spec.notify:
        fields += ["notify", field_of(spec.notify)]
    if spec.needs:
        fields += ["needs", spec.needs]
    if spec.concurrency_key:
        fields += ["concurrency_key", spec.concurrency_key, "limit_key", spec.limit_key]
    if spec.array:
        fields += ["array", spec.array, "array_limit", spec.array_limit or ""]
    if spec.max_fails:
        fields += ["max_fails", spec.max_fails]
    if spec.sweep:
        fields += ["sweep", spec.sweep]
    if spec.scheduler:
        fields += ["scheduler", "1"]
    if spec.after or spec.inputs:
        known = spec.waits if waits is None else waits
        fields += ["waits_for", json.dumps(dict(known))] if known else []
    return fields


def proven_fields(user: str, user_groups: Iterable[str] = ()) -> list[str | int]:
    """The fields of a new record that say who submitted it; none for nobody who was proven."""
    groups = " ".join(user_groups)
    fields: list[str | int] = ["user", user] if user else []
    return [*fields, "user_groups", groups] if user and groups else fields


def expiry_of(spec: RunSpec) -> str | int:
    """A run's expiry in microseconds; '' for never."""
    return "" if spec.expires_s is None else round(spec.expires_s * 1e6)


def _creations(runs: Iterable[New], reason: str, if_queue_known: bool, acl_user: str) -> list[str | int]:
    """The arguments of the `create` script; consecutive runs of one queue are a batch."""
    args: list[str | int] = []
    groups: dict[str, int] = {}
    batch: tuple[str, str, str, Announced | None] | None = None
    count_at = 0
    for new in runs:
        run_id, spec, queue_config, pool_config, delay_s, at_us, user, user_groups, group, waits, once, signature = new
        if batch != (spec.queue, queue_config, pool_config, group):
            batch = (spec.queue, queue_config, pool_config, group)
            if group is not None:
                groups[group.key] = group.size
            count_at = len(args) + 4
            args += (spec.queue, queue_config, pool_config, "" if group is None else group.key, 0)
        args[count_at] += 1  # type: ignore[operator]
        due = f"at:{at_us}" if at_us is not None else f"in:{round(delay_s * 1e6)}" if delay_s else ""
        fields = fields_of(spec, waits)
        fields += proven_fields(user, user_groups)
        if signature:
            fields += ["signature", signature]
        named = run_id
        if once is not None:
            # Of an array all runs have the key together, under the id of the first one.
            for_us = "end" if once.for_s is None else round(once.for_s * 1e6)
            named = f"{run_id} {once.slot} {spec.array or run_id} {for_us}"
            fields += ["once", once.slot]
        args += (named, due, expiry_of(spec), len(fields))
        args += fields
    announced = [word for known in groups.items() for word in known]
    return [int(if_queue_known), reason, acl_user, len(groups), *announced, *args]


def created_of(spec: RunSpec, reply: Sequence[Any]) -> Created:
    """The value of the reply of a script that creates one run."""
    if reply[0] < 0:
        _refuse(spec, reply)
    return Created(bool(reply[0]), int(reply[1]))


def _refuse(spec: RunSpec, answer: Any) -> NoReturn:
    """Raise the reason why a run was not created."""
    word, *why = answer
    if word == -1:
        raise ConfigChanged(text(why[0]), text(why[1]))
    if word == -3:
        known = ", ".join(sorted(text(name) for name in why[0])) or "none"
        raise InputError(f"there is no queue {spec.queue!r}; known are: {known}")
    raise InputError(text(why[0]))
