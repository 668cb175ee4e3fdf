"""The options of a run, one row each: its reader, its check, the places where it may be said, and its help.

All places read this table: lines of a file of runs and Python (`submission/options`), the command line
(`cli/submit_options`), defaults of queues and pools (`queues/defaults`), the checks of a `RunSpec` (`model/spec`), what
`launch-worker show` prints, and the table of docs/reference/submit.md. Only `RunSpec` itself and the signature of
`api.submit` are written by hand, and compared with it by a test.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from launch_worker.model import readers as read
from launch_worker.model.checks import (
    KEY,
    KEY_RULE,
    MAX_GPUS,
    MAX_LIMIT,
    MAX_RETRIES,
    NAME,
    NAME_RULE,
    PRIORITIES,
    PROJECT,
    PROJECT_RULE,
    PYTHON_NAME,
    PYTHON_RULE,
    STOP_SCOPES,
    Label,
    Seconds,
    Whole,
    check_after,
    check_config,
    check_on_timeout,
    check_priority,
    check_queue_name,
    check_requirements,
    check_retry,
    check_retry_on,
    check_scheduler,
    check_signal,
    check_signal_ahead,
    check_stop_scope,
    check_tags,
    check_values,
)
from launch_worker.model.inputs import check_inputs
from launch_worker.model.notify import check_notify
from launch_worker.model.outputs import check_outputs

#: Places where an option may be said: a line of a file of runs, `api.submit`, `launch-submit`, a queue's defaults.
LINE, PYTHON, COMMAND_LINE, DEFAULT = "line", "Python", "command line", "default"
EVERYWHERE = frozenset({LINE, PYTHON, COMMAND_LINE, DEFAULT})
#: Places of an option that each run has for itself.
AT_SUBMIT = EVERYWHERE - {DEFAULT}
#: Places of an option that `api.submit` has no argument for: its `container` has all settings, and it makes one run.
ONE_BY_ONE = frozenset({LINE, COMMAND_LINE})

#: Owners of an option's value: an argument of RunSpec, a key of its `container`, a field of a submitted Item.
SPEC, CONTAINER, ITEM = "spec", "container", "item"


class Option(NamedTuple):
    """One option of a run."""

    #: Name in a line, in Python, and among the defaults. The command line has dashes for the underscores.
    name: str
    reader: read.Reader
    help: str = ""
    #: Kind of its value in a word for people: DUR, SIZE, N.
    unit: str = ""
    #: Default of a run whose queue has none, where --help shows it.
    usual: str = ""
    #: Texts that are allowed; () for any.
    choices: tuple[str, ...] = ()
    #: Name in its owner, where that is neither `name` nor, for a duration, `name` with its unit.
    kept_as: str = ""
    owner: str = SPEC
    #: Check of its value by itself. RunSpec checks values that depend on each other.
    check: Callable[[Any], None] | None = None
    places: frozenset[str] = EVERYWHERE
    #: Words of the command line in place of `--name`.
    words: tuple[str, ...] = ()
    #: Further names in a line and in Python.
    aliases: tuple[str, ...] = ()
    #: Whether a schedule's runs may have it, each the same.
    is_recurring: bool = True

    @property
    def field(self) -> str:
        """The name in its owner: a duration's has its unit."""
        return self.kept_as or (f"{self.name}_s" if self.reader is read.duration else self.name)

    @property
    def spellings(self) -> tuple[str, ...]:
        """Its words on the command line."""
        return self.words or (f"--{self.name.replace('_', '-')}",)

    @property
    def is_repeated(self) -> bool:
        """Whether the command line may have it several times, one entry of its value each time."""
        return self.reader in _OF_ENTRIES

    @property
    def explanation(self) -> str:
        """The help, with a note where the command line may have it several times."""
        is_typed = COMMAND_LINE in self.places
        return f"{self.help[:-1]}; may be repeated." if is_typed and self.is_repeated else self.help


_OF_ENTRIES = (read.texts, read.text_list, read.mapping, read.env, read.secrets)
#: An option that is a setting of the run's container.
_setting = partial(Option, owner=CONTAINER, places=ONE_BY_ONE)
#: An option of one submission, which its run does not keep.
_once = partial(Option, owner=ITEM, places=AT_SUBMIT, is_recurring=False)


