"""Serves the form by which a run is submitted, beside the command that does the same."""

from __future__ import annotations

import hashlib
import json
import secrets
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from launch_worker.errors import InputError, NotAllowedError
from launch_worker.model import readers
from launch_worker.model.masking import MASK, mask_env
from launch_worker.model.options import CODE, CONTAINERS, LABELS, LIMITS, MANY, NEEDS, ONCE, OTHERS, TIMES, TOLD, Option
from launch_worker.model.run import Record
from launch_worker.model.spec import make_spec
from launch_worker.people.roles import Act
from launch_worker.server.asker import Asker, acting, allowed
from launch_worker.server.forms import Form, FormHere
from launch_worker.server.pages.shown import show, status_of
from launch_worker.server.routes.submit import named_by_hash
from launch_worker.server.served import Served
from launch_worker.server.shared import Shared, SharedHere
from launch_worker.submission.array import parse_env, parse_values
from launch_worker.submission.command_line import command_parts, option_text, options_of_spec, value_text
from launch_worker.submission.options import Item, read_options
from launch_worker.untrusted.text import read_map

router = APIRouter(include_in_schema=False)
Filling = Annotated[Asker, allowed(Act.SUBMIT)]

#: Names of the fields that people use most, in their order; all others are below.
FIRST = ("command", "queue", "name", "project", "tags", "image", "gpus", "cpus", "memory", "timeout", "retries")
SECOND = ("priority", "env", "config")
#: Fields that no form can have: a folder of the person's machine.
_NOT_HERE = frozenset({"upload"})
#: Options of many short words, which stand on one line with commas.
_ON_A_LINE = frozenset({"tags", "env_from", "after", "notify", "inputs", "outputs"})
#: Fields of the form that are no options.
_FROM, _KEPT, _ONCE = "from", "keep_env", "form"
_OPTIONS = {
    option.name: option for option in (*LABELS, *CODE, *CONTAINERS, *NEEDS, *LIMITS, *TOLD, *TIMES, *MANY, *ONCE)
}
_COMMAND = next(option for option in OTHERS if option.name == "command")
#: Groups of the fields that stand below.
_GROUPS = (
    ("Labels and code", (*LABELS, *CODE)),
    ("Container", CONTAINERS),
    ("Limits and retries", (*NEEDS, *LIMITS, *TOLD)),
    ("When it starts", (*TIMES, *MANY, *ONCE)),
)


class Field(NamedTuple):
    """A field of the form."""

    name: str
    #: One of text, number, choice, check, lines.
    kind: str
    label: str
    hint: str
    text: str = ""
    problem: str = ""
    choices: tuple[str, ...] = ()
    #: What the field has, where it is empty.
    usual: str = ""


@dataclass
class Said:
    """What somebody said in the form: texts by field, and what they mean."""

    texts: dict[str, str]
    #: Options as `read_options` takes them.
    options: dict[str, Any] = field(default_factory=dict)
    #: Sentence for a field, '' for the form as a whole.
    problems: dict[str, str] = field(default_factory=dict)
    #: Names of variables whose values are taken from the run that the form began with.
    kept: tuple[str, ...] = ()
    origin: Origin | None = None


@dataclass(frozen=True)
class Origin:
    """The run with which a form begins."""

    record: Record
    #: Its options, without the values of secret variables.
    options: Mapping[str, Any]
    #: Variables whose values the form does not show.
    hidden: tuple[str, ...]
    #: Whether their values may be taken over: they are the person's own.
    is_own: bool

    @classmethod
    def of(cls, served: Served, asker: Asker, run_id: str) -> Origin:
        """The run. Raises UnknownRunError, InputError for a spec that nobody can read."""
        record = Record.from_json(served.shown(run_id))
        options = options_of_spec(record.spec)
        # What it waited for has ended, and one of an array goes alone.
        options.pop("after", None)
        options.pop("array", None)
        shown = mask_env(options.get("env") or {})
        # A value of several lines has no place in the form.
        hidden = tuple(name for name, value in shown.items() if value == MASK or "\n" in value)
        options["env"] = {name: value for name, value in shown.items() if name not in hidden}
        is_own = asker.person.how == "loopback" or record.user == asker.person.name
        return cls(record, options, hidden, is_own)

    def values(self, served: Served, names: Iterable[str]) -> dict[str, str]:
        """The values of these hidden variables; none of a run that is somebody else's, or is not in Redis any more."""
        if not self.is_own:
            return {}
        spec = read_map(served.record(self.record.id).spec)
        env = spec.get("env")
        known = env if isinstance(env, dict) else {}
        return {name: known[name] for name in names if name in self.hidden and name in known}


@router.get("/submit")
def submit_page(request: Request, shared: SharedHere, asker: Filling) -> Response:
    """The form: empty, or with the options of a run (`from`) and of the query."""
    served = Served(shared, asker)
    query = dict(request.query_params)
    origin = Origin.of(served, asker, query[_FROM]) if query.get(_FROM) else None
    texts = _texts_of(origin.options if origin else {})
    texts |= {name: text for name, text in query.items() if name in _OPTIONS or name == "command"}
    kept = origin.hidden if origin is not None and origin.is_own else ()
    said = _read(texts, kept, origin)
    # An empty form is not wrong yet.
    said.problems.clear()
    return _show(request, shared, asker, said)


