"""One Redis URL means the same to every part, and no part of its password is in what any of them says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from launch_worker.dev.redis_server import RedisServer
from tests.conftest import wait_until
from tests.support.ports import own_port

#: Each two letters beside each other are in no message.
PASSWORD = "QxZ#jWq?Kvq@Xzj/Vqk[Jzx]Zqw%Wjx:Qvz"
BIN = Path(sys.executable).parent
PARTS = {
    "submit": ["launch-submit", "--", "true"],
    "status": ["launch-worker", "status"],
    "doctor": ["launch-worker", "doctor"],
    "start": ["launch-worker", "start", "-q", "default"],
    "worker": ["celery", "-A", "launch_worker", "worker", "-Q", "default", "-c", "1", "--loglevel", "DEBUG"],
    "beat": ["celery", "-A", "launch_worker", "beat", "--loglevel", "DEBUG", "-s", "schedule"],
    "report": ["celery", "-A", "launch_worker", "report"],
}


def shown(text: str) -> list[str]:
    """Three characters of the password that stand in the text."""
    parts = {PASSWORD[at : at + 3] for at in range(len(PASSWORD) - 2)}
    return [part for part in parts if part in text]


class Part:
    def __init__(self, name: str, url: str, folder: Path) -> None:
        env = {key: value for key, value in os.environ.items() if not key.startswith(("LAUNCH_", "CELERY_"))}
        env |= {"LAUNCH_REDIS_URL": url, "LAUNCH_WORK_DIR": str(folder / "work"), "HOME": str(folder)}
        self._log = folder / f"{name}.log"
        words = PARTS[name]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [BIN / words[0], *words[1:]], cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def end(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def say(url: str, folder: Path, *, until: dict[str, str]) -> dict[str, str]:
    """What each part says, those of `until` to this word, the others to their end."""
    parts = {name: Part(name, url, folder) for name in PARTS}
    try:
        for name, part in parts.items():
            word = until.get(name)
            wait_until(
                lambda part=part, word=word: part.process.poll() is not None or (word and word in part.said),  # type: ignore[misc]
                timeout_s=60,
                what=f"what {name} says",
            )
        return {name: part.said for name, part in parts.items()}
    finally:
        for part in parts.values():
            part.end()


#: What the parts that outlast an outage say in one.
AWAY = {"worker": "redis.away", "start": "redis.away", "beat": "redis.away"}


@pytest.mark.parametrize("place", ["127.0.0.1:{}/0", "127.0.0.1:{}/main/0"])
def test_no_part_says_a_part_of_the_password_while_redis_is_away(place: str, tmp_path: Path) -> None:
    scheme = "sentinel" if "main" in place else "redis"
    said = say(f"{scheme}://me:{PASSWORD}@{place.format(own_port())}", tmp_path, until=AWAY)
    for name, text in said.items():
        assert not shown(text), (name, text)
    assert "is not reachable" in said["submit"] or "none of the sentinels" in said["submit"]


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("127.0.0.1:1/0?protocol=3", "has no option protocol"),
        ("127.0.0.1:x/0", "must be written as redis://"),
    ],
)
def test_a_url_that_one_part_could_not_use_is_refused_by_all_in_the_same_sentence(
    place: str, why: str, tmp_path: Path
) -> None:
    for name, text in say(f"redis://me:{PASSWORD}@{place}", tmp_path, until={}).items():
        assert why in text, (name, text)
        assert "Traceback" not in text, (name, text)
        assert not shown(text), (name, text)


def test_a_password_of_any_characters_opens_redis_to_every_part(tmp_path: Path) -> None:
    server = RedisServer()
    server._password = "Wq#x?y/[z]:@end"
    server.start()
    try:
        said = say(server.url, tmp_path, until={"worker": " ready.", "start": " ready.", "beat": "beat: Starting"})
    finally:
        server.stop()
    assert "submitted to queue default" in said["submit"]
    assert "records and indexes agree" in said["doctor"]
    for name, text in said.items():
        assert "Wq#" not in text, (name, text)
        assert "Traceback" not in text, (name, text)
