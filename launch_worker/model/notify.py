"""Reads what a run asks to be told of and where: `--notify CHANNEL[:STATES]`."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from launch_worker.errors import InputError

#: Names of channels and of rules, and the same in words.
CHANNEL_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
CHANNEL_NAME_RULE = "small letters, digits, and . _ - after the first, at most 63"
#: Words for the moments at which a run or a group tells. `end` is each real end: one after which the run is not tried
#: again. `first-failure` is the first failed run of a group; `halted` is when its rest is not started (`--max-fails`).
STATES = ("end", "finished", "failed", "crashed", "killed", "running", "retry", "first-failure", "halted")
#: Channels that one run may ask for.
MAX_CHANNELS = 8


def parse_notify(text: str) -> tuple[str, tuple[str, ...]]:
    """The channel and the words of one `--notify`; `CHANNEL` alone is `CHANNEL:end`. Raises InputError."""
    channel, colon, listed = text.partition(":") if isinstance(text, str) else ("", "", "")
    words = tuple(word.strip().lower() for word in listed.split("+")) if colon else ("end",)
    if not CHANNEL_NAME.fullmatch(channel) or "/" in listed:
        # As an address, which only an admin names.
        raise InputError(
            f"notify {str(text)[:60]!r} names no channel; write CHANNEL or CHANNEL:STATES, as ops or ops:failed+crashed"
        )
    for word in words:
        if word not in STATES:
            raise InputError(
                f"notify {str(text)[:60]!r}: {word[:30]!r} is no state; join some of these with +: {', '.join(STATES)}"
            )
    return channel, words


def check_notify(notify: tuple[str, ...]) -> None:
    """Raises InputError for channels or states that no run can ask for."""
    channels = [parse_notify(text)[0] for text in notify]
    if len(channels) > MAX_CHANNELS:
        raise InputError(f"a run can notify at most {MAX_CHANNELS} channels, not {len(channels)}")
    for channel in channels:
        if channels.count(channel) > 1:
            raise InputError(f"channel {channel!r} is named twice; join its states: --notify {channel}:failed+crashed")


def joined(notify: Iterable[str], more: Iterable[str]) -> tuple[str, ...]:
    """Both, without what of `more` names a channel that `notify` names already."""
    found = tuple(notify)
    known = {text.partition(":")[0] for text in found}
    return (*found, *(text for text in more if text.partition(":")[0] not in known))


def field_of(notify: Iterable[str]) -> str:
    """The record's field by which the scripts know what to tell: CHANNEL:WORD+WORD, with blanks between."""
    return " ".join(f"{channel}:{'+'.join(words)}" for channel, words in map(parse_notify, notify))


def why_not_told(notify: Iterable[str], known: Collection[str] | None) -> InputError | None:
    """Why a run that asks for these channels is refused: no sender lives (`known` is None), or one is unknown."""
    for channel, _ in map(parse_notify, notify):
        if known is None:
            return InputError(
                f"nobody would tell channel {channel!r}: no process sends notices now; start launch-worker server or "
                "launch-worker archive run, or leave out --notify"
            )
        if channel not in known:
            # Imported on demand: start-up time of `launch-submit`.
            from difflib import get_close_matches

            close = get_close_matches(channel, known, n=1)
            meant = f"; did you mean {close[0]!r}?" if close else ""
            listed = f"; there are: {', '.join(sorted(known))}" if known else "; an admin makes one"
            return InputError(f"there is no channel {channel!r}{meant or listed}")
    return None
