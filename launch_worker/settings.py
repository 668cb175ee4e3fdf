"""Reads all settings of launch_worker from the environment, in one place, and checks them against each other."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Callable, Mapping
from dataclasses import field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch_worker.dev_folder import archive_url_of, dev_folder, living_redis_url, log_url_of, output_url_of
from launch_worker.errors import InputError, SettingsError
from launch_worker.frozen import dataclass
from launch_worker.model.units import format_duration, parse_duration, parse_size
from launch_worker.redis_url import RedisUrl

if TYPE_CHECKING:
    from launch_worker.saved_login import SavedLogin

DEFAULT_REDIS_URL = "redis://localhost:6379/0"
#: The word that names the launch Redis itself as the place of uploads.
UPLOADS_IN_REDIS = "redis"
_URL = re.compile(r"[a-z][a-z0-9+.:-]*://")
#: URL of a server; compiled where there is one.
_SERVER_URL = r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?"
#: Address of a mail: no blanks, and nothing that is more than an address in a header; compiled where there is one.
MAILBOX = r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9.-]{1,253}"
#: Variables of the settings whose variable is not LAUNCH_ and their name in capitals.
_VARIABLES = {
    "retention_s": "LAUNCH_RETENTION",
    "environment_age_s": "LAUNCH_ENVIRONMENT_AGE",
    "log_keep_bytes": "LAUNCH_LOG_KEEP",
    "checkpoint_wait_s": "LAUNCH_CHECKPOINT_WAIT",
    "is_insecure": "LAUNCH_INSECURE",
    "requires_signed": "LAUNCH_REQUIRE_SIGNED",
    "takes_passwords": "LAUNCH_PASSWORDS",
}
#: The work folder of a user who has no home: nothing can be there.
NO_WORK_DIR = Path("/dev/null/launch-worker")


@dataclass(frozen=True)
class Settings:
    """The settings of one process. A float is a duration in seconds, an int a number or a size in bytes.

    The variable of a setting is LAUNCH_ and its name in capitals, but for those of `_VARIABLES`.
    """

    redis_url: str = DEFAULT_REDIS_URL
    project: str = ""
    work_dir: Path = Path("launch-worker")
    #: Seconds between two renewals of a worker's leases.
    heartbeat_s: float = 5.0
    #: Seconds of a lease: a run whose lease was not renewed for as long is Crashed.
    lease_s: float = 30.0
    #: Seconds between two passes over stale, cancelled, due and lost runs.
    pass_s: float = 5.0
    #: Seconds after which ended runs are deleted, with their logs.
    retention_s: float = 30 * 86400.0
    #: Bytes of an attempt's newest output that are kept in Redis.
    log_bytes: int = 1 << 20
    #: Bytes of disk, about, that a running attempt's output may take on its worker.
    log_file_bytes: int = 64 << 20
    #: Storage of uploaded folders: UPLOADS_IN_REDIS, or a URL that fsspec knows.
    upload_url: str = UPLOADS_IN_REDIS
    #: Bytes of an uploaded folder at most, compressed.
    upload_bytes: int = 100 << 20
    #: Path of the program uv; '' for the one that is installed with this package, or stands on PATH.
    uv: str = ""
    #: Path of the program bubblewrap, which makes sandboxes; '' for the one on PATH.
    bwrap: str = ""
    #: Bytes of disk that the Python environments of a machine may take before unused ones are deleted.
    environment_bytes: int = 32 << 30
    #: Seconds after which an unused environment is deleted.
    environment_age_s: float = 30 * 86400.0
    #: Seconds that a run waits for GPUs, cores or memory before a worker collects them for it.
    backfill_s: float = 300.0
    #: Runs that may have the same device at once.
    gpus_share: int = 1
    #: Whether jobs get the variables of W&B's SDK: WANDB_RUN_ID and the like.
    wandb_env: bool = True
    #: Address at which a worker answers probes over HTTP.
    health_address: tuple[str, int] | None = None
    #: File that a worker touches at each heartbeat that reached Redis.
    health_file: Path | None = None
    #: Whether this machine has no other users (a container): the work folder may then be writable for everybody.
    work_dir_trusted: bool = False
    #: URL of the same Redis for jobs that ask for one, with a login of theirs; '' for none.
    job_redis_url: str = ""
    #: Patterns of the worker's variables that a job may ask for; () for all but the worker's own.
    env_from_allow: tuple[str, ...] = ()
    #: Whether a worker that is root may start jobs as root.
    allow_root: bool = False
    #: Whether workers, beat, server and archive may use a Redis that strangers may be able to write to.
    is_insecure: bool = False
    #: URL of the archive's database; '' for a SQLite file in the work folder.
    database_url: str = ""
    #: Bytes free on its disk below which a worker takes no runs; None: 64 MiB, or 5 % of a smaller disk.
    min_free_bytes: int | None = None
    #: Seconds between two looks at what a running job uses, at first; 0 for none.
    usage_s: float = 5.0
    #: URL, which fsspec knows, of the folder or bucket that keeps whole logs; '' for none.
    log_url: str = ""
    #: Bytes of an attempt's whole log at most; the middle of a longer one is dropped.
    log_keep_bytes: int = 1 << 30
    #: URL, which fsspec knows, of the folder or bucket that keeps outputs and checkpoints; '' for none.
    output_url: str = ""
    #: Bytes, and number of files, that are kept of an attempt's outputs at most; the rest is left out and named.
    output_bytes: int = 10 << 30
    output_files: int = 10_000
    #: Seconds that an attempt's end waits at most until its last checkpoint is stored, where another attempt follows.
    checkpoint_wait_s: float = 600.0
    #: Bytes of ended runs in Redis, about and without their output, that wait for an archive beyond their retention.
    unarchived_bytes: int = 1 << 30
    #: Address at which the server listens: HOST:PORT.
    server_address: str = "127.0.0.1:7600"
    #: Names under which people reach the server, besides the machine's own and its numbers.
    server_hosts: tuple[str, ...] = ()
    #: TOML file with users, groups and roles, which the server reads at its start.
    users_file: Path | None = None
    #: Addresses and networks of the proxies that name people, the headers in which they do, and GROUP=ROLE,….
    trusted_proxies: str = ""
    proxy_user_header: str = "X-Forwarded-User"
    proxy_groups_header: str = "X-Forwarded-Groups"
    proxy_roles: str = ""
    #: URL of the same Redis with a user who may only read, by which the server reads; '' for `redis_url`.
    redis_read_url: str = ""
    #: URL (issuer) of the identity provider by which people log in; '' for none.
    oidc_url: str = ""
    #: Name of the server at the provider, and its secret there; '' for a client without one.
    oidc_client_id: str = ""
    oidc_client_secret: str = field(default="", repr=False)
    oidc_client_secret_file: Path | None = None
    #: Scopes that the server asks for, with spaces between.
    oidc_scopes: str = "openid profile email"
    #: Claims with a person's name, the first that is there, and with the groups; and GROUP=ROLE,….
    oidc_name_claims: tuple[str, ...] = ("preferred_username", "email")
    oidc_groups_claim: str = "groups"
    oidc_roles: str = ""
    #: Whether people may log in by a password.
    takes_passwords: bool = True
    #: URL under which people reach the server, for links in notices; '' for none.
    server_url: str = ""
    #: URL of the SMTP server that sends notices by mail, and the address from which they come; '' for none.
    smtp_url: str = field(default="", repr=False)
    mail_from: str = ""
    #: Folder with the credentials by which a worker pulls images, as docker's config.json; None for docker's own.
    registry_auth: Path | None = None
    #: File of the key by which this process signs the runs that it submits; None for this user's own, if it is there.
    signing_key: Path | None = None
    #: Whether this worker executes signed runs only.
    requires_signed: bool = False
    #: File of the signing keys that this worker trusts, in place of those that an admin keeps in Redis.
    trusted_keys: Path | None = None
    #: File or folder of the private keys by which this worker opens secrets; None for this user's own folder.
    sealing_keys: Path | None = None
    #: URL of the server that this process works through, and its token there; '' for one that works on Redis.
    api_url: str = ""
    api_token: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        RedisUrl.parse(self.redis_url)
        if self.job_redis_url:
            try:
                RedisUrl.parse(self.job_redis_url)
            except SettingsError as error:
                raise SettingsError(str(error).replace("LAUNCH_REDIS_URL", "LAUNCH_JOB_REDIS_URL")) from None
        for name, seconds in (
            ("LAUNCH_HEARTBEAT_S", self.heartbeat_s),
            ("LAUNCH_LEASE_S", self.lease_s),
            ("LAUNCH_PASS_S", self.pass_s),
            ("LAUNCH_RETENTION", self.retention_s),
        ):
            if seconds <= 0:
                raise SettingsError(f"{name} must be more than 0")
        if self.lease_s < 2 * self.heartbeat_s:
            raise SettingsError(
                f"LAUNCH_LEASE_S ({format_duration(self.lease_s)}) must be at least twice LAUNCH_HEARTBEAT_S "
                f"({format_duration(self.heartbeat_s)}), or one late heartbeat makes a live run Crashed"
            )
        if self.retention_s < self.lease_s:
            raise SettingsError(
                f"LAUNCH_RETENTION ({format_duration(self.retention_s)}) must not be shorter than LAUNCH_LEASE_S "
                f"({format_duration(self.lease_s)})"
            )
        if self.log_bytes < 4096:
            raise SettingsError("LAUNCH_LOG_BYTES must be at least 4096")
        if self.upload_url != UPLOADS_IN_REDIS and not _URL.match(self.upload_url):
            # The text is not shown either.
            raise SettingsError(
                f"LAUNCH_UPLOAD_URL must be {UPLOADS_IN_REDIS}, or a URL such as file:///shared/uploads or s3://bucket/uploads"
            )
        if self.log_url and not _URL.match(self.log_url):
            raise SettingsError("LAUNCH_LOG_URL must be a URL such as file:///shared/logs or s3://bucket/logs")
        if self.output_url and not _URL.match(self.output_url):
            raise SettingsError("LAUNCH_OUTPUT_URL must be a URL such as file:///shared/outputs or s3://bucket/outputs")
        if not 1 <= self.output_files <= 200_000:
            raise SettingsError("LAUNCH_OUTPUT_FILES must be a number from 1 to 200000")
        if self.log_keep_bytes < 2 * self.log_bytes:
            raise SettingsError("LAUNCH_LOG_KEEP must be at least twice LAUNCH_LOG_BYTES")
        if self.gpus_share < 1:
            raise SettingsError("LAUNCH_GPUS_SHARE must be at least 1")
        if self.upload_bytes < 1024:
            raise SettingsError("LAUNCH_UPLOAD_BYTES must be at least 1024")
        if self.server_url and not re.fullmatch(_SERVER_URL, self.server_url):
            raise SettingsError("LAUNCH_SERVER_URL must be written as https://HOST[:PORT], without a login")
        if self.smtp_url:
            _check_smtp_url(self.smtp_url)
        if self.mail_from and not re.fullmatch(MAILBOX, self.mail_from):
            raise SettingsError("LAUNCH_MAIL_FROM must be an address of mail: launch@example.org")
        if not (self.takes_passwords or self.oidc_url or self.trusted_proxies):
            raise SettingsError(
                "LAUNCH_PASSWORDS=0 leaves nobody a way to log in; set LAUNCH_OIDC_URL or LAUNCH_TRUSTED_PROXIES too"
            )

    @property
    def archive_url(self) -> str:
        """The URL of the archive's database, whether it is there or not."""
        return self.database_url or f"sqlite:///{self.work_dir / 'archive.db'}"

    @property
    def has_archive(self) -> bool:
        """Whether there is an archive, as far as can be told without a look into it."""
        return bool(self.database_url) or (self.work_dir / "archive.db").is_file()

    def for_reading(self) -> Settings:
        """The same settings by the Redis user who may only read, where there is one. Raises SettingsError."""
        if not self.redis_read_url:
            return self
        acts = RedisUrl.parse(self.redis_url)
        try:
            reads = RedisUrl.parse(self.redis_read_url)
        except SettingsError as error:
            raise SettingsError(str(error).replace("LAUNCH_REDIS_URL", "LAUNCH_REDIS_READ_URL")) from None
        if (reads.servers, reads.master, reads.db) != (acts.servers, acts.master, acts.db):
            raise SettingsError(
                "LAUNCH_REDIS_READ_URL must name the same Redis as LAUNCH_REDIS_URL, with another user only: what a "
                "server reads must be what it has just written"
            )
        return replace(self, redis_url=self.redis_read_url)

    @property
    def settle_s(self) -> float:
        """Seconds for workers to report after an outage, before others decide about their runs.

        At least as long as a heartbeat may wait to try again (`outage`), and the try itself.
        """
        return max(2 * self.heartbeat_s, 2.0)

    @classmethod
    def of_client(cls, env: Mapping[str, str] | None = None, *, url: str | None = None) -> Settings:
        """As `from_env`, for clients: `url` (`--api`) is that of a server or of Redis.

        It wins over LAUNCH_API_URL, that over LAUNCH_REDIS_URL, that over this user's `dev`, and that over a login that
        was saved.
        """
        env = os.environ if env is None else env
        url = url or env.get("LAUNCH_API_URL") or env.get("LAUNCH_REDIS_URL") or ""
        login = _saved_login(env) if _is_server(url) or not (url or living_redis_url(env)) else None
        url = url or (login.url if login is not None else "")
        if not _is_server(url):
            return cls.from_env(env, redis_url=url or None)
        url = _server_url(url)
        token = env.get("LAUNCH_API_TOKEN") or (login.token if login is not None and login.url == url else "")
        return replace(cls.from_env(env, redis_url=DEFAULT_REDIS_URL), api_url=url, api_token=token)

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None, *, redis_url: str | None = None) -> Settings:
        """Read `LAUNCH_*`. Raises SettingsError.

        `redis_url` (the `--api` option) wins over `LAUNCH_REDIS_URL`, and that over this user's `launch-worker dev`.
        """
        env = os.environ if env is None else env
        found = {name: value for name in _TYPES if (value := _read(env, name)) is not None}
        found["work_dir"] = _work_dir(env)
        redis_url = redis_url or env.get("LAUNCH_REDIS_URL")
        if not redis_url and (redis_url := living_redis_url(env)) and (folder := dev_folder(env)):
            found.setdefault("log_url", log_url_of(folder))
            found.setdefault("output_url", output_url_of(folder))
            if (folder / "archive.db").is_file():
                found.setdefault("database_url", archive_url_of(folder))
        found["redis_url"] = redis_url or DEFAULT_REDIS_URL
        log_bytes = found.get("log_bytes", cls.log_bytes)
        # Output that is not in Redis yet must still be in the file.
        found["log_file_bytes"] = max(found.get("log_file_bytes", cls.log_file_bytes), 2 * log_bytes)
        found.setdefault("log_keep_bytes", max(cls.log_keep_bytes, 2 * log_bytes))
        # Celery's own word for the same counts too, as Celery reads it.
        found["allow_root"] = found.get("allow_root", False) or bool(env.get("C_FORCE_ROOT"))
        if "server_url" in found:
            found["server_url"] = found["server_url"].rstrip("/")
        return cls(**found)


