"""Writes docs/reference/settings.md: every setting of `Settings`, its variable, its default, and its meaning.

Names and defaults are those of `launch_worker.settings`; a setting without a meaning here fails the test.
"""

from __future__ import annotations

from dataclasses import fields

from launch_worker.model.units import format_duration, format_size
from launch_worker.settings import Settings, variable_of
from tools.reference.markdown import GENERATED, table

#: Sections of the page: each setting and its meaning, in the order of the page. Links count from docs/reference.
SECTIONS: dict[str, dict[str, str]] = {
    "Redis and the API": {
        "redis_url": (
            "the Redis of everything, read the same by every part: `redis://USER:PASSWORD@HOST:PORT/DB`; `rediss://` verifies "
            "the server's certificate (options `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile`, `ssl_check_hostname`, "
            "`ssl_cert_reqs`, no others); `sentinel://:PASSWORD@HOST:PORT,HOST:PORT/MASTER/0` asks sentinels for the master. "
            "A password may hold any character; `%41` is the letter A"
        ),
        "redis_read_url": (
            "the same Redis with a user who may only read, by which the server does all that people only look at: "
            "[its two users](server.md#its-two-users-in-redis)"
        ),
        "job_redis_url": (
            "the same Redis, with a login for jobs: what `--env-from LAUNCH_REDIS_URL` gives where the worker's own URL has a "
            "password"
        ),
        "api_url": "for clients: the [server](server.md), or the Redis, on which commands work; it wins over `LAUNCH_REDIS_URL`",
        "api_token": "for clients: the token of that server, else the one that `launch-worker login` has kept",
        "is_insecure": (
            "1: workers, beat, server and archive start although Redis is neither on loopback nor behind a password, or its "
            "certificate is not verified"
        ),
    },
    "Submitting": {
        "project": "the project of runs submitted from here, `ENTITY/PROJECT`",
        "upload_url": (
            "where `--upload` keeps folders: Redis itself, or a URL that fsspec knows, as `file:///shared/uploads` or "
            "`s3://bucket/uploads` (needs `s3fs`); the same for submitters and workers"
        ),
        "upload_bytes": "the most that an uploaded folder may have, compressed; unpacked 20 times that",
        "signing_key": (
            "the file of the key by which `launch-submit`, Python or a server [signs](../security.md#signed-runs) what it submits"
        ),
    },
    "Leases and passes": {
        "heartbeat_s": "how often a worker renews the leases of all its runs",
        "lease_s": "a run that was not renewed for so long is Crashed; at least twice the heartbeat",
        "pass_s": "how often stale, due, lost and cancelled runs are looked for",
        "retention_s": "ended runs are deleted after this time, with their logs",
    },
    "Workers": {
        "work_dir": (
            "a worker's folder for output and reports that wait for Redis (`XDG_STATE_HOME` is heeded); refused if another "
            "account could put something there"
        ),
        "work_dir_trusted": (
            "1: nobody else is on this machine (a container), so that folder may be one that everybody may write to"
        ),
        "min_free_bytes": "with less free on its disk a worker takes no runs",
        "backfill_s": "a run that waits so long for GPUs, cores or memory has a worker collect them for it",
        "gpus_share": "how many runs of a worker may have the same GPU",
        "usage_s": "how often a worker looks at what its running jobs use, at first ([usage](usage.md)); 0: not at all",
        "uv": "the program uv, which makes [Python environments](environments.md)",
        "environment_bytes": (
            "a worker deletes environments that nobody uses, the longest unused first, while all of its machine take more "
            "than that"
        ),
        "environment_age_s": "an environment that nobody used for so long is deleted",
        "bwrap": "the program bubblewrap, which makes [sandboxes](../security.md)",
        "registry_auth": (
            "a folder with the credentials by which a worker pulls images, as docker's `config.json`: "
            "[private images](containers.md#private-images)"
        ),
        "wandb_env": "0: a worker sets no `WANDB_…` variables for its jobs",
        "env_from_allow": (
            "variables of the worker that jobs may ask for with `--env-from`: names and patterns, as `HF_*,WANDB_API_KEY`"
        ),
        "allow_root": (
            "1, or Celery's own `C_FORCE_ROOT` set: a worker that is root starts processes as root. Without it, such a worker "
            "takes only runs of queues with `--run-as` or `--resource container`; `dev` and compose have it set"
        ),
        "requires_signed": "1: a worker takes [signed runs](../security.md#signed-runs) only",
        "trusted_keys": "a file with the signing keys that a worker trusts",
        "sealing_keys": (
            "the file, or the folder with `*.key` files, by which a worker opens [secrets](../security.md#secrets)"
        ),
        "health_address": (
            "`PORT` (on loopback) or `ADDRESS:PORT` where a worker answers `/live`, `/health`, `/ready` and `/metrics`"
        ),
        "health_file": "a file that a worker touches at each heartbeat that reached Redis, beat after each pass",
    },
    "Logs, outputs and checkpoints": {
        "log_bytes": (
            "the newest output of each attempt that is kept in Redis; `logs` and `show` say how much is missing"
        ),
        "log_file_bytes": "about half of the disk that a running attempt's output may take on its worker",
        "log_url": (
            "where workers keep the whole output of attempts that print more than that, the archive keeps smaller ones before "
            "Redis forgets them, and clients read both: a URL that fsspec knows, as `file:///shared/logs` or "
            "`s3://bucket/logs` (needs `s3fs`): [whole logs](archive.md#whole-logs)"
        ),
        "log_keep_bytes": (
            "the most that is kept there of an attempt; the middle of a longer output is dropped, and counted"
        ),
        "output_url": (
            "where workers keep what jobs leave in `LAUNCH_OUTPUT_DIR`: a URL that fsspec knows, as `file:///shared/outputs` "
            "or `s3://bucket/outputs` (needs `s3fs`); the same for workers, the server and the archive: [outputs](outputs.md)"
        ),
        "output_bytes": "the most that a worker keeps of an attempt's outputs; files beyond that are left out, and named",
        "output_files": "the most files that a worker keeps of an attempt's outputs",
        "checkpoint_wait_s": (
            "the most that the end of an attempt waits for its last checkpoint to be stored, where another attempt follows"
        ),
    },
    "Archive": {
        "database_url": (
            "the database of the [archive](archive.md), and of people: `postgresql://USER:PASSWORD@HOST/NAME` or "
            "`sqlite:////PATH`"
        ),
        "unarchived_bytes": (
            "with an archive: how much of ended runs may wait in Redis beyond `LAUNCH_RETENTION` until it has them, at 2 KiB "
            "a run without its output"
        ),
    },
    "Server and people": {
        "server_address": "where `launch-worker server` listens: [the server](server.md)",
        "server_hosts": (
            "names under which people reach the server, `launch.example.org,launch`, besides the machine's own and its numbers"
        ),
        "server_url": "the address under which people reach the server, for links in notices: `https://launch.example.org`",
        "users_file": "a TOML file with users, groups and roles, which the server reads at its start: [people](people.md)",
        "takes_passwords": "0: nobody logs in to the server by a password",
        "trusted_proxies": (
            "addresses and networks of the proxies that name people to the server, with commas between: "
            "[who comes in](server.md#who-comes-in)"
        ),
        "proxy_user_header": "the header in which such a proxy names the person",
        "proxy_groups_header": "the header in which it names the person's groups",
        "proxy_roles": "the role that each of its groups has: `GROUP=ROLE,…`",
        "oidc_url": (
            "the identity provider by which people log in to the server; needs `launch_worker[oidc]`: "
            "[identity provider](people.md#identity-provider)"
        ),
        "oidc_client_id": "the server's name at the provider",
        "oidc_client_secret": "its secret there",
        "oidc_client_secret_file": "a file with that secret, in its place",
        "oidc_scopes": "what the server asks the provider for",
        "oidc_name_claims": "the claim with a person's name, the first that is there",
        "oidc_groups_claim": "the claim with a person's groups",
        "oidc_roles": "the role that each of these groups has: `GROUP=ROLE,…`",
    },
    "Notices": {
        "smtp_url": (
            "the SMTP server that sends [notices](notifications.md) by mail, `smtp://USER:PASSWORD@HOST:587` or `smtps://…`; "
            "set it where the server or the archive runs"
        ),
        "mail_from": "the address from which these mails come",
    },
}

