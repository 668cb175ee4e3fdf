"""People, a process of its own: they submit, cancel, retry and follow runs through a server, each as themselves.

    python -m tests.chaos.people SEED DURATION_S URL STAMPS FOLDER

LAUNCH_TOKENS is a JSON object with each person's token. What people were answered is in FOLDER/answers, as in the
producer's journal, and what was told to who follows a run is in FOLDER/RUN.followed. Times are seconds since boot.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from launch_worker import submit_many
from launch_worker.api.client import Api
from launch_worker.api.http_transport import HttpTransport
from launch_worker.api.transport import Place
from launch_worker.clock import boot_time_s
from launch_worker.errors import (
    BrokerUnavailableError,
    LaunchError,
    RefusedError,
    ServerUnavailableError,
    UnknownRunError,
)
from launch_worker.ids import new_run_id
from launch_worker.settings import Settings
from tests.chaos.agenda import Agenda
from tests.chaos.plan import HIDDEN, PEOPLE, Request, Submission, plan_requests

#: Not imported: it is a program.
JOB = str(Path(__file__).with_name("job.py"))
#: Exit code of commands that got no answer.
_AWAY = 69
#: How often it is looked whether a run has ended, and whether a hidden one is seen.
_LOOK_S, _PEEK_S = 0.5, 2.0
_AGAIN_S = 0.3


class Answers:
    """The file of what all people were answered."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)
        self._lock = threading.Lock()
        #: Runs of the hidden project.
        self.hidden: list[str] = []

    def note(self, **facts: object) -> None:
        with self._lock:
            self._file.write(json.dumps(facts) + "\n")


