"""Outputs in a bucket: what comes back is what was there, what is there is not sent again, and no part is an object."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fsspec import filesystem

from launch_worker.errors import LaunchError
from launch_worker.outputs.content import fetch_folder, store_folder
from launch_worker.outputs.stored import StoredOutputs
from tests.support.s3 import S3Server

RUN = "01hq2mzk8q00000"


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    server = S3Server()
    server.start()
    server.make(bucket="kept")
    yield server
    server.stop()


@pytest.fixture
def stored(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoredOutputs:
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    # Clients are kept by their URLs, whatever the environment says now.
    filesystem("s3").clear_instance_cache()
    return StoredOutputs(f"s3://kept/{tmp_path.name}")


def test_a_folder_goes_into_a_bucket_and_comes_back(stored: StoredOutputs, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    (folder / "deep").mkdir(parents=True)
    (folder / "large").write_bytes(os.urandom(20 << 20))
    (folder / "deep/empty").touch()
    for number in range(20):
        (folder / f"deep/{number}").write_bytes(b"%d" % (number % 10))
    manifest = store_folder(folder, stored, run_id=RUN, attempt=1)
    stored.put_manifest(manifest)
    facts = stored.objects.all_facts("content")
    assert len(facts) == 12
    assert all(abs(time.time() - one.written_s) < 300 for one in facts.values())
    store_folder(folder, stored, run_id=RUN, attempt=1)
    assert stored.objects.all_facts("content") == facts, "nothing is sent again"
    assert (stored.attempts(RUN), stored.manifest(RUN, 1)) == ([1], manifest)
    fetch_folder(stored, manifest.files, tmp_path / "back")
    for path in folder.rglob("*"):
        if path.is_file():
            assert (tmp_path / "back" / path.relative_to(folder)).read_bytes() == path.read_bytes()
    large = manifest.file("large")
    assert large is not None
    assert stored.part(large, 9 << 20, (9 << 20) + 5) == (folder / "large").read_bytes()[9 << 20 :][:5]
    stored.delete_run(RUN)
    assert (stored.attempts(RUN), stored.manifest(RUN, 1)) == ([], None)
    assert len(stored.objects.all_facts("content")) == 12


@pytest.mark.parametrize("size", [1 << 20, 20 << 20])
def test_an_object_that_is_given_up_in_the_middle_does_not_exist(
    stored: StoredOutputs, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(size >> 20):
            yield os.urandom(1 << 20)
        raise InterruptedError("in the middle")

    with pytest.raises(Exception, match="in the middle"):
        stored.objects.put("content/ab/it", pieces())
    assert stored.objects.facts("content/ab/it") is None
    assert stored.objects.names("") == []
    with monkeypatch.context() as refusing:
        refusing.setattr("s3fs.core.S3File.commit", lambda _: (_ for _ in ()).throw(OSError("refused")))
        with pytest.raises(LaunchError, match="refused"):
            stored.objects.put("content/ab/it", [bytes(size)])
    assert stored.objects.names("") == []
    assert stored.objects.files.list_multipart_uploads("kept") == [], "and no part is left"
