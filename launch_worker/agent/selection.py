"""Says which queues a worker consumes: by name, prefix, pool or tags, as Prefect's `agent start` takes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from launch_worker.errors import InputError
from launch_worker.model.checks import MAX_LIMIT, QUEUE, RESERVED_QUEUES, check_queue_name

#: Prefect's are named "Agent queue a-b", which is no name of a queue here.
TAG_QUEUE_PREFIX = "agent-queue-"
#: `--limit -1`: more than any machine runs. Each slot costs something once it is used, and nothing before.
UNLIMITED = MAX_LIMIT


@dataclass(frozen=True)
class Selection:
    """Names, prefixes or tags of queues, or a pool, of which names or prefixes may select a part."""

    queues: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    pool: str = ""
    tags: tuple[str, ...] = ()

    @classmethod
    def parse(
        cls, *, queues: Iterable[str] = (), match: Iterable[str] = (), pool: str | None = None, tags: Iterable[str] = ()
    ) -> Selection:
        """Check a selection. Raises InputError with Prefect's sentences and its exit code 1. Commas join names."""
        names = tuple(name for joined in queues for name in joined.split(",") if name)
        prefixes, labels = tuple(match), tuple(tags)
        if not (names or labels or prefixes or pool):
            raise refused("No work queues provided!")
        if bool(names) + bool(labels) + bool(prefixes) > 1:
            raise refused("Only one of `work_queues`, `match`, or `tags` can be provided.")
        if pool and labels:
            raise refused("`tag` and `pool` options cannot be used together.")
        if pool and not QUEUE.fullmatch(pool):
            raise refused(f"pool {pool[:60]!r} is not allowed: letters, digits, and . _ - after the first, at most 100")
        made = cls(tuple(dict.fromkeys(names)), tuple(dict.fromkeys(prefixes)), pool or "", labels)
        for name in (*made.queues, *([made.tag_queue] if labels else [])):
            try:
                check_queue_name(name)
            except InputError as error:
                raise refused(str(error)) from None
        return made

    @property
    def is_dynamic(self) -> bool:
        """Whether queues that come or go change the selected queues."""
        return bool(self.prefixes or self.pool)

    @property
    def is_strict_order(self) -> bool:
        """Whether a queue is served only when those before it are empty; else they take turns."""
        return bool(self.pool)

    @property
    def tag_queue(self) -> str:
        """The queue that is named for the tags; '' without any."""
        return TAG_QUEUE_PREFIX + "-".join(sorted(self.tags)) if self.tags else ""

    def wanted(self, all_queues: Iterable[str], pool_queues: Sequence[str]) -> list[str]:
        """The queues to consume now, in the order of consumption; `pool_queues` are the pool's by their rank."""
        if self.tags:
            return [self.tag_queue]
        if not self.is_dynamic:
            return list(self.queues)
        found = pool_queues if self.pool else sorted(all_queues)
        return [name for name in found if name not in RESERVED_QUEUES and self._fits(name)]

    def unknown(self, all_queues: Iterable[str], pools: Iterable[str], pool_queues: Iterable[str]) -> str:
        """One sentence about queues or a pool that were named and are not there; '' when all are there."""
        if self.pool and self.pool not in pools:
            return f"there is no pool {self.pool!r}; the known ones: {listed(pools)}"
        # As everywhere, the default queue is there without being made.
        known = set(pool_queues) if self.pool else {*all_queues, "default"}
        asked = [self.tag_queue] if self.tags else self.queues
        if all(name in known for name in asked):
            return ""
        missing = ", ".join(name for name in asked if name not in known)
        where = f" in pool {self.pool!r}" if self.pool else ""
        return f"there is no queue {missing}{where}; asked for: {', '.join(asked)}; the known ones: {listed(known)}"

    def describe(self) -> str:
        """What the agent looks for, in Prefect's words."""
        if self.pool:
            return f"Agent started! Looking for work from work pool '{self.pool}'..."
        if self.prefixes:
            return f"Agent started! Looking for work from queue(s) that start with the prefix: {list(self.prefixes)}..."
        return f"Agent started! Looking for work from queue(s): {', '.join(self.wanted((), ()))}..."

    def _fits(self, name: str) -> bool:
        if self.prefixes:
            return name.startswith(self.prefixes)
        return not self.queues or name in self.queues


def parse_limit(text: str | int | None) -> int | None:
    """How many runs at once: 0 takes nothing, -1 has no limit, None is the default. Raises InputError."""
    if text is None:
        return None
    shown = str(text).strip()
    digits = shown.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 7 or not -1 <= int(shown) <= MAX_LIMIT:
        raise InputError(
            f"--limit {shown[:60]!r} is not a number of runs; "
            f"write a whole number from 0 (take nothing) to {MAX_LIMIT}, or -1 for no limit"
        )
    return UNLIMITED if int(shown) == -1 else int(shown)


def welcome(version: str, url: str) -> str:
    """`url` has its password masked already."""
    return f"Starting v{version} agent connected to {url}..."


def refused(sentence: str) -> InputError:
    """The error for what Prefect ends with exit code 1."""
    error = InputError(sentence)
    error.exit_code = 1
    return error


def listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
