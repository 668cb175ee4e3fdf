"""Sets what a user, a group or a project may have at once, and says what each of them has now."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from launch_worker.errors import InputError
from launch_worker.store import keys
from launch_worker.store.redis.client import text
from launch_worker.store.redis.connection import clear_errors
from launch_worker.store.server import Server

KINDS = ("user", "group", "project")
_NAME = re.compile(r"(user|group|project):[A-Za-z0-9][A-Za-z0-9_.@+:-]{0,220}")
#: Largest number of an allowance.
MOST = 1_000_000
#: Parked runs that one call of the `wake` script dispatches.
_WAKE_AT_ONCE = 500


@dataclass(frozen=True)
class Allowance:
    """What the runs of one user, group or project may have at once, and have now. None: no such limit."""

    #: Kind and name, such as `user:ada` or `project:me/iris`.
    name: str
    most_waiting: int | None
    most_running: int | None
    most_gpus: int | None
    waiting: int = 0
    running: int = 0
    gpus: int = 0


def allowances_of(user: str, groups: Iterable[str], project: str, known: frozenset[str]) -> tuple[str, ...]:
    """The allowances for which a run counts, of those that are known: of the user, their groups, and the project."""
    if not known:
        return ()
    wanted = [f"user:{user}", *(f"group:{group}" for group in sorted(groups)), f"project:{_kept(project)}"]
    return tuple(name for name in wanted if name in known)


class Allowances(Server):
    """The part of `Store` for allowances."""

    def allowance_names(self) -> frozenset[str]:
        """The names of all allowances, as `allowances_of` compares them."""
        with clear_errors(self.url):
            return frozenset(text(name) for name in self._redis.smembers(keys.ALLOWANCES))

    def allow(self, name: str, *, waiting: int | None, running: int | None, gpus: int | None, actor: str = "") -> bool:
        """Set an allowance, such as `user:ada`; without any number it is removed. Runs that may start are dispatched.

        It counts the runs that are submitted from then on. Returns whether it is new. Raises InputError.
        """
        kept = _kept(name)
        if not _NAME.fullmatch(kept):
            raise InputError("an allowance is of user:NAME, group:NAME or project:NAME")
        numbers = (waiting, running, gpus)
        if any(number is not None and not 0 <= number <= MOST for number in numbers):
            raise InputError(f"an allowance is a number from 0 to {MOST:,}")
        is_new = self._call("allow", kept, *("" if n is None else n for n in numbers), self.named(actor))
        while self._call("wake", f"allowance:{kept}", _WAKE_AT_ONCE) >= _WAKE_AT_ONCE:
            pass
        return bool(is_new)

    def allowances(self) -> list[Allowance]:
        """All allowances with what there is of each now, by name."""
        names = sorted(self.allowance_names())
        with clear_errors(self.url):
            pipe = self._redis.pipeline(transaction=False)
            for name in names:
                pipe.hmget(keys.allowance(name), "waiting", "running", "gpus")
                for kind in ("waiting", "allowance", "gpus"):
                    pipe.scard(keys.places(kind, name))
            found = pipe.execute() if names else []
        made = []
        for at, name in enumerate(names):
            (most_waiting, most_running, most_gpus), waiting, running, held = found[4 * at : 4 * at + 4]
            kind, _, of = name.partition(":")
            made.append(
                Allowance(
                    name=f"{kind}:{of.replace(':', '/')}",
                    most_waiting=_number(most_waiting),
                    most_running=_number(most_running),
                    most_gpus=_number(most_gpus),
                    waiting=waiting,
                    running=running,
                    gpus=held,
                )
            )
        return made


def _kept(name: str) -> str:
    """The name as it is kept: a group of parked runs has no slash in its name."""
    return name.replace("/", ":")


def _number(value: bytes | str | None) -> int | None:
    return None if value is None else int(value)
