"""Lists words with which a person may go on to type: ids, queues, workers and the like, in a round trip or two."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from launch_worker.store import keys
from launch_worker.store.redis.client import Client, text
from launch_worker.untrusted.text import clean, read_map

#: Sends commands to Redis at once; their replies in order, in which a refusal may be an Exception.
Ask = Callable[[Sequence[tuple[object, ...]]], list[Any]]
#: Runs and sweeps that are offered, and characters of what is said of a word.
_MOST, _MOST_SAID = 50, 60
#: Runs of which the projects are offered.
_MOST_OF_PROJECTS = 200


class Suggestion(NamedTuple):
    """A word, and what it is, for shells that show that."""

    word: str
    said: str = ""


def suggestions(kind: str, ask: Ask, sees: Callable[[str], bool]) -> list[Suggestion]:
    """The words of a kind (`KINDS`), of projects that are seen; none for what cannot be read."""
    found = KINDS[kind](ask, sees)
    return [Suggestion(word, clean(said)[:_MOST_SAID].strip()) for word, said in found]


def _runs(ask: Ask, sees: Callable[[str], bool]) -> Iterable[tuple[str, str]]:
    """The newest runs, and their arrays and bulk submissions where these begin."""
    for run_id, (name, state, project) in _hashes(ask, keys.RUNS, keys.run, ("name", "state", "project"), _MOST):
        if state and sees(project):
            yield run_id, f"{state} {name}"


def _names(ask: Ask, sees: Callable[[str], bool]) -> Iterable[tuple[str, str]]:
    found = _hashes(ask, keys.RUNS, keys.run, ("name", "state", "project"), _MOST)
    names = {name: state for _, (name, state, project) in reversed(found) if state and name and sees(project)}
    return reversed(names.items())


def _projects(ask: Ask, sees: Callable[[str], bool]) -> Iterable[tuple[str, str]]:
    found = _hashes(ask, keys.RUNS, keys.run, ("project",), _MOST_OF_PROJECTS)
    return dict.fromkeys((project, "") for _, (project,) in found if project and sees(project))


def _sweeps(ask: Ask, sees: Callable[[str], bool]) -> Iterable[tuple[str, str]]:
    for sweep_id, (name, state, given) in _hashes(ask, keys.SWEEPS, keys.sweep, ("name", "state", "given"), _MOST):
        if state and sees(str(read_map(given).get("project") or "")):
            yield sweep_id, f"{state} {name}"


def _queues(ask: Ask, sees: Callable[[str], bool]) -> Iterable[tuple[str, str]]:
    return ((name, "") for name in sorted(_texts(ask([("SMEMBERS", keys.QUEUES)])[0])))


def _pools(ask: Ask, sees: Callable[[str], bool]) -> Iterable[tuple[str, str]]:
    return ((name, "") for name in sorted(_texts(ask([("SMEMBERS", keys.POOLS)])[0])))


def _workers(ask: Ask, sees: Callable[[str], bool]) -> Iterable[tuple[str, str]]:
    found = {}
    for _, said in _values(ask, keys.WORKERS, keys.worker):
        if isinstance(name := said.get("worker"), str):
            queues = said.get("queues")
            found[name] = f"{said.get('state')} {' '.join(map(str, queues)) if isinstance(queues, list) else ''}"
    return sorted(found.items())


def _schedules(ask: Ask, sees: Callable[[str], bool]) -> Iterable[tuple[str, str]]:
    for name, said in _values(ask, keys.SCHEDULES, keys.schedule):
        given = said.get("given")
        if sees(str(given.get("project") or "") if isinstance(given, dict) else ""):
            yield name, str(said.get("cron") or "")


def _channels(ask: Ask, sees: Callable[[str], bool]) -> Iterable[tuple[str, str]]:
    [names] = ask([("GET", keys.NOTICE_SENDER)])
    return ((name, "") for name in sorted(text(names).split())) if isinstance(names, (bytes, str)) else ()


#: What can be asked for.
KINDS: dict[str, Callable[[Ask, Callable[[str], bool]], Iterable[tuple[str, str]]]] = {
    "runs": _runs,
    "names": _names,
    "projects": _projects,
    "sweeps": _sweeps,
    "queues": _queues,
    "pools": _pools,
    "workers": _workers,
    "schedules": _schedules,
    "channels": _channels,
}


class Suggestions(Client):
    """The part of `Store` that lists words."""

    def suggestions(self, kind: str, sees: Callable[[str], bool]) -> list[Suggestion]:
        """The words of a kind, of projects that are seen."""

        def ask(commands: Sequence[tuple[object, ...]]) -> list[Any]:
            # Imported on demand: redis-py comes with it.
            from launch_worker.store.redis.connection import clear_errors

            with clear_errors(self.url):
                pipe = self._redis.pipeline(transaction=False)
                for command in commands:
                    pipe.execute_command(*command)
                found: list[Any] = pipe.execute(raise_on_error=False)
            return found

        return suggestions(kind, ask, sees)


def _hashes(
    ask: Ask, index: str, key_of: Callable[[str], str], fields: tuple[str, ...], most: int
) -> list[tuple[str, tuple[str, ...]]]:
    """The newest of an index, each with these fields of its hash; '' for none."""
    ids = _texts(ask([("ZREVRANGE", index, 0, most - 1)])[0])
    replies = ask([("HMGET", key_of(one), *fields) for one in ids]) if ids else []
    return [
        (one, tuple(text(value or b"") for value in reply))
        for one, reply in zip(ids, replies, strict=True)
        if isinstance(reply, list)
    ]


def _values(ask: Ask, index: str, key_of: Callable[[str], str]) -> list[tuple[str, dict[str, Any]]]:
    """The members of an index, each with the JSON of its key."""
    ids = _texts(ask([("ZRANGE", index, 0, -1)])[0])
    values = ask([("MGET", *map(key_of, ids))])[0] if ids else []
    return [(one, read_map(value or b"")) for one, value in zip(ids, values, strict=True)] if values else []


def _texts(reply: Any) -> list[str]:
    return [text(one) for one in reply] if isinstance(reply, (list, set)) else []