LABELS = (
    Option(
        "queue",
        read.text,
        "The queue that shall run it.",
        usual="default",
        check=check_queue_name,
        words=("-q", "--queue"),
        places=AT_SUBMIT,
    ),
    Option(
        "name",
        read.text,
        "The run's name (default: the program or script).",
        check=Label("name", NAME, NAME_RULE),
        places=AT_SUBMIT,
    ),
    Option(
        "project",
        read.text,
        "The run's project (default: LAUNCH_PROJECT).",
        "ENTITY/PROJECT",
        check=Label("project", PROJECT, PROJECT_RULE),
    ),
    Option("tags", read.texts, "A label.", check=check_tags, words=("--tag",), aliases=("tag",)),
    Option(
        "priority",
        read.text,
        "Its place in the queue.",
        usual="medium",
        choices=tuple(PRIORITIES),
        check=check_priority,
    ),
)
CODE = (
    Option("env", read.env, "An environment variable.", "K=V", words=("-e", "--env")),
    Option("env_from", read.texts, "A variable of the worker's own, for secrets.", "NAME"),
    Option(
        "values",
        read.mapping,
        "A value for the queue's templates and ${K}, JSON or text.",
        "K=V",
        check=check_values,
        words=("--set",),
        aliases=("set",),
    ),
    Option(
        "config",
        read.mapping,
        "A hyperparameter of the job, JSON or text.",
        "K=V",
        check=check_config,
        places=AT_SUBMIT,
    ),
    Option("cwd", read.path, "Its folder there, or in its code (default: this one).", "DIR"),
    Option("uri", read.text, "Run in this code: a branch, tag or commit.", "GIT_URL[@REF]", places=AT_SUBMIT),
    Option(
        "upload",
        read.text,
        "Run in this code: a folder of this machine.",
        "DIR",
        owner=ITEM,
        places=AT_SUBMIT,
    ),
    Option(
        "outputs",
        read.texts,
        "Files of LAUNCH_OUTPUT_DIR to keep (usual: all).",
        "PATTERN",
        check=check_outputs,
        words=("--output",),
        aliases=("output",),
    ),
    Option(
        "inputs",
        read.texts,
        "Give it what another run has put out, in LAUNCH_INPUT_DIR, once that run has ended well.",
        "RUN:PATH[:DEST]",
        check=check_inputs,
        words=("--input",),
        aliases=("input",),
        places=AT_SUBMIT,
    ),
    Option(
        "requirements",
        read.text,
        "Its Python packages: a file of its code, or auto.",
        "FILE",
        check=check_requirements,
    ),
    Option(
        "python",
        read.text,
        "The Python of its environment: 3.12.",
        "VERSION",
        check=Label("python", PYTHON_NAME, PYTHON_RULE),
    ),
)
CONTAINERS = (
    Option("image", read.text, "Run in a container of this image.", "IMG"),
    _setting("entrypoint", read.text, "Program in place of the image's entry point.", "PROGRAM"),
    _setting("pull", read.text, "When to pull the image.", choices=("missing", "always", "never")),
    _setting(
        "mount",
        read.text_list,
        "A volume, or a folder that the queue allows.",
        "SRC:DST[:ro]",
        kept_as="mounts",
        aliases=("mounts",),
    ),
    _setting("tmpfs", read.text_list, "A folder of the container that is in memory.", "DST"),
    _setting("network", read.text, "Its network: bridge (the default) or none.", "NET"),
    _setting("user", read.text, "The user in the container (default: the image's).", "USER[:GROUP]"),
    _setting("read_only", read.truth, "Its root file system cannot be written to."),
    _setting("pids_limit", read.whole, "Most processes in the container.", "N"),
    _setting("shm_size", read.text, "Size of /dev/shm in the container.", "SIZE"),
    _setting("no_init", read.negation, "No init process: the program is process 1.", kept_as="init"),
)
NEEDS = (
    Option("gpus", read.whole, "Whole GPUs, for it alone.", "N", check=Whole("gpus", 0, MAX_GPUS)),
    Option("memory", read.sizes, "Memory it needs (a container's limit): 2G, or 8G..64G.", "SIZE"),
    Option("cpus", read.number, "Cores that it needs, and a container may use.", "X"),
)
LIMITS = (
    Option("timeout", read.duration, "Wall limit: 90, 90s, 5m, 2h, 3d.", "DUR", check=Seconds("timeout")),
    Option("start_timeout", read.duration, "Limit to reach a process.", "DUR", "30m", check=Seconds("start timeout")),
    Option(
        "stall_timeout",
        read.duration,
        "Limit without output, or a word to the worker.",
        "DUR",
        check=Seconds("stall timeout"),
    ),
    Option(
        "grace", read.duration, "Time from SIGTERM to SIGKILL.", "DUR", "10s", check=Seconds("grace", may_be_0=True)
    ),
    Option("stop_signal", read.signal, "Signal that asks it to end (default: TERM).", "SIGNAL", check=check_signal),
    Option(
        "stop_scope",
        read.text,
        "Who of it is asked to end (default: all)",
        choices=STOP_SCOPES,
        check=check_stop_scope,
    ),
    Option(
        "signal",
        read.signal_ahead,
        "Signal to it ahead of its end, as USR1@120.",
        "SIGNAL[@DUR]",
        check=check_signal_ahead,
    ),
    Option(
        "on_timeout",
        read.text,
        "At its limit: fail (default), requeue or requeue:N.",
        "THEN",
        check=check_on_timeout,
    ),
    Option(
        "max_fails",
        read.whole,
        "After N failed runs of its group start no more.",
        "N",
        check=Whole("max fails", 1, MAX_LIMIT),
    ),
    Option("retries", read.whole, "New attempts when it fails.", "N", "0", check=Whole("retries", 0, MAX_RETRIES)),
    Option(
        "retry_delay",
        read.duration,
        "Time before each new attempt.",
        "DUR",
        "0",
        check=Seconds("retry delay", may_be_0=True),
    ),
    Option("retry_on", read.words, "Ends that are tried again.", "WHEN", "failed,crashed", check=check_retry_on),
    Option("retry", read.rules, "Only these ends: oom=3,137=2,start=5:30s..10m.", "RULES", check=check_retry),
    Option("not_on_same_worker", read.truth, "Try again on another worker, while there is one."),
    Option(
        "max_preemptions",
        read.whole,
        "Preemptions after which it Failed.",
        "N",
        "5",
        check=Whole("max preemptions", 0, MAX_RETRIES),
    ),
    Option(
        "preempt_exit_code",
        read.whole,
        "Exit code that asks to run again.",
        "N",
        "85",
        check=Whole("the exit code of a preempted job", 1, 255),
    ),
    Option(
        "checkpoint_every",
        read.duration,
        "Keep what is in LAUNCH_CHECKPOINT_DIR so often, for its next attempt.",
        "DUR",
        check=Seconds("checkpoint interval"),
    ),
)
TOLD = (
    Option(
        "notify",
        read.texts,
        "Tell this channel of its end, or of failed, running and others joined with +.",
        "CHANNEL[:STATES]",
        check=check_notify,
    ),
)
TIMES = (
    _once(
        "at",
        read.time,
        "Start not before 14:30, or 2030-01-31T14:30+02:00.",
        "TIME",
        kept_as="at_us",
    ),
    _once("delay", read.duration, "Start not before this time has passed.", "DUR"),
    Option(
        "expires",
        read.duration,
        "Killed if it has not started within this time.",
        "DUR",
        check=Seconds("expiry"),
    ),
    Option(
        "after",
        read.texts,
        "Start once this run or group has ended so: (ok) any failed.",
        "RUN[:HOW]",
        check=check_after,
        places=AT_SUBMIT,
        is_recurring=False,
    ),
    Option(
        "concurrency_key",
        read.text,
        "Of the runs with this key only some run at once.",
        "KEY",
        check=Label("concurrency key", KEY, KEY_RULE),
    ),
    Option(
        "limit_key",
        read.whole,
        "Most runs at once with that key.",
        "N",
        "1",
        check=Whole("the limit of a concurrency key", 1, MAX_LIMIT),
    ),
)
MANY = (
    Option(
        "array",
        read.text,
        "A run for each: 0-99, 1,3-7, 0-9:2; N at once.",
        "LIST[%N]",
        owner=ITEM,
        places=ONE_BY_ONE,
        is_recurring=False,
    ),
)
SECRETS = (
    _once(
        "secrets",
        read.secrets,
        "A variable of this environment that only the job's worker can read; NAME=@FILE, NAME=- for standard input.",
        "NAME",
        words=("--secret",),
        aliases=("secret",),
    ),
)
ONCE = (
    _once(
        "unique",
        read.unique,
        "Once only: name the run that you submitted with this key.",
        "KEY[:TIME]",
    ),
    _once(
        "id",
        read.run_id,
        "Once only, by the run's id: 15 characters, as all ids.",
        "ID",
        kept_as="run_id",
        aliases=("run_id",),
    ),
)
#: Options that the command line says in another way: its arguments, the single settings, or a default's `cwd` itself.
OTHERS = (
    Option("command", read.command, "The program and its arguments, a list.", places=frozenset({LINE, PYTHON})),
    Option("container", read.mapping, "Settings of the container, a map.", places=frozenset({LINE, PYTHON, DEFAULT})),
    Option("requirements_files", read.mapping, "Content of the requirements, by path.", places=frozenset({LINE})),
    Option("cwd_required", read.truth, "Whether the worker must have the folder `cwd`.", places=frozenset({DEFAULT})),
)

OPTIONS = (*LABELS, *CODE, *SECRETS, *CONTAINERS, *NEEDS, *LIMITS, *TOLD, *TIMES, *MANY, *ONCE, *OTHERS)

#: Checks of a RunSpec's fields, each of one value by itself: of its options, and of what the system says of a run.
CHECKS: dict[str, Callable[[Any], None]] = {
    **{option.field: option.check for option in OPTIONS if option.check is not None},
    "author": Label("author", NAME, NAME_RULE),
    "array": Label("array", KEY, KEY_RULE),
    "array_index": Whole("the index of an array", 0, MAX_LIMIT),
    "array_limit": Whole("the limit of an array", 1, MAX_LIMIT),
    "sweep": Label("sweep", KEY, KEY_RULE),
    "sweep_index": Whole("the index in a sweep", 0, MAX_LIMIT * 1000),
    "scheduler": check_scheduler,
}
