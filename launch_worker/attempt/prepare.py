"""Prepares a job on this machine: macros, code and Python environment, then how a process or a container is started."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from launch_worker.attempt.attempt import Attempt, Enter, WorkerContext
from launch_worker.attempt.confining import confinement_of, worker_env_of
from launch_worker.attempt.environment import container_environment, in_environment, job_environment
from launch_worker.attempt.folder import CHECKPOINT
from launch_worker.attempt.folder_reuse import CONFIG
from launch_worker.attempt.kept_folders import OUTPUTS, keeper_of_container, kept_folders
from launch_worker.attempt.restore import RESUMED, keeper_of
from launch_worker.attempt.shipping import FOLLOW_AFTER_S
from launch_worker.clock import boot_time_s
from launch_worker.code.fetch import fetch_code, working_folder
from launch_worker.code.patience import Patience
from launch_worker.config_folder import sealing_key_folder
from launch_worker.errors import InputError, UnenforcedError
from launch_worker.model.container_options import ARGS_FILE, LAUNCH_DIR, ContainerPlan
from launch_worker.model.inputs import INPUTS
from launch_worker.model.needs import parse_needs
from launch_worker.model.run import Record
from launch_worker.model.signals import number_of
from launch_worker.model.spec import RunSpec
from launch_worker.queues.confinement import Demands
from launch_worker.queues.filling import fill_spec, macros_of, spec_has_macros
from launch_worker.queues.queue import QueueConfig
from launch_worker.queues.read import queue_of
from launch_worker.runners.job import TERM_ALL, Ending, Job
from launch_worker.runners.output import OutputWriter
from launch_worker.runners.process.accounts import find_account
from launch_worker.runners.process.confinement import Confinement

#: What a run is told that asks for checkpoints where they are not kept.
NO_PLACE = (
    "checkpoints are kept where LAUNCH_OUTPUT_URL says, and this worker has none; set it in the worker's environment "
    "(file:///shared/outputs, s3://bucket/outputs), or submit without --checkpoint-every"
)
#: Folders of a container in which a job leaves something, by the variables that name them.
_LEFT = {"LAUNCH_OUTPUT_DIR": OUTPUTS, "LAUNCH_CHECKPOINT_DIR": CHECKPOINT}
#: Starts the job with the folder of its fetched code; None for a run that brings no code.
Start = Callable[[Path | None], Job]


def prepare(attempt: Attempt, context: WorkerContext, patience: Patience, enter: Enter) -> Start:
    """Check what the run asks for, fill its macros and make its folder; returns what starts it.

    Raises InputError, UnenforcedError, OSError.
    """
    config = queue_of(attempt.record.queue_config)
    # The queue may have been configured anew since the run was submitted.
    values = config.values_of(attempt.spec)
    if config.allow_env or config.allow_uris:
        config.check_reach(attempt.spec)
    plan = None
    if _is_plain(config, attempt.spec):
        if values != attempt.spec.values:
            attempt.spec = replace(attempt.spec, values=values)
    else:
        plan = _fill(attempt, config, values)
    if attempt.spec.outputs and not context.settings.output_url:
        raise InputError(
            "the run asks for its outputs to be kept (--output), and its worker keeps none; set LAUNCH_OUTPUT_URL "
            "where the worker is started"
        )
    if plan is None and (why := context.why_unenforced(attempt.record.queue, config.demands)):
        # The queue was configured while this run was claimed: what its worker now leaves alone it may have taken.
        raise UnenforcedError(f"queue {attempt.record.queue} is not served by this worker: {why}")
    if attempt.spec.secrets:
        open_secrets(attempt, context)
    folder, demands = attempt.folder, config.demands
    if plan is None and demands.run_as:
        attempt.account = find_account(demands.account_of(attempt.record.user))
    attempt.builds_packages = not (demands.run_as or demands.sandbox)
    folder.make(for_process=plan is None, account=attempt.account)
    if attempt.record.needs:
        folder.keep_holding(attempt.record)
    if plan is None:
        return _process(attempt, context, patience, demands)
    return _container(attempt, context, plan, patience, enter)


def open_secrets(attempt: Attempt, context: WorkerContext) -> None:
    """Open the run's secrets for its job. Raises CodeError where this worker has no key for them, InputError."""
    # Imported where a run has secrets: start-up time.
    from launch_worker.model.derived import check_derived
    from launch_worker.trust.secrets import opened

    record = attempt.record
    check_derived(record, attempt.spec)
    keys = context.settings.sealing_keys or sealing_key_folder(os.environ)
    if keys is not None and not keys.exists():
        keys = None
    # As the record has it: macros are filled in by now, and are none of what was sealed.
    attempt.secrets = opened(record.spec, run_id=record.id, keys=keys, user=record.user)


