"""Decides which variables of the worker a job may have by name (`--env-from`)."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping

from launch_worker.errors import InputError
from launch_worker.redis_url import RedisUrl
from launch_worker.settings import Settings

#: Patterns of the worker's own ways and logins: its settings, its broker, its container engine, its git and its uv.
_OWN = (
    *("LAUNCH_*", "CELERY_*", "FLOWER_*", "DOCKER_*", "REGISTRY_AUTH_FILE"),
    *("GIT_ASKPASS", "GIT_CONFIG*", "GIT_SSH*", "SSH_AUTH_SOCK", "UV_*", "CREDENTIALS_DIRECTORY"),
)
#: Variables that a worker does not use itself: where they are set, they are for jobs.
_OF_JOBS = frozenset(("LAUNCH_API_URL", "LAUNCH_API_TOKEN"))
#: Patterns of the login for a store, by the scheme of its URL.
_OF_STORES = {
    "s3": ("AWS_*",),
    "gs": ("GOOGLE_*", "GCLOUD_*"),
    "gcs": ("GOOGLE_*", "GCLOUD_*"),
    "abfs": ("AZURE_*",),
    "az": ("AZURE_*",),
}
_REDIS_URL = "LAUNCH_REDIS_URL"


def lent(name: str, worker_env: Mapping[str, str], settings: Settings) -> str:
    """The value of a variable for a job that asks for it. Raises InputError, with what an admin can do.

    Of Redis a job gets the login that is meant for jobs, never the worker's.
    """
    if name == _REDIS_URL:
        return _redis_url_of_jobs(settings)
    if not _may_have(name, settings):
        raise InputError(
            f"--env-from {name}: this worker does not lend it; name it in LAUNCH_ENV_FROM_ALLOW where the worker is "
            "started, or give the job a value with -e"
        )
    if name not in worker_env:
        raise InputError(f"the worker's environment has no {name}; set it where the worker is started")
    return worker_env[name]


def _redis_url_of_jobs(settings: Settings) -> str:
    if settings.job_redis_url:
        return settings.job_redis_url
    if RedisUrl.parse(settings.redis_url).password:
        raise InputError(
            f"--env-from {_REDIS_URL}: this worker's own login is not for jobs; set LAUNCH_JOB_REDIS_URL, with a "
            "producer's login, where the worker is started"
        )
    # There is no login to keep.
    return settings.redis_url


def _may_have(name: str, settings: Settings) -> bool:
    patterns = settings.env_from_allow
    if name in patterns:
        return True
    if any(fnmatch.fnmatchcase(name, own) for own in _own(settings)) and name not in _OF_JOBS:
        return False
    return not patterns or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _own(settings: Settings) -> tuple[str, ...]:
    """Patterns of variables that only a pattern without wildcards lends: the name itself."""
    stores = (settings.log_url, settings.output_url, settings.upload_url)
    schemes = {url.partition("://")[0] for url in stores}
    return _OWN + tuple(pattern for scheme in sorted(schemes) for pattern in _OF_STORES.get(scheme, ()))
