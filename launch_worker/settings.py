"""Reads all settings of launch_worker from the environment, in one place, and checks them against each other."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from launch_worker.dev_folder import archive_url_of, dev_folder, living_redis_url, log_url_of, output_url_of
from launch_worker.errors import InputError, SettingsError
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
#: The work folder of a user who has no home: nothing can be there.
NO_WORK_DIR = Path("/dev/null/launch-worker")


@dataclass(frozen=True)
class Settings:
    """The settings of one process. Durations are seconds, sizes bytes."""

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
        redis_url = redis_url or env.get("LAUNCH_REDIS_URL")
        log_url = env.get("LAUNCH_LOG_URL") or cls.log_url
        output_url = env.get("LAUNCH_OUTPUT_URL") or cls.output_url
        database_url = env.get("LAUNCH_DATABASE_URL") or cls.database_url
        if not redis_url and (redis_url := living_redis_url(env)) and (folder := dev_folder(env)):
            log_url = log_url or log_url_of(folder)
            output_url = output_url or output_url_of(folder)
            if not database_url and (folder / "archive.db").is_file():
                database_url = archive_url_of(folder)

        def seconds(name: str, default: float) -> float:
            try:
                return parse_duration(env[name], what=name) if env.get(name) else default
            except InputError as error:
                raise SettingsError(str(error)) from None

        def size(name: str, default: int) -> int:
            try:
                return parse_size(env.get(name) or default, what=name)
            except InputError as error:
                raise SettingsError(str(error)) from None

        log_bytes = size("LAUNCH_LOG_BYTES", cls.log_bytes)
        return cls(
            redis_url=redis_url or DEFAULT_REDIS_URL,
            redis_read_url=env.get("LAUNCH_REDIS_READ_URL") or cls.redis_read_url,
            job_redis_url=env.get("LAUNCH_JOB_REDIS_URL", ""),
            env_from_allow=_words(env.get("LAUNCH_ENV_FROM_ALLOW", "")),
            project=env.get("LAUNCH_PROJECT", ""),
            work_dir=_work_dir(env),
            work_dir_trusted=_switch("LAUNCH_WORK_DIR_TRUSTED", env.get("LAUNCH_WORK_DIR_TRUSTED") or "0"),
            heartbeat_s=seconds("LAUNCH_HEARTBEAT_S", cls.heartbeat_s),
            lease_s=seconds("LAUNCH_LEASE_S", cls.lease_s),
            pass_s=seconds("LAUNCH_PASS_S", cls.pass_s),
            retention_s=seconds("LAUNCH_RETENTION", cls.retention_s),
            usage_s=seconds("LAUNCH_USAGE_S", cls.usage_s),
            unarchived_bytes=size("LAUNCH_UNARCHIVED_BYTES", cls.unarchived_bytes),
            log_bytes=log_bytes,
            # Output that is not in Redis yet must still be in the file.
            log_file_bytes=max(size("LAUNCH_LOG_FILE_BYTES", cls.log_file_bytes), 2 * log_bytes),
            log_url=log_url,
            log_keep_bytes=size("LAUNCH_LOG_KEEP", max(cls.log_keep_bytes, 2 * log_bytes)),
            output_url=output_url,
            checkpoint_wait_s=seconds("LAUNCH_CHECKPOINT_WAIT", cls.checkpoint_wait_s),
            output_bytes=size("LAUNCH_OUTPUT_BYTES", cls.output_bytes),
            output_files=size("LAUNCH_OUTPUT_FILES", cls.output_files),
            min_free_bytes=size("LAUNCH_MIN_FREE_BYTES", 0) if env.get("LAUNCH_MIN_FREE_BYTES") else None,
            database_url=database_url,
            upload_url=env.get("LAUNCH_UPLOAD_URL") or cls.upload_url,
            upload_bytes=size("LAUNCH_UPLOAD_BYTES", cls.upload_bytes),
            uv=env.get("LAUNCH_UV") or cls.uv,
            bwrap=env.get("LAUNCH_BWRAP") or cls.bwrap,
            environment_bytes=size("LAUNCH_ENVIRONMENT_BYTES", cls.environment_bytes),
            environment_age_s=seconds("LAUNCH_ENVIRONMENT_AGE", cls.environment_age_s),
            backfill_s=seconds("LAUNCH_BACKFILL_S", cls.backfill_s),
            gpus_share=size("LAUNCH_GPUS_SHARE", cls.gpus_share),
            wandb_env=_switch("LAUNCH_WANDB_ENV", env.get("LAUNCH_WANDB_ENV") or "1"),
            health_address=parse_address(env.get("LAUNCH_HEALTH_ADDRESS", ""), what="LAUNCH_HEALTH_ADDRESS"),
            health_file=_file(env.get("LAUNCH_HEALTH_FILE")),
            server_address=env.get("LAUNCH_SERVER_ADDRESS") or cls.server_address,
            server_hosts=_words(env.get("LAUNCH_SERVER_HOSTS", "")),
            users_file=_file(env.get("LAUNCH_USERS_FILE")),
            trusted_proxies=env.get("LAUNCH_TRUSTED_PROXIES", ""),
            proxy_user_header=env.get("LAUNCH_PROXY_USER_HEADER") or cls.proxy_user_header,
            proxy_groups_header=env.get("LAUNCH_PROXY_GROUPS_HEADER") or cls.proxy_groups_header,
            proxy_roles=env.get("LAUNCH_PROXY_ROLES", ""),
            oidc_url=env.get("LAUNCH_OIDC_URL", ""),
            oidc_client_id=env.get("LAUNCH_OIDC_CLIENT_ID", ""),
            oidc_client_secret=env.get("LAUNCH_OIDC_CLIENT_SECRET", ""),
            oidc_client_secret_file=_file(env.get("LAUNCH_OIDC_CLIENT_SECRET_FILE")),
            oidc_scopes=env.get("LAUNCH_OIDC_SCOPES") or cls.oidc_scopes,
            oidc_name_claims=_words(env.get("LAUNCH_OIDC_NAME_CLAIMS", "")) or cls.oidc_name_claims,
            oidc_groups_claim=env.get("LAUNCH_OIDC_GROUPS_CLAIM") or cls.oidc_groups_claim,
            oidc_roles=env.get("LAUNCH_OIDC_ROLES", ""),
            server_url=env.get("LAUNCH_SERVER_URL", "").rstrip("/"),
            smtp_url=env.get("LAUNCH_SMTP_URL", ""),
            mail_from=env.get("LAUNCH_MAIL_FROM", ""),
            registry_auth=_file(env.get("LAUNCH_REGISTRY_AUTH")),
            takes_passwords=_switch("LAUNCH_PASSWORDS", env.get("LAUNCH_PASSWORDS") or "1"),
            # Celery's own word for the same counts too, as Celery reads it.
            allow_root=_switch("LAUNCH_ALLOW_ROOT", env.get("LAUNCH_ALLOW_ROOT") or "0")
            or bool(env.get("C_FORCE_ROOT")),
            signing_key=_file(env.get("LAUNCH_SIGNING_KEY")),
            requires_signed=_switch("LAUNCH_REQUIRE_SIGNED", env.get("LAUNCH_REQUIRE_SIGNED") or "0"),
            trusted_keys=_file(env.get("LAUNCH_TRUSTED_KEYS")),
            sealing_keys=_file(env.get("LAUNCH_SEALING_KEYS")),
            is_insecure=_switch("LAUNCH_INSECURE", env.get("LAUNCH_INSECURE") or "0"),
        )


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


def _switch(name: str, text: str) -> bool:
    if text not in ("0", "1"):
        raise SettingsError(f"{name} must be 0 or 1")
    return text == "1"


def _file(text: str | None) -> Path | None:
    return Path(text).absolute() if text else None


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def parse_address(text: str, *, what: str) -> tuple[str, int] | None:
    """Host and port of `8080` (on loopback), `0.0.0.0:8080` or `[::]:8080`; None for none. Raises SettingsError."""
    if not text:
        return None
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise SettingsError(f"{what} must be written as PORT (on loopback) or ADDRESS:PORT")
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)


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