def _is_plain(config: QueueConfig, spec: RunSpec) -> bool:
    """Whether the run is a process, and its spec has nothing to fill in."""
    is_process = not (spec.image or spec.sweep or spec.asks_for_container) and config.resource != "container"
    return is_process and not spec_has_macros(spec)


def _fill(attempt: Attempt, config: QueueConfig, values: dict[str, Any]) -> ContainerPlan | None:
    """Fill the macros of the spec; returns what the container is made with, None for a process. Raises InputError."""
    macros = macros_of(attempt.record, attempt.spec, config=config, worker_env=os.environ, values=values)
    if attempt.spec.sweep:
        is_container = config.resource == "container" or bool(attempt.spec.image)
        macros["args_json_file"] = f"{LAUNCH_DIR if is_container else attempt.folder.root}/{ARGS_FILE}"
    attempt.spec = replace(fill_spec(attempt.spec, macros), values=values)
    spec = attempt.spec
    if isinstance(spec.memory, str):
        # Of a range it has what this attempt needs. The attempt keeps the range, by which it is tried again.
        spec = replace(spec, memory=parse_needs(attempt.record.needs).memory)
    return config.container_plan(spec, macros)


def fetch(attempt: Attempt, context: WorkerContext, patience: Patience, enter: Enter) -> Path | None:
    """Fetch the run's inputs and code; returns the code's folder, None for a run without. The record gets the commit.

    Raises CodeError, StartGivenUpError, OSError.
    """
    spec = attempt.spec
    if spec.inputs:
        # Imported where a run has inputs: start-up time.
        from launch_worker.attempt.inputs import fetch_inputs

        enter("fetch", f"fetching {', '.join(spec.inputs[:3])}")
        attempt.folder.give(str(fetch_inputs(attempt, context, patience)))
        enter("start", "")
    if not (spec.uri or spec.upload):
        return None
    enter("fetch", f"fetching {spec.uri or 'the upload'}")
    code = attempt.folder.path / "code"
    commit = fetch_code(
        spec,
        attempt.record,
        code,
        settings=context.settings,
        store=context.store,
        patience=patience,
        check_url=queue_of(attempt.record.queue_config).check_git_url,
    )
    attempt.folder.give(str(code))
    attempt.record = replace(attempt.record, commit=commit)
    enter("start", "")
    return code


