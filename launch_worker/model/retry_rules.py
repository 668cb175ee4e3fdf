"""Reads the rules of `--retry`: for each condition how often a run is tried again, and after which time."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from launch_worker.errors import InputError
from launch_worker.model.outcome import PHASES, Outcome, signal_number
from launch_worker.model.states import RunState
from launch_worker.model.units import parse_duration

#: Conditions that are words, the most special first: of several that hold, the first one decides. An exit code or a
#: signal comes before `failed`.
WORDS = ("oom", "timeout", "stall", "start", "failed", "crashed")
#: Largest count of one rule.
MAX_COUNT = 1000
#: Exit codes of shells from here on stand for a signal: 128 and its number.
_SHELL_SIGNAL = 128
#: Part by which a delay of a back-off is longer or shorter by chance.
_JITTER = 0.2
_RULE = re.compile(r"([A-Za-z0-9_+-]{1,20})=([0-9]{1,4})(?::(.{1,60}))?")
_HOW = (
    "write it as CONDITION=COUNT or CONDITION=COUNT:DELAY, for instance oom=3 or start=5:30s..10m; a condition is an "
    f"exit code, a signal, or one of: {' '.join(WORDS)}"
)


@dataclass(frozen=True)
class Rule:
    """One condition: how often a run is tried again after it, and when."""

    #: Condition as it was written: `oom`, `137`, `SIGKILL`.
    when: str
    count: int
    #: Seconds before the first new attempt, and at most; None for the run's own `--retry-delay`.
    first_s: float | None = None
    most_s: float | None = None

    @property
    def key(self) -> str:
        """The condition as it is counted: a signal is the exit code that shells make of it."""
        return str(_SHELL_SIGNAL + signal_number(self.when)) if self.when.startswith("SIG") else self.when

    def delay_s(self, used: int, *, plain_s: float, seed: str) -> float:
        """Seconds before the next attempt, where `used` came before. The same `seed` gives the same delay."""
        if self.first_s is None or self.most_s is None:
            return plain_s
        if self.first_s == self.most_s:
            return self.first_s
        # Imported on demand: start-up time of `launch-submit`.

        # Imported on demand: start-up time of `launch-submit`.
        import zlib

        delay_s = min(self.most_s, self.first_s * 2.0 ** min(used, 64))
        by_chance = 1 - _JITTER + 2 * _JITTER * zlib.crc32(seed.encode()) / 2**32
        return min(self.most_s, max(self.first_s, delay_s * by_chance))


@lru_cache(maxsize=64)
def parse_rules(texts: tuple[str, ...]) -> tuple[Rule, ...]:
    """The rules, each written as CONDITION=COUNT[:DELAY[..DELAY]]. Raises InputError."""
    rules = tuple(map(_rule, texts))
    keys = [rule.key for rule in rules]
    for rule in rules:
        if keys.count(rule.key) > 1:
            same = [other.when for other in rules if other.key == rule.key]
            raise InputError(f"retry names one condition twice ({' and '.join(same)}); leave one of them out")
    return rules


def conditions_of(outcome: Outcome) -> tuple[str, ...]:
    """The conditions that hold for an end, as rules count them, the most special first; none for a good end."""
    if outcome.state is RunState.CRASHED:
        return ("crashed",)
    if outcome.state is not RunState.FAILED:
        return ()
    found = [outcome.cause] if outcome.cause else []
    if outcome.phase in PHASES and outcome.phase != "run":
        found.append("start")
    elif outcome.cause in ("", "oom"):
        # Else the worker has chosen the signal.
        code = outcome.exit_code
        if outcome.signal:
            code = _SHELL_SIGNAL + signal_number(outcome.signal)
        found += [] if code is None else [str(code)]
    return (*found, "failed")


def rule_for(rules: Iterable[Rule], outcome: Outcome) -> Rule | None:
    """The rule that decides what follows an end; None for none."""
    by_key = {rule.key: rule for rule in rules}
    return next((by_key[key] for key in conditions_of(outcome) if key in by_key), None)


def counts_of(text: str) -> dict[str, int]:
    """How often each rule was used, by its key, as `text_of` wrote it; what is damaged is left out."""
    pairs = (part.partition(":") for part in text.split())
    return {key: int(count) for key, _, count in pairs if count.isdecimal() and len(count) <= 6}


def text_of(counts: dict[str, int]) -> str:
    """The counts as a record keeps them: `oom:2 137:1`."""
    return " ".join(f"{key}:{count}" for key, count in counts.items())


def _rule(text: str) -> Rule:
    match = _RULE.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise InputError(f"retry {str(text)[:60]!r} is no rule; {_HOW}")
    when, count, delay = match.groups()
    if int(count) > MAX_COUNT:
        raise InputError(f"retry {text[:60]!r} is too often; at most {MAX_COUNT} times")
    if delay is None:
        return Rule(_condition(when), int(count))
    first, dots, most = delay.partition("..")
    first_s = parse_duration(first, what="retry delay")
    most_s = parse_duration(most, what="retry delay") if dots else first_s
    if most_s < first_s or (dots and not first_s):
        raise InputError(f"retry {text[:60]!r}: a back-off goes from the first delay, more than 0, to a longer one")
    return Rule(_condition(when), int(count), first_s, most_s)


def _condition(word: str) -> str:
    """A condition as it is written canonically. Raises InputError."""
    if word.lower() in WORDS:
        return word.lower()
    if word.isdecimal():
        if not 1 <= int(word) <= 255:
            raise InputError(f"retry: exit code {word} is none that can be tried again; it is from 1 to 255")
        return str(int(word))
    name = word.upper() if word.upper().startswith("SIG") else f"SIG{word.upper()}"
    if not signal_number(name):
        raise InputError(f"retry: {word[:60]!r} is no condition; {_HOW}")
    return name