@router.post("/submit/command")
def show_command(request: Request, form: FormHere, shared: SharedHere, asker: Filling) -> Response:
    """The same form with the command that says the same, and nothing submitted."""
    said = _said(form, Served(shared, asker), asker)
    return _show(request, shared, asker, said)


@router.post("/submit")
def submit_by_form(
    request: Request,
    form: FormHere,
    shared: SharedHere,
    asker: Annotated[Asker, acting(Act.SUBMIT, what="submit", kind="run", is_named_late=True)],
) -> Response:
    """Submit the run, and lead to its page; or say beside each field what is wrong with it."""
    served = Served(shared, asker)
    said = _said(form, served, asker)
    if not said.problems:
        try:
            item = _item(said, served, once=form.text(_ONCE))
            sent = [one for one, _ in served.send_items([item])]
            return RedirectResponse(f"/runs/{sent[0].id}", 303)
        except (InputError, NotAllowedError) as error:
            said.problems[_place_of(said.options, error)] = str(error)
    return _show(request, shared, asker, said, code=422)


# -- what was said -----------------------------------------------------------------------------------------------------


def _said(form: Form, served: Served, asker: Asker) -> Said:
    origin = Origin.of(served, asker, form.text(_FROM)) if form.text(_FROM) else None
    texts = {name: form.text(name) for name in ("command", *_OPTIONS) if form.text(name)}
    kept = tuple(name for name in form.texts(_KEPT) if origin is not None and name in origin.hidden and origin.is_own)
    said = _read(texts, kept, origin)
    if origin is not None and (names := origin.options.get("secrets")):
        said.problems[""] = (
            f"the run that this form began with has secrets ({', '.join(names)}), whose values nobody can read; submit "
            "it where they are set, by the command beside this form"
        )
    if not said.problems:
        try:
            _check(said.options)
        except InputError as error:
            said.problems[_place_of(said.options, error)] = str(error)
    return said


def _read(texts: Mapping[str, str], kept: tuple[str, ...], origin: Origin | None) -> Said:
    """The options that the texts of the fields mean, and what is wrong with each."""
    said = Said(dict(texts), kept=kept, origin=origin)
    for name in ("command", *_OPTIONS):
        if not (text := texts.get(name, "")) or name in _NOT_HERE:
            continue
        option = _COMMAND if name == "command" else _OPTIONS[name]
        try:
            value = _value(option, text)
            read = option.reader(name, value)
            if option.check is not None:
                option.check(read)
            said.options[name] = value
        except InputError as error:
            said.problems[name] = str(error)
    if origin is not None and "upload" in origin.options:
        said.options["upload"] = origin.options["upload"]
    if origin is not None and said.options.get("requirements", "") in origin.options.get("requirements_files", ()):
        said.options["requirements_files"] = origin.options["requirements_files"]
    return said


def _value(option: Option, text: str) -> Any:
    """The value that a field's text means. Raises InputError."""
    reader, name = option.reader, option.name.replace("_", " ")
    if reader is readers.command:
        try:
            return shlex.split(text)
        except ValueError:
            raise InputError("the command has a quote that is not closed; close it, or write \\ before it") from None
    if reader in (readers.truth, readers.negation):
        return True
    if reader is readers.whole:
        return _as_number(int, text, f"{name} must be a whole number, not {text[:40]!r}")
    if reader is readers.number:
        return _as_number(float, text, f"{name} must be a number, not {text[:40]!r}")
    if option.name in _ON_A_LINE:
        return [word.strip() for word in text.replace("\n", ",").split(",") if word.strip()]
    lines = [line for line in text.replace("\r\n", "\n").split("\n") if line.strip()]
    if reader is readers.env:
        return parse_env(lines)
    if reader is readers.mapping:
        return parse_values(lines, option=option.spellings[-1])
    return lines if option.is_repeated else text


def _as_number(kind: Callable[[str], Any], text: str, refusal: str) -> Any:
    try:
        return kind(text)
    except (ValueError, OverflowError):
        raise InputError(refusal) from None


def _item(said: Said, served: Served, *, once: str) -> Item:
    """What is submitted. A form that is sent twice submits one run."""
    options = dict(said.options)
    if said.kept and said.origin is not None:
        options["env"] = said.origin.values(served, said.kept) | options.get("env", {})
    item = named_by_hash(read_options(options))
    if once and not (item.unique or item.run_id):
        # Another run than the one before, where something was changed.
        text = json.dumps([once, options], sort_keys=True)
        item.unique = hashlib.sha256(text.encode()).hexdigest()
    return item


def _check(options: Mapping[str, Any]) -> None:
    """Raises InputError for options that do not go together."""
    item = named_by_hash(read_options(options))
    make_spec({"command": ()} | item.given)


