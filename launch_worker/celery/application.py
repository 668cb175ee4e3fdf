"""Makes the Celery app, `celery -A launch_worker worker | beat | flower | inspect …`, with its settings."""

# ruff: noqa: E402
from __future__ import annotations

from launch_worker import startup

startup.leave_working_folder()

import importlib
import importlib.util
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import kombu.serialization
import kombu.transport
import kombu.utils.json
from celery import Celery
from celery.signals import beat_init, celeryd_init, worker_ready

from launch_worker import terminal
from launch_worker.celery import defaults
from launch_worker.errors import SettingsError
from launch_worker.maintenance.passes import PASSES
from launch_worker.model.checks import MAINTENANCE_QUEUE
from launch_worker.redis_url import RedisUrl
from launch_worker.runners.process.own_process import have_usual_signals, hide_memory
from launch_worker.settings import Settings
from launch_worker.store.keys import PRIORITY_STEPS
from launch_worker.untrusted.ownership import read_ours
from launch_worker.untrusted.text import read_json


def _required(
    settings: Settings, *, transport_options: dict[str, Any], beat_schedule: dict[str, Any]
) -> dict[str, Any]:
    """The settings that correctness rests on, set over the operator's."""
    url = RedisUrl.parse(settings.redis_url)
    required: dict[str, Any] = {
        "broker_url": url.for_kombu(),
        "broker_transport_options": transport_options
        # The record, not the broker, recovers a lost message, so kombu need not keep copies of unacknowledged ones.
        # Such copies, and the visibility timeout over them, make a long task run twice.
        | {"ack_emulation": False, "priority_steps": list(PRIORITY_STEPS)},
        # A Redis that refuses a command (read-only after a failover, full) is an outage, and no outage ends a worker.
        "broker_channel_error_retry": True,
        "worker_pool": "threads",
        "worker_consumer": "launch_worker.celery.consumer:Consumer",
        "task_acks_late": False,
        "worker_disable_prefetch": True,
        "worker_prefetch_multiplier": 1,
        "task_serializer": "json",
        "accept_content": ["json"],
        "result_backend": None,
        "task_ignore_result": True,
        "task_default_queue": "default",
        "beat_scheduler": "launch_worker.celery.beat:PassScheduler",
        "beat_schedule": beat_schedule
        | {
            name: {
                "task": f"launch_worker.{name}",
                "schedule": settings.pass_s,
                # For another scheduler (`beat -S`), which sends tasks: they must not pile up while no worker runs.
                "options": {"queue": MAINTENANCE_QUEUE, "expires": max(1.0, settings.pass_s)},
            }
            for name in PASSES
        },
    }
    if url.master:
        required["broker_transport_options"] |= {"master_name": url.master}
    if url.tls:
        required["broker_use_ssl"] = url.tls
    return required


def _operator_config() -> ModuleType | None:
    """The operator's celeryconfig: CELERY_CONFIG_MODULE, else celeryconfig.py in the working folder."""
    name = os.environ.get("CELERY_CONFIG_MODULE")
    path = Path(f"{name or 'celeryconfig'}.py").absolute()
    if name and (importlib.util.find_spec(name.partition(".")[0]) or not path.is_file()):
        return importlib.import_module(name)
    if not path.is_file():
        return None
    source, reason = read_ours(path)
    if reason:
        raise SettingsError(f"{path} is not read, and nothing is started: {reason}. Or start this from another folder")
    module = ModuleType("launch_worker_operator_config")
    module.__file__ = str(path)
    exec(compile(source, path, "exec"), vars(module))
    return module


def _settings() -> Settings:
    """`celery -b URL` (and CELERY_BROKER_URL) is taken for LAUNCH_REDIS_URL, if the two do not contradict."""
    broker = os.environ.pop("CELERY_BROKER_URL", None)
    launch = os.environ.get("LAUNCH_REDIS_URL")
    if broker and launch and broker != launch:
        raise SettingsError(
            "CELERY_BROKER_URL (or celery -b) and LAUNCH_REDIS_URL name two different brokers; "
            "set only LAUNCH_REDIS_URL"
        )
    return Settings.from_env(redis_url=broker)


def _make_app(operator: ModuleType | None) -> tuple[Celery, dict[str, Any]]:
    """The app, and the settings that nothing may change."""
    # An alias and not `broker_transport`: Flower and the banner go by the URL's scheme.
    kombu.transport.TRANSPORT_ALIASES.update(
        redis="launch_worker.celery.broker:Transport",
        rediss="launch_worker.celery.broker:Transport",
        sentinel="launch_worker.celery.broker:SentinelTransport",
    )
    # kombu's own decoder makes Python objects of what others wrote, or raises.
    kombu.serialization.register(  # type: ignore[no-untyped-call]
        "json", kombu.utils.json.dumps, read_json, content_type="application/json", content_encoding="utf-8"
    )
    # Neither is of use to workers that share nothing but the records, and they cost a second of start-up.
    os.environ.setdefault("CELERY_WORKER_WITHOUT_GOSSIP", "1")
    os.environ.setdefault("CELERY_WORKER_WITHOUT_MINGLE", "1")
    # The event tells its interval, so Flower knows when one is overdue. Celery's 2 s are a quarter of all that an idle
    # worker sends.
    os.environ.setdefault("CELERY_WORKER_HEARTBEAT_INTERVAL", "5")
    made = Celery("launch_worker", set_as_current=True, include=["launch_worker.celery.tasks"])
    made.config_from_object(defaults)
    if operator is not None:
        made.conf.update({name: value for name, value in vars(operator).items() if not name.startswith("_")})
    options = defaults.broker_transport_options | made.conf.broker_transport_options
    required = _required(settings, transport_options=options, beat_schedule=made.conf.beat_schedule)
    made.conf.update(required)
    return made, required


if click.get_current_context(silent=True) is not None:
    # In the celery command: worker, beat, Flower.
    hide_memory()
    have_usual_signals(but_hang_up=True)
try:
    settings = _settings()
    _operator = _operator_config()
except SettingsError as error:
    # Inside the celery command an exception would be shown as a traceback.
    if click.get_current_context(silent=True) is not None:
        raise SystemExit(f"launch-worker: {error}") from None
    raise
#: File that the operator's Celery settings come from; '' for none.
settings_file = "" if _operator is None else str(_operator.__file__)
app, REQUIRED = _make_app(_operator)


def _hide_memory(**_: object) -> None:
    """Again, after `--uid` has changed the user."""
    hide_memory()


def _started(**_: object) -> None:
    startup.started()


def _say_settings(**_: object) -> None:
    """Print the file of beat's settings; a worker prints it with its welcome."""
    if settings_file:
        terminal.say(f"Celery settings of {settings_file}")


for _signal in (celeryd_init, beat_init):
    _signal.connect(_hide_memory, weak=False)
for _signal in (worker_ready, beat_init):
    _signal.connect(_started, weak=False)
beat_init.connect(_say_settings, weak=False)
