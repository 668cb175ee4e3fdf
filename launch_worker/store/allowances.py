"""Sets what a user, a group or a project may have at once, and says what each of them has now."""

from __future__ import annotations

from launch_worker.model.allowance import Allowance, check_allowance, kept_name
from launch_worker.store import keys
from launch_worker.store.redis.client import text
from launch_worker.store.redis.connection import clear_errors
from launch_worker.store.server import Server
from launch_worker.untrusted.text import read_whole

#: Parked runs that one call of the `wake` script dispatches.
_WAKE_AT_ONCE = 500


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
        numbers = (waiting, running, gpus)
        check_allowance(name, *numbers)
        kept = kept_name(name)
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
                    most_waiting=read_whole(most_waiting),
                    most_running=read_whole(most_running),
                    most_gpus=read_whole(most_gpus),
                    waiting=waiting,
                    running=running,
                    gpus=held,
                )
            )
        return made