def build(attempt: Attempt, context: WorkerContext, patience: Patience, enter: Enter, code: Path | None) -> None:
    """Make the Python environment that the run asks for, or take the one that is there.

    What uv says is the beginning of the attempt's output. Raises InputError, CodeError, StartGivenUpError, OSError.
    """
    spec, record = attempt.spec, attempt.record
    if not (spec.requirements or spec.python) or attempt.folder.is_container:
        return
    # Imported where a run wants one.
    from launch_worker.code.environments import Environments, wanted_by

    wanted = wanted_by(spec, code)
    if wanted is None:
        return
    settings, hold = context.settings, attempt.folder.keep_environment
    patience = replace(patience, what="the environment")
    # The builds of packages are the worker's processes: they would be confined less than the job.
    worker_env = os.environ if attempt.builds_packages else {**os.environ, "UV_NO_BUILD": "1"}
    environments = Environments(settings, worker_env)
    attempt.environment = environments.find(wanted, hold=hold, patience=patience)
    if attempt.environment:
        attempt.folder.show_environment(attempt.environment)
        return
    from launch_worker.code.uv import Uv, find_uv, no_uv

    program = find_uv(settings, os.environ)
    if not program:
        raise no_uv(settings.uv)
    enter("build", f"making the Python environment of {wanted.shown}")
    attempt.tail = context.logs.tail(record.id, record.attempt, attempt.folder.output)
    context.logs.follow(attempt.tail)
    output = OutputWriter(attempt.folder.output, limit_bytes=settings.log_file_bytes)
    try:
        uv = Uv(
            program,
            environments.cache,
            patience,
            worker_env,
            marks={"LAUNCH_RUN_ID": record.id, "LAUNCH_TOKEN": str(record.token)},
            on_line=lambda line: output.write(f"{line}\n".encode()),
        )
        attempt.environment = environments.make(wanted, uv, hold=hold)
    finally:
        output.close()
    attempt.folder.show_environment(attempt.environment)
    enter("start", "")


def _process(attempt: Attempt, context: WorkerContext, patience: Patience, demands: Demands) -> Start:
    record, spec = attempt.record, attempt.spec
    config_path = attempt.folder.write_config(_config(record, spec))
    if spec.sweep:
        attempt.folder.give(attempt.folder.write(ARGS_FILE, _arguments(spec)))
    env = job_environment(
        record,
        spec,
        worker_env=worker_env_of(attempt),
        settings=context.settings,
        config_path=config_path,
    )
    if context.settings.output_url:
        env["LAUNCH_OUTPUT_DIR"] = attempt.folder.make_outputs(spec.outputs)
    env |= _checkpoints(attempt, context)

    def start(code: Path | None) -> Job:
        confinement = confinement_of(attempt, context, demands) if demands else None
        return context.runner.start(
            spec.command,
            key=attempt.key,
            env=(in_environment(env, spec, attempt.environment) if attempt.environment else env)
            | _deadline(attempt)
            | (RESUMED if attempt.is_resumed else {})
            | attempt.secrets,
            cwd=_folder(attempt, code, confinement),
            log_path=attempt.folder.output,
            grace_s=spec.grace_s,
            lease=attempt.lease,
            events=attempt.events,
            timeout_s=math.ceil(patience.left_s),
            brief_s=FOLLOW_AFTER_S,
            start_by=attempt.held_until,
            ending=ending_of(spec),
            confinement=confinement,
        )

    return start


def ending_of(spec: RunSpec) -> Ending:
    """How a process of the run is asked to end."""
    if not (spec.stop_signal or spec.stop_scope):
        return TERM_ALL
    number = number_of(spec.stop_signal) if spec.stop_signal else TERM_ALL.stop_signal
    return Ending(number, stops_main=spec.stop_scope == "main")


def _deadline(attempt: Attempt) -> dict[str, str]:
    """The variable that tells a job, which is about to start, the Unix time of its limit."""
    if attempt.spec.timeout_s is None:
        return {}
    ahead_s = 0.0 if attempt.start_at is None else max(0.0, attempt.start_at - boot_time_s())
    return {"LAUNCH_DEADLINE": str(math.floor(time.time() + ahead_s + attempt.spec.timeout_s))}


def _checkpoints(attempt: Attempt, context: WorkerContext) -> dict[str, str]:
    """Make the folder of a job's checkpoints, where they are kept; returns the variables that name it."""
    if not context.settings.output_url:
        if attempt.spec.checkpoint_every_s is not None:
            raise InputError(NO_PLACE)
        return {}
    folder = attempt.folder.make_checkpoint()
    attempt.checkpoints = keeper_of(attempt, context)
    return {"LAUNCH_CHECKPOINT_DIR": folder}


