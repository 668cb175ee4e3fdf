"""Says a message in words: a sentence first, then what helps. All text is clean: one line each, nothing that steers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote

from launch_worker import humane
from launch_worker.model.group import NEVER, GroupRecord
from launch_worker.model.hints import hint_of_end, meaning_of
from launch_worker.model.run import Record
from launch_worker.model.sentences import words_for_halt
from launch_worker.model.states import RunState
from launch_worker.model.units import isoformat
from launch_worker.notifications.message import DIGEST, GROUP_FAILING, GROUP_HALTED, TEST, Alarm, Ended, Message
from launch_worker.untrusted.text import clean, plain_line

#: Characters of a line of output, and of a name or a reason in a sentence.
_MOST_LINE, _MOST_WORDS = 400, 300
#: Characters of a rule's sentence, in which names stand.
_MOST_SENTENCE = 1000
#: Lines of a failed run's output, runs of a group and messages of a digest that are told.
OUTPUT_LINES = 20
MOST_RUNS = 10
MOST_PARTS = 50


@dataclass(frozen=True)
class Text:
    """A message in words."""

    #: Word of what happened, ours: Failed.
    what: str
    #: Name of the run, the group or the rule, others'.
    name: str
    #: Sentence that says it all.
    sentence: str
    #: Further sentences and facts.
    lines: tuple[str, ...] = ()
    #: Last lines of the output.
    output: tuple[str, ...] = ()
    #: Commands that help.
    commands: tuple[str, ...] = ()
    #: Address of the page; '' where no server's address is known.
    url: str = ""

    @property
    def subject(self) -> str:
        """One line, for a subject or a title."""
        return f"{self.what}: {self.name}" if self.name else self.what

    def body(self) -> str:
        """The whole as plain text, without its page's address."""
        return "\n".join(self._body())

    def _body(self) -> Iterator[str]:
        yield self.sentence
        yield from self.lines
        if self.output:
            yield ""
            yield "Its last lines:"
            yield from (f"  {line}" for line in self.output)
        if self.commands:
            yield ""
            yield from self.commands


def text_of(message: Message, *, server_url: str = "", has_output: bool = True) -> Text:
    """The message in words. `server_url`: address under which people reach the server; '' for none."""
    if message.run is not None:
        return _of_run(message, message.run, server_url, has_output)
    if message.ended is not None:
        return _of_group(message, message.ended, server_url)
    if message.alarm is not None:
        return _of_alarm(message, message.alarm, server_url)
    if message.type == DIGEST:
        return _of_digest(message, server_url)
    what = "A test of this channel" if message.type == TEST else message.type
    return Text("Test", "", f"{what}: an admin of launch_worker has sent it. Nothing happened.", url=server_url)


def page_of(message: Message, server_url: str) -> str:
    """The address of the page that says more; '' where no server's address is known."""
    if not server_url:
        return ""
    if message.run is not None:
        return f"{server_url}/runs/{quote(message.run.id, safe='')}"
    if message.ended is not None:
        group = message.ended.group
        name = quote(group.id, safe="")
        return f"{server_url}/sweeps/{name}" if group.kind == "sweep" else f"{server_url}/runs?group={name}"
    if message.alarm is not None:
        kind, subject = message.alarm.kind, quote(message.alarm.subject, safe="")
        return f"{server_url}/{kind}s/{subject}" if kind in ("run", "queue") else f"{server_url}/workers"
    return f"{server_url}/"


def last_lines(output: str) -> tuple[str, ...]:
    """The last lines of an output, as text."""
    lines = output.rstrip().splitlines()[-OUTPUT_LINES:]
    return tuple(_bounded(_sound(plain_line(line.expandtabs().rstrip())), _MOST_LINE) for line in lines)


#: Words of the states and events that a run's message tells of: for a subject, and in a sentence.
_WORDS = {
    "run.finished": ("Finished", "finished"),
    "run.failed": ("Failed", "failed"),
    "run.killed": ("Killed", "was killed"),
    "run.crashed": ("Crashed", "crashed"),
    "run.running": ("Running", "runs"),
    "run.retry": ("Tried again", "is tried again"),
}


def _of_run(message: Message, run: Record, server_url: str, has_output: bool) -> Text:
    what, verb = _WORDS.get(message.type, (message.type, message.type))
    name = _words(run.name) or run.id
    is_over = run.state.is_final
    took = ""
    if is_over and run.started_at is not None and run.ended_at is not None:
        took = f" after {humane.duration((run.ended_at - run.started_at) / 1e6)}"
    where = f" on {_words(run.worker)}" if run.worker else ""
    reason = "" if run.state in (RunState.FINISHED, RunState.RUNNING) else _words(run.reason)
    if run.state is RunState.FAILED and (meaning := meaning_of(run)):
        reason += f", {meaning}"
    lines = []
    hint = hint_of_end(run, message.output) if is_over else None
    if hint is not None:
        # What the reason says already is not said twice.
        known = reason.lower()
        headline = "" if meaning_of(run) else hint.what
        said = [part for part in (headline, hint.text) if part and part.rstrip(".").lower() not in known]
        lines += [_words(" ".join(said), most=_MOST_SENTENCE)] if hint.text in said else []
    lines.append(_facts(run))
    is_bad = run.state in (RunState.FAILED, RunState.CRASHED)
    commands = [f"launch-worker show {run.id}", f"launch-worker logs {run.id}"]
    if is_over and run.state is not RunState.FINISHED:
        commands.append(f"launch-worker retry {run.id}")
    return Text(
        what,
        name,
        _ended(f"{name} {verb}{took}{where}" + (f": {reason}" if reason else "")),
        tuple(lines),
        last_lines(message.output) if has_output and is_bad else (),
        tuple(commands),
        page_of(message, server_url),
    )


