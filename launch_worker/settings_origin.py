"""Says which settings hold and from where each comes, and which variables are wrong or unknown; secrets are masked."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from launch_worker.dev_folder import dev_folder, living_redis_url
from launch_worker.errors import SettingsError
from launch_worker.model.units import format_duration, format_size
from launch_worker.redis_url import mask_url
from launch_worker.saved_login import login_file
from launch_worker.settings import DEFAULT_REDIS_URL, Settings, variable_of
from launch_worker.untrusted.ownership import read_ours

#: Variables that jobs have, as commands in a job do; and the beginning of a worker's options.
VARIABLES_OF_JOBS = frozenset(
    f"LAUNCH_{name}"
    for name in (
        *("RUN_ID", "ATTEMPT", "QUEUE", "NAME", "CONFIG", "RUN_DIR", "SWEEP_ID", "TOKEN", "ARRAY_ID", "ARRAY_INDEX"),
        *("SCHEDULED_AT", "DEADLINE", "OUTPUT_DIR", "CHECKPOINT_DIR", "INPUT_DIR", "RESUMED"),
    )
)
_OF_WORKERS = "LAUNCH_AGENT_"
_SECRETS = frozenset({"api_token", "oidc_client_secret"})
_MASK = "********"
_DEFAULT = "default"


@dataclass(frozen=True)
class Origin:
    """One setting: its value, and from where that comes."""

    #: Environment variable that sets it.
    variable: str
    #: Value for people and JSON, secrets masked; '' for none.
    value: str
    source: str
    is_default: bool = False


@dataclass(frozen=True)
class Trouble:
    """A variable that is wrong or unknown, and what to do."""

    variable: str
    cause: str
    #: Whether nothing starts with it.
    is_wrong: bool = True


@dataclass(frozen=True)
class Configuration:
    """All settings of commands and workers that are started here."""

    #: URL of the server or Redis on which commands work, masked, and from where that comes.
    works_on: str
    works_on_source: str
    is_server: bool
    settings: tuple[Origin, ...]
    troubles: tuple[Trouble, ...] = ()
    #: Path of the celeryconfig that a worker started here would read, and the settings in it; '' for none.
    celeryconfig: str = ""
    celery: Mapping[str, str] = ()  # type: ignore[assignment]

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"celery": dict(self.celery)}


def configuration(
    env: Mapping[str, str], *, url: str | None = None, folder: Path, options: Collection[str] = ()
) -> Configuration:
    """What holds in this environment; `url` is that of `--api`, `folder` the one in which a worker would be started.

    `options` are the names of a worker's own options, which LAUNCH_AGENT_… sets.
    """
    of_workers = {f"{_OF_WORKERS}{name.upper()}" for name in options}
    troubles = tuple(_troubles(env, url, of_workers))
    # A wrong variable keeps all programs from starting; the others are shown without it.
    wrong = {trouble.variable for trouble in troubles if trouble.is_wrong}
    sound = {name: value for name, value in env.items() if name not in wrong}
    given = None if "--api" in wrong else url
    client = Settings.of_client(sound, url=given)
    settings = Settings.from_env(sound, redis_url=given if given and not client.api_url else None)
    path, celery = _celeryconfig(sound, folder)
    shown = client.api_url or mask_url(client.redis_url)
    source = _source_of_way(sound, given)
    origins = (
        *_origins(settings, client, sound, given),
        *(Origin(name, sound[name], name) for name in sorted(sound) if name in of_workers),
    )
    return Configuration(shown, source, bool(client.api_url), origins, troubles, path, celery)


def _source_of_way(env: Mapping[str, str], url: str | None) -> str:
    """From where the way comes by which commands work: the order is that of `Settings.of_client`."""
    if url:
        return "--api"
    for name in ("LAUNCH_API_URL", "LAUNCH_REDIS_URL"):
        if env.get(name):
            return name
    if living_redis_url(env):
        return _dev(env)
    return _login(env) if Settings.of_client(env).api_url else _DEFAULT


def _dev(env: Mapping[str, str]) -> str:
    return f"your dev, {dev_folder(env)}"


def _login(env: Mapping[str, str]) -> str:
    return f"your login, {login_file(env)}"


def _origins(settings: Settings, client: Settings, env: Mapping[str, str], url: str | None) -> Iterator[Origin]:
    places = {name: env.get(name, "") for name in ("HOME", "XDG_STATE_HOME")}
    # Without the URL a dev would be looked for.
    default = Settings.from_env(places, redis_url=DEFAULT_REDIS_URL)
    for of in fields(Settings):
        name, variable = of.name, variable_of(of.name)
        value = getattr(client if name in ("api_url", "api_token") else settings, name)
        source = variable if env.get(variable) else ""
        if name == "redis_url":
            source = "--api" if url and not client.api_url else source or (_dev(env) if living_redis_url(env) else "")
        elif name == "api_url" and value:
            source = _source_of_way(env, url)
        elif name == "api_token" and value and not source:
            source = _login(env)
        elif name == "allow_root" and value and not source:
            source = "C_FORCE_ROOT"
        elif not source and value != getattr(default, name):
            # A dev's own, or what follows from another setting.
            source = _dev(env) if name in ("log_url", "output_url", "database_url") else "LAUNCH_LOG_BYTES"
        yield Origin(variable, _text(name, value), source or _DEFAULT, not source)


def _text(name: str, value: Any) -> str:
    """The value as people would write it into the variable."""
    if name in _SECRETS:
        return _MASK if value else ""
    if isinstance(value, bool):
        return str(int(value))
    if value is None or value == "":
        return ""
    if name == "health_address":
        return f"{value[0]}:{value[1]}"
    if isinstance(value, tuple):
        return ",".join(value)
    if name.endswith("_url"):
        return mask_url(str(value))
    if name.endswith("_s"):
        return format_duration(value).replace(" ", "")
    return format_size(value) if name.endswith("_bytes") else str(value)


# -- wrong and unknown variables ---------------------------------------------------------------------------------------


def _troubles(env: Mapping[str, str], url: str | None, of_workers: set[str]) -> Iterator[Trouble]:
    known = {variable_of(of.name) for of in fields(Settings)}
    found = set()
    for name in sorted(env):
        if not name.startswith("LAUNCH_") or name in VARIABLES_OF_JOBS or name in of_workers:
            continue
        if name not in known:
            close = _did_you_mean(name, known | of_workers)
            yield Trouble(name, f"{name} is no setting, and does nothing{close}", is_wrong=False)
        elif (cause := _why_wrong({name: env[name]})) is not None:
            found.add(name)
            yield Trouble(name, cause)
    if url and (cause := _why_wrong({}, url=url)) is not None:
        yield Trouble("--api", cause)
        url = None
    sound = {name: value for name, value in env.items() if name not in found}
    # What is wrong of several together: each is left out until nothing is.
    while (cause := _why_wrong(sound, url=url)) is not None:
        names = [name for name in sorted(sound) if name in known and name in cause]
        if not names:
            yield Trouble("", cause)
            return
        yield Trouble(names[0], cause)
        del sound[names[0]]


def _why_wrong(env: Mapping[str, str], *, url: str | None = None) -> str | None:
    """Why no program starts with these variables; None where one does."""
    try:
        Settings.of_client(env, url=url)
        settings = Settings.from_env(env)
        if len(env) > 1:
            settings.for_reading()
    except SettingsError as error:
        return str(error)
    return None


def _did_you_mean(name: str, known: set[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


# -- Celery's settings -------------------------------------------------------------------------------------------------


def _celeryconfig(env: Mapping[str, str], folder: Path) -> tuple[str, dict[str, str]]:
    """The operator's celeryconfig and what it sets, as far as that can be read without executing it."""
    path = folder / f"{env.get('CELERY_CONFIG_MODULE') or 'celeryconfig'}.py"
    try:
        source, reason = read_ours(path)
        tree = ast.parse(source)
    except OSError:
        return "", {}
    except (SyntaxError, ValueError):
        return str(path), {"": "no program of Python"}
    if reason:
        return str(path), {"": f"it is not read, and no worker starts here: {reason}"}
    found: dict[str, str] = {}
    for step in tree.body:
        targets = (
            step.targets if isinstance(step, ast.Assign) else [step.target] if isinstance(step, ast.AnnAssign) else []
        )
        for target in targets:
            if isinstance(target, ast.Name) and not target.id.startswith("_") and step.value is not None:  # type: ignore[attr-defined]
                found[target.id] = _literal(target.id, step.value)  # type: ignore[attr-defined]
    return str(path), found


def _literal(name: str, value: ast.expr) -> str:
    """What is assigned, as it is written; no URL, password or key."""
    from launch_worker.model.masking import mask_env

    text = str(mask_env({name: ast.unparse(value)})[name])
    return _MASK if "://" in text else text
