"""Looks at what is to be kept: the records, the archive, whole logs, and outputs."""

from __future__ import annotations

from collections.abc import Iterator

from launch_worker.errors import LaunchError
from launch_worker.humane import plural
from launch_worker.model.finding import Finding
from launch_worker.model.states import RunState
from launch_worker.model.units import format_duration, isoformat
from launch_worker.outputs.outgoing import waiting
from launch_worker.settings import Settings
from launch_worker.store.store import Store

#: Seconds that small outputs may wait for the store of logs before there is a warning.
_PACK_LATE_S = 3 * 3600.0
#: Seconds that outputs may wait on a worker's machine before there is a warning.
_OUTPUTS_LATE_S = 600.0
#: Seconds that an archive may be behind before there is a warning.
_ARCHIVE_LAG_S = 60.0


def records(store: Store, settings: Settings) -> Iterator[Finding]:
    wrong = store.inconsistencies(limit=10_000)
    for text in wrong[:5]:
        yield Finding("error", "records", text, "delete the run, or restore Redis from a backup (docs/operations.md)")
    if not wrong:
        counts = store.counts()
        total = sum(counts.values())
        yield Finding("ok", "records", f"records and indexes agree ({total} runs, {counts[RunState.RUNNING]} Running)")


def archive(store: Store, settings: Settings) -> Iterator[Finding]:
    if not settings.has_archive:
        return
    from launch_worker.database import open_database

    database = open_database(settings)
    from launch_worker.archive.status import status

    try:
        found = status(database, store)
    finally:
        database.close()
    where, start = f"the archive {found.database}", "start it: launch-worker archive run"
    if not found.leader:
        yield Finding("warning", "archive.alone", f"nobody writes {where}; it misses what happens now", start)
    elif found.lag_s > _ARCHIVE_LAG_S:
        lag = format_duration(round(found.lag_s))
        yield Finding("warning", "archive.behind", f"{where} is {lag} behind", "read the log of its process")
    elif not found.walk_ended_at:
        yield Finding("warning", "archive.incomplete", f"{where} does not have all runs yet", "wait for its first walk")
    else:
        runs = sum(count for name, count in found.counts.items() if name != "deleted")
        yield Finding("ok", "archive", f"{where} has {runs:,} runs, as of {isoformat(found.walk_ended_at)} or later")
    waits_s = (store.now_us() - found.unpacked_since) / 1e6 if found.unpacked_since else 0.0
    if waits_s > _PACK_LATE_S and store.archive_state().log_url:
        yield Finding(
            "warning",
            "logs.unpacked",
            f"Redis keeps runs that ended {format_duration(round(waits_s))} ago: {where} could not store their output",
            "read the log of its process: `logs.wait` says why",
        )
    if lost := found.counts.get("lost"):
        yield Finding(
            "warning",
            "archive.lost",
            f"Redis lost {lost:,} runs before they ended, says {where}",
            "see launch-worker archive export for which; Redis was restored from a snapshot, or emptied",
        )


def logs(store: Store, settings: Settings) -> Iterator[Finding]:
    url = settings.log_url
    if not url:
        return
    # Imports fsspec.
    from launch_worker.objects import Objects

    try:
        objects = Objects(url, setting="LAUNCH_LOG_URL", what="logs")
        # A folder that is missing is made with the first log.
        objects.folders()
    except LaunchError as error:
        yield Finding(
            "error",
            "logs.away",
            str(error),
            "mend that: until then workers keep the output on their disks, and drop the oldest where it is too much",
        )
        return
    yield Finding("ok", "logs", f"the whole output of large logs is kept at {objects.shown}")
    state = store.archive_state()
    if not state.name:
        yield Finding(
            "warning",
            "logs.undeleted",
            f"nothing deletes the logs at {objects.shown} when their runs are deleted, for there is no archive",
            "delete old ones yourself, by a rule of the bucket or by cron (docs/reference/archive.md)",
        )
    elif state.log_url != objects.shown:
        where = f"deletes logs at {state.log_url}" if state.log_url else "has no LAUNCH_LOG_URL"
        yield Finding(
            "warning",
            "logs.undeleted",
            f"nothing deletes the logs at {objects.shown} when their runs are deleted: the archive's process {where}",
            "set the same LAUNCH_LOG_URL for launch-worker archive run, and start it again",
        )


def outputs(store: Store, settings: Settings) -> Iterator[Finding]:
    waits = waiting(settings.work_dir)
    if settings.output_url:
        # Imports fsspec.
        from launch_worker.objects import Objects

        try:
            objects = Objects(settings.output_url, setting="LAUNCH_OUTPUT_URL", what="outputs")
            # A folder that is missing is made with the first output.
            objects.folders()
        except LaunchError as error:
            advice = "mend that: until then workers keep what jobs left on their disks"
            yield Finding("error", "outputs.away", str(error), advice)
        else:
            yield Finding("ok", "outputs", f"what jobs leave is kept at {objects.shown}")
            state = store.archive_state()
            if state.output_url != objects.shown:
                why = f"the archive's process deletes at {state.output_url}" if state.output_url else ""
                why = why or ("the archive's process has no LAUNCH_OUTPUT_URL" if state.name else "there is no archive")
                yield Finding(
                    "warning",
                    "outputs.undeleted",
                    f"nothing deletes what is kept at {objects.shown} when its runs are deleted: {why}",
                    "set the same LAUNCH_OUTPUT_URL for launch-worker archive run, and start it again",
                )
    if waits.attempts and (waits.since_s > _OUTPUTS_LATE_S or not settings.output_url):
        yield Finding(
            "warning",
            "outputs.waiting",
            f"outputs of {plural(waits.attempts, 'attempt')} wait on this machine to be stored, for "
            f"{format_duration(waits.since_s)} by now",
            "start a worker here with LAUNCH_OUTPUT_URL; its log says why they cannot be stored (outputs.…)",
        )