#: Defaults that depend on the machine, or whose value says nothing by itself.
DEFAULTS = {
    "redis_url": "a `launch-worker dev` of yours that is up, else `redis://localhost:6379/0`",
    "redis_read_url": "none: `LAUNCH_REDIS_URL` for both",
    "work_dir": "`~/.local/state/launch-worker`",
    "database_url": "the file `archive.db` in `LAUNCH_WORK_DIR`",
    "min_free_bytes": "64M, or 5 % of a smaller disk",
    "log_url": "none; that of a `launch-worker dev` of yours that is up",
    "output_url": "none; that of a `launch-worker dev` of yours that is up",
    "uv": "the one beside the worker's Python, else on `PATH`",
    "bwrap": "the one on `PATH`",
    "registry_auth": "`DOCKER_CONFIG`, else `~/.docker`",
    "env_from_allow": "all but the worker's own logins",
    "signing_key": "`~/.config/launch-worker/signing.key`, if it is there",
    "trusted_keys": "those of an admin, in Redis",
    "sealing_keys": "`~/.config/launch-worker/sealing-keys`, if it is there",
    "api_url": "none; that of your `launch-worker login`",
}

TOP = """# Settings

Environment variables, read by every command, worker, beat, server and archive. Durations are written `90`, `90s`, `5m`,
`2h`, `1h30m` or `3d`, sizes `1048576`, `512K`, `512M` or `1.5G`; a switch is `0` or `1`.

`launch-worker config` says which hold here, from where each comes, and which are wrong or unknown.
"""

BOTTOM = """
## Options of a worker

What `launch-worker start` and `celery … worker` take as options may also stand in `LAUNCH_AGENT_NAME`, or in the YAML file
that `LAUNCH_AGENT_CONFIG` names: [workers in a script](agent.md).

## Celery's own settings

Any Celery setting may stand in a `celeryconfig.py` in the folder that the worker is started in, or in another module that
`CELERY_CONFIG_MODULE` names; what correctness rests on (`launch_worker/celery/application.py`) wins over it. It must be yours
or root's, and writable for nobody else. Nothing else is imported from that folder.

What a job finds in its own environment is on [another page](job-environment.md).
"""


def default_of(name: str) -> str:
    """The default as people write it."""
    if name in DEFAULTS:
        return DEFAULTS[name]
    value = next(field.default for field in fields(Settings) if field.name == name)
    if value is None or value == "" or value == ():
        return "none"
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, tuple):
        return f"`{','.join(value)}`"
    if name.endswith("_s"):
        return format_duration(float(str(value))).replace(" ", "")
    if name.endswith("_bytes"):
        return format_size(int(str(value))).replace(" ", "").replace("iB", "")
    return str(value) if isinstance(value, int) else f"`{value}`"


def page() -> str:
    """The whole page."""
    parts = [GENERATED, TOP]
    for title, settings in SECTIONS.items():
        rows = [(f"`{variable_of(name)}`", default_of(name), meaning) for name, meaning in settings.items()]
        parts.append(f"\n## {title}\n\n{table(('variable', 'default', 'meaning'), rows)}")
    return "".join([*parts, BOTTOM])