class PersonAtWork(Agenda):
    """One person: repeats each request until it is answered, as a program does that has to be sure."""

    def __init__(
        self, name: str, url: str, token: str, duration_s: float, *, stamps: Path, folder: Path, answers: Answers
    ) -> None:
        super().__init__()
        self._begun = boot_time_s()
        self._until = self._begun + duration_s
        self.name = name
        self._env = {"LAUNCH_API_URL": url, "LAUNCH_API_TOKEN": token}
        self._api = Api(settings=Settings.of_client(self._env))
        self._stamps = stamps
        self._folder = folder
        self._answers = answers
        self._followers: list[threading.Thread] = []
        self._rng = Random(f"looks {name}")

    @property
    def _transport(self) -> HttpTransport:
        assert isinstance(self._api.transport, HttpTransport)
        return self._api.transport

    def run(self) -> None:
        super().run()
        for follower in self._followers:
            follower.join()

    def plan(self, number: int, planned: Request) -> None:
        # An id is chosen once, and each key is used by every person for something else.
        ask = {"key": self._by_key, "id": self._by_id, "command": self._by_command, "bulk": self._in_bulk}
        key, fresh_id = f"request {number}", new_run_id()
        items = [self._options(f"{self.name}.{number}.{at}", run, planned) for at, run in enumerate(planned.runs)]

        is_asked = False

        def submit() -> None:
            nonlocal is_asked
            if not is_asked and boot_time_s() > self._until:
                return  # the machine is too slow for the plan
            is_asked = True
            ids = ask[planned.manner](items, key, fresh_id)
            # In the audit several runs are one submission, with the id of their group.
            target = ids[0] if len(ids) == 1 else f"b{ids[0]}"
            self._answers.note(submit=target, person=self.name, at=boot_time_s(), answer="done")
            for item, run_id in zip(items, ids, strict=True):
                self._answers.note(run=run_id, at=boot_time_s(), mark=item["command"][-1].removeprefix("mark="))
            self._go_on(planned, ids)

        self.at(self._begun + planned.at_s, self._noting_errors(submit))

    def _options(self, mark: str, planned: Submission, request: Request) -> dict[str, Any]:
        command = [sys.executable, "-I", "-S", JOB, self._stamps, planned.seconds, planned.code, *planned.flags]
        return {
            "command": [*map(str, command), f"mark={mark}"],
            "queue": planned.queue,
            "priority": planned.priority,
            "retries": planned.retries,
            "retry_delay": planned.retry_delay_s,
            "grace": planned.grace_s,
            "project": request.project,
        }

    # -- submit ----------------------------------------------------------------------------------------------------

    def _by_key(self, items: list[dict[str, Any]], key: str, run_id: str) -> list[str]:
        headers = {"Idempotency-Key": key.replace(" ", "-")}
        answer = self._transport.server.ask("POST", "/runs", body=items[0], headers=headers)
        return [answer["id"]]

    def _by_id(self, items: list[dict[str, Any]], key: str, run_id: str) -> list[str]:
        return [run.id for run in submit_many([items[0] | {"id": run_id}], api=self._api)]

    def _in_bulk(self, items: list[dict[str, Any]], key: str, run_id: str) -> list[str]:
        named = [item | {"unique": f"{key}.{at}"} for at, item in enumerate(items)]
        return [run.id for run in submit_many(named, api=self._api)]

    def _by_command(self, items: list[dict[str, Any]], key: str, run_id: str) -> list[str]:
        done = subprocess.run(
            ["launch-submit", "--from-file", "-", "--quiet"],
            input=json.dumps(items[0] | {"unique": key}).encode(),
            env=os.environ | self._env,
            capture_output=True,
            check=False,
        )
        if done.returncode == _AWAY:
            raise ServerUnavailableError(done.stderr.decode())
        if done.returncode:
            self._answers.note(wrong=f"launch-submit of {self.name}: exit {done.returncode}: {done.stderr.decode()}")
        return done.stdout.decode().split()

    # -- and then --------------------------------------------------------------------------------------------------

    def _go_on(self, planned: Request, ids: list[str]) -> None:
        if planned.project == HIDDEN:
            self._answers.hidden += ids
        if planned.is_followed:
            follower = threading.Thread(target=self._follow, args=(ids[0],), name=f"follows {ids[0]}", daemon=True)
            self._followers.append(follower)
            follower.start()
        for run_id, run in zip(ids, planned.runs, strict=True):
            if run.cancel_after_s is not None:
                self.at(boot_time_s() + run.cancel_after_s, self._noting_errors(partial(self._cancel, run_id)))
        if planned.is_retried:
            self.at(boot_time_s() + _LOOK_S, self._noting_errors(partial(self._retry, ids[0])))

    def _cancel(self, run_id: str) -> None:
        self._act("cancel", run_id, partial(self._transport.cancel, run_id, reason="chaos", grace_s=None))

    def _retry(self, run_id: str) -> None:
        if not self._transport.record(run_id).state.is_final:
            self.at(boot_time_s() + _LOOK_S, self._noting_errors(partial(self._retry, run_id)))
            return

        def retry() -> str:
            self._transport.retry(run_id)
            return "Pending"

        self._act("retry", run_id, retry)

    def _act(self, what: str, run_id: str, do: Callable[[], str]) -> None:
        asked = {what: run_id, "person": self.name, "asked_at": boot_time_s()}
        self._answers.note(**asked, at=None, answer="")
        try:
            answer = do()
        except RefusedError as error:
            answer = f"refused: {error}"
        self._answers.note(**asked, at=boot_time_s(), answer=answer)

    def peek(self) -> None:
        """Look for runs of a project that this person does not see."""
        for run_id in self._rng.sample(self._answers.hidden, min(2, len(self._answers.hidden))):
            looks: Mapping[str, Callable[[], object]] = {
                "shown": partial(self._transport.shown, run_id),
                "followed": partial(self._transport.output, run_id, {}),
                "cancelled": partial(self._transport.cancel, run_id, reason="", grace_s=None),
            }
            for what, look in looks.items():
                try:
                    look()
                except UnknownRunError:
                    continue
                self._answers.note(wrong=f"{run_id} of a hidden project was {what} by {self.name}")
        page = self._transport.server.ask("GET", "/runs", query={"limit": 100})["runs"]
        if seen := [run["id"] for run in page if run["project"] == HIDDEN]:
            self._answers.note(wrong=f"{seen} of a hidden project are in a list of {self.name}")
        if boot_time_s() < self._until:
            self.at(boot_time_s() + _PEEK_S, self._noting_errors(self.peek))

    def _follow(self, run_id: str) -> None:
        """Follow a run to its end, wherever the stream breaks."""
        place: Place | None = None
        with (self._folder / f"{run_id}.followed").open("w", buffering=1) as followed:
            while place is None or not place.is_end:
                try:
                    for seen in self._transport.follow(run_id, place, logs=True, attempt=None, deadline=None):
                        place = seen.place
                        told = {
                            "attempt": place.attempt,
                            "number": place.seen,
                            "is_end": place.is_end,
                            "state": seen.state,
                            "missing": seen.missing,
                            "data": base64.b64encode(seen.data).decode(),
                        }
                        followed.write(json.dumps(told) + "\n")
                except (BrokerUnavailableError, ServerUnavailableError):
                    threading.Event().wait(_AGAIN_S)
                except LaunchError as error:
                    self._answers.note(wrong=f"{self.name} follows {run_id}: {error!r}")
                    return

    def _noting_errors(self, action: Callable[[], None]) -> Callable[[], None]:
        """The action, whose errors are wrong unless it is to be tried again."""

        def do() -> None:
            try:
                action()
            except (BrokerUnavailableError, ServerUnavailableError):
                raise
            except LaunchError as error:
                self._answers.note(wrong=f"{self.name}: {error!r}")

        return do


def main() -> None:
    seed, duration_s, url, stamps, folder = sys.argv[1:]
    tokens = json.loads(os.environ["LAUNCH_TOKENS"])
    answers = Answers(Path(folder) / "answers")
    threads = []
    for name in PEOPLE:
        person = PersonAtWork(
            name, url, tokens[name], float(duration_s), stamps=Path(stamps), folder=Path(folder), answers=answers
        )
        for number, planned in enumerate(plan_requests(int(seed), float(duration_s), name)):
            person.plan(number, planned)
        if name != PEOPLE[0]:
            person.at(boot_time_s(), person.peek)
        threads.append(threading.Thread(target=person.run, name=name))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