def _facts(run: Record) -> str:
    facts = [
        f"run {run.id}",
        f"queue {run.queue}" if run.queue else "",
        f"project {run.project}" if run.project else "",
    ]
    if run.attempt > 1:
        facts.append(f"attempt {run.attempt}")
    if by := run.user or run.author:
        facts.append(f"by {by}")
    if group := run.group:
        facts.append(f"of {group}")
    return _words(humane.sentence(", ".join(filter(None, facts))))


def _of_group(message: Message, ended: Ended, server_url: str) -> Text:
    group = ended.group
    name = _words(group.name) or group.id
    kind = {"bulk": "bulk submission"}.get(group.kind, group.kind)
    if message.type == GROUP_FAILING:
        what, sentence = "Failing", f"The first run of the {kind} {name} has failed: {counted(group)}."
    elif message.type == GROUP_HALTED:
        what, sentence = "Halted", f"The {kind} {name} is {words_for_halt(group)}: {counted(group)}."
    else:
        what = "Finished" if group.end == "Finished" else "Ended"
        halted = f", {words_for_halt(group)}" if group.halted else ""
        sentence = f"The {kind} {name} has ended{halted}: {counted(group)}."
    lines = []
    if ended.best is not None:
        best = ended.best
        lines.append(
            f"The best {_words(best.metric)} is {humane.figure(best.value)}: {_words(best.run.name)} ({best.run.id})."
        )
    shown = ended.failed[:MOST_RUNS]
    if shown:
        lines.append("Its first runs that did not finish:")
        lines += [f"  {_words(run.name)} ({run.id}), {run.state.value}: {_words(run.reason)}" for run in shown]
    commands = [f"launch-worker {'sweep status' if group.kind == 'sweep' else 'show'} {group.id}"]
    if shown:
        commands.append(f"launch-worker logs {shown[0].id}")
        if group.kind != "sweep" and group.is_over:
            commands.append(f"launch-worker retry --failed {group.id}")
    return Text(what, name, sentence, tuple(lines), (), tuple(commands), page_of(message, server_url))


def counted(group: GroupRecord) -> str:
    """The runs of a group by how they ended: `98 of 100 runs finished, 2 failed`."""
    words = {
        "Failed": "failed",
        "Crashed": "crashed",
        "Killed": "were killed",
        NEVER: "never ran",
        "Running": "run",
        "Pending": "wait",
    }
    said = [f"{humane.count(group.counts.get('Finished', 0))} of {humane.plural(group.size, 'run')} finished"]
    said += [f"{humane.count(group.counts[kind])} {word}" for kind, word in words.items() if group.counts.get(kind)]
    return ", ".join(said)


def _of_alarm(message: Message, alarm: Alarm, server_url: str) -> Text:
    commands = (clean(alarm.command),) if alarm.command else ()
    lines = (
        f"It is so since {isoformat(alarm.since)}; the rule {_words(alarm.rule)} tells it once, until it is over.",
    )
    sentence = _words(alarm.sentence, most=_MOST_SENTENCE)
    return Text("Alarm", _words(alarm.rule), sentence, lines, (), commands, page_of(message, server_url))


def _of_digest(message: Message, server_url: str) -> Text:
    texts = [text_of(part) for part in message.parts]
    counts = Counter(text.what for text in texts)
    by_kind = ", ".join(f"{humane.count(count)} {what.lower()}" for what, count in counts.most_common())
    lines = [f"- {text.sentence}" for text in texts[:MOST_PARTS]]
    if left_out := len(texts) - len(lines):
        lines.append(f"… and {humane.plural(left_out, 'more notice')}.")
    number = humane.plural(len(texts), "notice")
    return Text(
        "Digest",
        number,
        f"{number} of the quiet hours: {by_kind}.",
        tuple(lines),
        url=page_of(message, server_url),
    )


def _words(text: str, *, most: int = _MOST_WORDS) -> str:
    """Others' text as a part of a sentence."""
    return _bounded(clean(" ".join(text.split())), most)


def _ended(text: str) -> str:
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."


def _sound(text: str) -> str:
    """The text without half characters."""
    return text.encode(errors="replace").decode()


def _bounded(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