def _container(
    attempt: Attempt, context: WorkerContext, plan: ContainerPlan, patience: Patience, enter: Enter
) -> Start:
    if attempt.spec.checkpoint_every_s is not None and not context.settings.output_url:
        raise InputError(NO_PLACE)
    # Before the import below: this imports the engine's SDK, of which several threads at once would find a half.
    context.containers()
    from launch_worker.runners.container.config import Labels, NewContainer
    from launch_worker.runners.container.into import Files

    record, spec = attempt.record, attempt.spec
    if spec.stop_scope == "all" and not plan.init:
        raise InputError("in a container --stop-scope all needs the init process; leave out --no-init")
    env = container_environment(
        record,
        spec,
        worker_env=os.environ,
        settings=context.settings,
        config_path=f"{LAUNCH_DIR}/{CONFIG}",
    )
    attempt.folder.mark_container(record)
    keeps = kept_folders(attempt.folder, spec, context.settings)
    if keeps:
        env |= {name: f"{LAUNCH_DIR}/{folder}" for name, folder in _LEFT.items()}
        attempt.checkpoints = keeper_of_container(attempt, context)
    labels = Labels(
        system=context.system(),
        run=record.id,
        attempt=record.attempt,
        token=record.token,
        owner=context.owner,
        worker=context.worker,
        host=context.host,
    )

    def new(code: Path | None) -> NewContainer:
        arguments = _arguments(spec) if spec.sweep else None
        folders = {INPUTS: attempt.folder.path / INPUTS} if spec.inputs else {}
        if attempt.is_resumed:
            folders[CHECKPOINT] = attempt.folder.path / CHECKPOINT
        empty = tuple(name for name in _LEFT.values() if name not in folders) if keeps else ()
        return NewContainer(
            plan,
            spec.command,
            labels,
            (env | RESUMED if attempt.is_resumed else env) | attempt.secrets,
            cwd=_folder_in_container(attempt, code),
            gpus=record.gpus,
            files=Files(_config(record, spec), code, arguments=arguments, folders=folders, empty=empty),
            stop_signal=spec.stop_signal,
            stops_all=spec.stop_scope == "all",
            late_env=partial(_deadline, attempt),
        )

    return lambda code: context.containers().start(
        new(code),
        key=attempt.key,
        output=attempt.folder.output,
        lease=lambda: attempt.lease,
        events=attempt.events,
        timeout_s=math.ceil(patience.left_s),
        enter=enter,
        before_start=attempt.await_start,
        is_lapsed=lambda: attempt.is_lapsed,
        keeps=keeps,
    )


def _arguments(spec: RunSpec) -> bytes:
    """The content of the file with a sweep's parameters for a run."""
    return json.dumps(spec.config).encode()


def _config(record: Record, spec: RunSpec) -> bytes:
    """The content of the file at LAUNCH_CONFIG. Names of the config win over values of the queue's variables."""
    known = {
        "run_id": record.id,
        "attempt": record.attempt,
        "name": record.name,
        "project": record.project,
        "queue": record.queue,
        "tags": list(record.tags),
        "sweep": record.sweep or None,
        "sweep_index": spec.sweep_index,
        "config": {**spec.values, **spec.config},
    }
    return json.dumps(known).encode()


def _folder(attempt: Attempt, code: Path | None, confinement: Confinement | None) -> str:
    cwd = attempt.spec.cwd
    if code is not None and (cwd is None or not cwd.startswith("/")):
        return str(working_folder(code, cwd))
    is_there = cwd and os.path.isdir(cwd) and not (confinement and confinement.why_not_in(cwd))
    if cwd is not None and (attempt.spec.cwd_required or is_there):
        return cwd
    attempt.missing_cwd = cwd or ""
    return attempt.folder.make_work()


def _folder_in_container(attempt: Attempt, code: Path | None) -> str | None:
    """The working folder inside a container; None for the image's own."""
    cwd = attempt.spec.cwd
    if code is not None and (cwd is None or not cwd.startswith("/")):
        inside = working_folder(code, cwd).relative_to(code.resolve())
        return os.path.normpath(f"{LAUNCH_DIR}/code/{inside}")
    return cwd if attempt.spec.cwd_required else None