def _place_of(options: Mapping[str, Any], error: Exception) -> str:
    """The field to which an error belongs: without its text there is none, or another one; '' for the whole form."""
    for name in options:
        if name == "command":
            continue
        try:
            _check({other: value for other, value in options.items() if other != name})
        except InputError as other_error:
            if str(other_error) == str(error):
                continue
        else:
            if not _fails_alone(options):
                break
        return name
    words = str(error)
    if "command" in words or "argument" in words:
        return "command"
    return next((name for name in options if f"{name} " in words or f"{name!r}" in words), "")


def _fails_alone(options: Mapping[str, Any]) -> bool:
    """Whether the options are wrong by themselves, and not by what the system has."""
    try:
        _check(options)
    except InputError:
        return True
    return False


# -- the form ----------------------------------------------------------------------------------------------------------


def _texts_of(options: Mapping[str, Any]) -> dict[str, str]:
    """The texts with which the fields of these options are filled."""
    texts = {"command": shlex.join(options["command"])} if options.get("command") else {}
    for name, option in _OPTIONS.items():
        if name not in options or name in _NOT_HERE:
            continue
        value = options[name]
        if option.reader in (readers.truth, readers.negation):
            texts[name] = "1" if value else ""
        elif option.reader is readers.env:
            texts[name] = "\n".join(f"{key}={entry}" for key, entry in value.items())
        elif option.reader is readers.mapping:
            texts[name] = "\n".join(f"{key}={value_text(entry)}" for key, entry in value.items())
        elif option.is_repeated:
            words = [value] if isinstance(value, str) else value
            texts[name] = (", " if name in _ON_A_LINE else "\n").join(words)
        else:
            texts[name] = option_text(option, value)
    return {name: text for name, text in texts.items() if text}


def _show(request: Request, shared: Shared, asker: Asker, said: Said, *, code: int = 200) -> Response:
    origin = said.origin
    hidden = () if origin is None else origin.hidden
    shown = dict(said.options)
    if said.kept:
        shown["env"] = dict.fromkeys(said.kept, MASK) | shown.get("env", {})
    unsaid = {name for name, value in mask_env(shown.get("env", {})).items() if value == MASK}
    if "upload" in shown:
        shown["upload"] = "."
    if origin is not None and "secrets" in origin.options:
        shown["secrets"] = origin.options["secrets"]
    fields = {option.name: _field(option, said) for option in (_COMMAND, *_OPTIONS.values())}
    more = [
        (title, [fields[option.name] for option in options if option.name not in (*FIRST, *SECOND, *_NOT_HERE)])
        for title, options in _GROUPS
    ]
    return show(
        request,
        shared,
        asker,
        "submit",
        code=code,
        first=[fields[name] for name in (*FIRST, *SECOND)],
        more=more,
        is_more_open=any(one.text or one.problem for _, group in more for one in group),
        problems=said.problems,
        wrong=[one for one in fields.values() if one.problem],
        command=command_parts(shown, secrets=unsaid),
        origin=None if origin is None else {"id": origin.record.id, "name": origin.record.name},
        hidden=hidden,
        kept=said.kept,
        is_own=origin is None or origin.is_own,
        has_upload="upload" in said.options,
        queues=[queue["name"] for queue in status_of(shared, asker)["queues"]],
        projects=sorted(asker.person.projects),
        once=secrets.token_hex(8),
    )


def _field(option: Option, said: Said) -> Field:
    name, reader = option.name, option.reader
    kind = "text"
    if option.choices:
        kind = "choice"
    elif reader in (readers.truth, readers.negation):
        kind = "check"
    elif reader in (readers.whole, readers.number):
        kind = "number"
    elif reader is readers.command or (option.is_repeated and name not in _ON_A_LINE):
        kind = "lines"
    return Field(
        name,
        kind,
        _LABELS.get(name, name.replace("_", " ").capitalize()),
        _hint(option),
        said.texts.get(name, ""),
        said.problems.get(name, ""),
        option.choices,
        option.usual,
    )


#: Labels that are not the option's name.
_LABELS = {
    "gpus": "GPUs",
    "cpus": "Cores",
    "env": "Environment",
    "env_from": "From the worker",
    "values": "Template values",
    "uri": "Git URL",
    "cwd": "Folder",
    "timeout": "Time limit",
    "pids_limit": "Processes",
    "tmpfs": "tmpfs",
    "id": "Run id",
}


#: Hints that are not the option's help: what holds for a command line alone.
_HINTS = {
    "command": "Words as in a shell, quotes too; without pipes and variables, for which it is bash -c '…'.",
    "project": "The run's project.",
    "cwd": "The job's folder on the worker, or in its code.",
    "image": "Run in a container of this image; the command's words are its arguments.",
}


def _hint(option: Option) -> str:
    said = _HINTS.get(option.name, option.help)
    if option.name in _ON_A_LINE:
        return f"{said} Several with commas between them."
    if option.is_repeated:
        return f"{said} {option.unit or 'One'}, a line each."
    return said