def variable_of(name: str) -> str:
    """The environment variable of a setting."""
    return _VARIABLES.get(name, f"LAUNCH_{name.upper()}")


def _read(env: Mapping[str, str], name: str) -> Any:
    """The value that a variable gives to a setting; None for a variable that says nothing. Raises SettingsError."""
    variable = variable_of(name)
    text = env.get(variable)
    if not text:
        return None
    try:
        return _READERS[_TYPES[name]](text, variable)
    except InputError as error:
        raise SettingsError(str(error)) from None


def _saved_login(env: Mapping[str, str]) -> SavedLogin | None:
    # Imported where it may be wanted: start-up time of `launch-submit`.
    from launch_worker.saved_login import saved_login

    return saved_login(env)


def _is_server(url: str) -> bool:
    return url.startswith(("http://", "https://"))


def _server_url(url: str) -> str:
    """The URL of a server without a slash at its end. Raises SettingsError, which repeats nothing of it."""
    if not re.fullmatch(_SERVER_URL, url):
        raise SettingsError(
            "the URL of a server must be written as https://HOST[:PORT], without a login; set "
            "LAUNCH_API_TOKEN, or log in with: launch-worker login URL"
        )
    return url.rstrip("/")


def _check_smtp_url(url: str) -> None:
    """Raises SettingsError, which repeats nothing of a URL that is none: it may have a password."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        is_sound = parts.scheme in ("smtp", "smtps") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_sound = False
    if not is_sound:
        raise SettingsError("LAUNCH_SMTP_URL must be written as smtp://[USER:PASSWORD@]HOST[:PORT], or smtps://…")


def _switch(text: str, variable: str) -> bool:
    if text not in ("0", "1"):
        raise SettingsError(f"{variable} must be 0 or 1")
    return text == "1"


def _words(text: str, _: str) -> tuple[str, ...] | None:
    return tuple(word.strip() for word in text.split(",") if word.strip()) or None


def parse_address(text: str, *, what: str) -> tuple[str, int] | None:
    """Host and port of `8080` (on loopback), `0.0.0.0:8080` or `[::]:8080`; None for none. Raises SettingsError."""
    if not text:
        return None
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise SettingsError(f"{what} must be written as PORT (on loopback) or ADDRESS:PORT")
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)


#: The types of the settings that `from_env` reads, as they are written in `Settings`.
_TYPES = {
    each.name: str(each.type)
    for each in fields(Settings)
    if each.name not in ("redis_url", "work_dir", "api_url", "api_token")
}
#: Readers of a variable's text, for the type of its setting; None is for a text that says nothing.
_READERS: Mapping[str, Callable[[str, str], Any]] = {
    "str": lambda text, _: text,
    "bool": _switch,
    "float": lambda text, variable: parse_duration(text, what=variable),
    "int": lambda text, variable: parse_size(text, what=variable),
    "int | None": lambda text, variable: parse_size(text, what=variable),
    "Path | None": lambda text, _: Path(text).absolute(),
    "tuple[str, ...]": _words,
    "tuple[str, int] | None": lambda text, variable: parse_address(text, what=variable),
}


def _work_dir(env: Mapping[str, str]) -> Path:
    if env.get("LAUNCH_WORK_DIR"):
        return Path(env["LAUNCH_WORK_DIR"]).expanduser().absolute()
    state_home = env.get("XDG_STATE_HOME") or (_home(env) and f"{_home(env)}/.local/state")
    return Path(state_home) / "launch-worker" if state_home else NO_WORK_DIR


def _home(env: Mapping[str, str]) -> str:
    """The user's home; '' for a user without one. Never a folder that others may write to, as /tmp would be."""
    if env.get("HOME"):
        return env["HOME"]
    try:
        home = pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return ""
    return home if home.startswith("/") and home != "/" and os.path.isdir(home) else ""
