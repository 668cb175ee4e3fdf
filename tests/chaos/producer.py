"""The producer, a process of its own: submits what is planned, cancels some of it, and writes down what it was told.

    python -m tests.chaos.producer SEED DURATION_S TOLD STAMPS JOURNAL CODE_URL [IMAGE]

TOLD is a number of plain runs that tell their ends, which it submits in place of runs of all kinds; 0 for those.

The journal has a JSON line for each acknowledged run, each group with the run that waits for it, and each cancel. Times
are seconds since boot.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from launch_worker import submit, submit_many
from launch_worker.api.client import Api
from launch_worker.clock import boot_time_s
from launch_worker.ids import new_run_id
from tests.chaos.agenda import Agenda
from tests.chaos.plan import (
    CHANNEL,
    GOES_ON,
    SIGNAL,
    GroupSubmission,
    Submission,
    plan_groups,
    plan_submissions,
    plan_told,
)

#: How often it is looked whether a job has started.
_LOOK_S = 0.02


class Producer(Agenda):
    """Submits through Redis."""

    def __init__(self, api: Api, stamps: Path, journal: Path, code_url: str, image: str) -> None:
        super().__init__()
        self._api = api
        self._stamps = stamps
        self._boxed = stamps.with_name("boxed")
        self._code_url = code_url
        self._image = image
        self._journal = journal.open("a", buffering=1)
        #: Runs that leave outputs.
        self._left: list[str] = []

    def submit(self, planned: Submission) -> None:
        asked_at = boot_time_s()
        other = self._left[-1] if planned.takes and self._left else ""
        flags = [flag for flag in planned.flags if flag != "takes" or other]
        wheel = next((flag.partition("=")[2] for flag in flags if flag.startswith("wheel=")), "")
        # Without -S: what its environment has.
        python = ["python", "-I"] if wheel else [sys.executable, "-I", "-S"]
        run = submit(
            [*python, JOB, str(self._boxed if planned.is_container else self._stamps),
             str(planned.seconds), str(planned.code), *flags],
            queue=planned.queue,
            priority=planned.priority,
            retries=None if planned.rules else planned.retries,
            retry=planned.rules.split(",") if planned.rules else None,
            retry_delay=planned.retry_delay_s,
            inputs=[f"{other}:.:taken"] if other else None,
            after=[f"{other}:any"] if other else None,
            timeout=planned.timeout_s or None,
            signal=SIGNAL if planned.timeout_s else None,
            on_timeout=f"requeue:{GOES_ON}" if planned.timeout_s else None,
            grace=planned.grace_s,
            gpus=planned.gpus,
            concurrency_key=planned.key or None,
            delay=planned.delay_s or None,
            uri=self._code_url if planned.has_code else None,
            requirements=self._stamps.with_name("wheels") / f"{wheel}.txt" if wheel else None,
            image=self._image if planned.is_container else None,
            notify=[planned.notify] if planned.notify else None,
            api=self._api,
        )  # fmt: skip
        self._note(run=run.id, asked_at=asked_at, at=boot_time_s(), **({"takes": other} if other else {}))
        if any(flag.startswith("outputs=") for flag in planned.flags):
            self._left.append(run.id)
        if planned.cancel_after_s is not None:
            self.at(boot_time_s() + planned.cancel_after_s, lambda: self.cancel(run.id))
        if planned.cancel_off_s is not None:
            self.at(boot_time_s() + _LOOK_S, lambda: self.cancel_at_end(run.id, planned, until=boot_time_s() + 20))

    def submit_group(self, planned: GroupSubmission) -> None:
        asked_at = boot_time_s()
        runs = submit_many(
            [
                {
                    "command": [sys.executable, "-I", "-S", JOB, str(self._stamps), str(run.seconds), str(run.code)],
                    "queue": run.queue,
                    "priority": run.priority,
                    "retries": run.retries,
                    "retry_delay": run.retry_delay_s,
                    "grace": run.grace_s,
                    "notify": [f"{CHANNEL}:end+first-failure+halted"],
                    **({"max_fails": planned.max_fails} if planned.max_fails else {}),
                }
                for run in planned.runs
            ],
            api=self._api,
        )
        for run in runs:
            self._note(run=run.id, asked_at=asked_at, at=boot_time_s())
        group, ids, then = runs[0].group, [run.id for run in runs], new_run_id()
        self.at(boot_time_s(), lambda: self.wait_for_group(group, ids, then, planned.max_fails))

    def wait_for_group(self, group: str, ids: list[str], then: str, max_fails: int) -> None:
        """Submit the run that waits for a group; a repeated call submits nothing more."""
        command = [sys.executable, "-I", "-S", JOB, str(self._stamps), "0.1", "0"]
        asked_at = boot_time_s()
        submit(command, after=[f"{group}:any"], run_id=then, grace=2, api=self._api)
        self._note(run=then, asked_at=asked_at, at=boot_time_s())
        self._note(group=group, runs=ids, then=then, max_fails=max_fails)

    def cancel_at_end(self, run_id: str, planned: Submission, *, until: float) -> None:
        """Cancel it when its first attempt's job is about to end, or has just ended."""
        try:
            started_at = int((self._stamps / f"{run_id}.1").read_text().split()[1]) / 1e9
        except (OSError, IndexError):
            if boot_time_s() < until:
                self.at(boot_time_s() + _LOOK_S, lambda: self.cancel_at_end(run_id, planned, until=until))
            return
        assert planned.cancel_off_s is not None
        self.at(started_at + planned.seconds + planned.cancel_off_s, lambda: self.cancel(run_id))

    def cancel(self, run_id: str) -> None:
        asked_at = boot_time_s()
        self._note(cancel=run_id, asked_at=asked_at, at=None, answer="")
        word, state = self._api.store.cancel(run_id, reason="chaos")
        self._note(cancel=run_id, asked_at=asked_at, at=boot_time_s(), answer=f"{word} {state}")

    def _note(self, **facts: object) -> None:
        self._journal.write(json.dumps(facts) + "\n")


#: Not imported: it is a program.
JOB = str(Path(__file__).with_name("job.py"))


def main() -> None:
    seed, duration_s, told, stamps, journal, code_url, *image = sys.argv[1:]
    producer = Producer(Api(), Path(stamps), Path(journal), code_url, "".join(image))
    begun = boot_time_s()
    planned_runs = plan_submissions(int(seed), float(duration_s), with_engine=bool(image))
    for planned in plan_told(int(seed), float(duration_s), int(told)) if int(told) else planned_runs:
        producer.at(begun + planned.at_s, lambda planned=planned: producer.submit(planned))  # type: ignore[misc]
    for group in plan_groups(int(seed), float(duration_s)):
        producer.at(begun + group.at_s, lambda group=group: producer.submit_group(group))  # type: ignore[misc]
    producer.run()


if __name__ == "__main__":
    main()
