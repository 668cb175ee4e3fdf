"""What a run has left is listed, looked at and fetched, through Redis and through a server alike."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from launch_worker.api.client import Api, Run, submit
from launch_worker.archive.query import records
from launch_worker.cli.errors import run_command
from launch_worker.cli.main import group
from launch_worker.errors import InputError, LaunchError, UnknownRunError
from launch_worker.model.run import Record
from launch_worker.model.run_files import KeptFile
from launch_worker.model.states import RunState
from launch_worker.outputs.content import IS_LINK, store_folder
from launch_worker.outputs.stored import StoredOutputs
from launch_worker.settings import Settings
from launch_worker.store import keys
from launch_worker.store.store import Store
from tests.conftest import wait_until
from tests.support.arrows import FINISHED, claim, crash, create
from tests.support.http_servers import KEY, TestServer, serving
from tests.support.people import OPEN, PRIVATE, tokens_of_everybody
from tests.support.redis_client import redis_of

PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(50)
EVIL = b"<script>alert(1)</script>"
FILES = {"best/model.pt": bytes(range(256)) * 5000, "notes.html": EVIL, "plot.png": PICTURE, "tool": b"#!/bin/sh\n"}


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"file://{tmp_path}/store"


@pytest.fixture
def server(redis_url: str, tmp_path: Path, url: str) -> Iterator[TestServer]:
    with serving(redis_url, tmp_path / "server", LAUNCH_OUTPUT_URL=url) as running:
        yield running


@pytest.fixture
def client(server: TestServer) -> Iterator[httpx.Client]:
    with server.client() as made:
        yield made


@pytest.fixture(params=["redis", "http"])
def through(request: pytest.FixtureRequest, server: TestServer, redis_url: str, url: str) -> Iterator[Api]:
    """An Api by each way."""
    if request.param == "redis":
        made = Api(settings=Settings.from_env({"LAUNCH_OUTPUT_URL": url}, redis_url=redis_url))
        yield made
        made.store.close()
        return
    made = Api(settings=Settings.of_client({"LAUNCH_API_TOKEN": KEY}, url=server.url))
    yield made
    made.transport.server.close()  # type: ignore[attr-defined]


def leave(
    store: Store, url: str, run_id: str, attempt: int, files: dict[str, bytes], tmp_path: Path, **links: str
) -> None:
    """Have an attempt's outputs kept, as a worker does. A link goes into each folder."""
    folder = tmp_path / f"left-{attempt}"
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
        (folder / path).chmod(0o755 if path == "tool" else 0o644)
    (folder / "link").symlink_to("/etc/passwd")
    for name, target in links.items():
        (folder / name).symlink_to(target)
    stored = StoredOutputs(url)
    manifest = store_folder(folder, stored, run_id=run_id, attempt=attempt)
    stored.put_manifest(manifest)
    store.keep_outputs(
        run_id, attempt, store.get(run_id).token, files=len(files), size=manifest.total_bytes, left_out=1
    )


def point(store: Store, run_id: str, more: dict[str, object]) -> None:
    redis = redis_of(store.url)
    known = json.loads(redis.hget(keys.run(run_id), "outputs") or "{}")
    redis.hset(keys.run(run_id), "outputs", json.dumps(known | more))


@pytest.fixture
def run(store: Store, url: str, tmp_path: Path) -> str:
    """A run whose attempt has left some files, and with which one is saved."""
    run_id = claim(store, create(store)).id
    leave(store, url, run_id, 1, FILES, tmp_path)
    store.save_file(run_id, "build.log", b"built")
    return run_id


def test_outputs_and_saved_files_are_one_list(through: Api, run: str) -> None:
    files = through.run(run).files()
    assert [(file.path, file.size, file.attempt, file.kind) for file in files] == [
        ("best/model.pt", 1_280_000, 1, "output"),
        ("build.log", 5, None, "saved"),
        ("notes.html", len(EVIL), 1, "output"),
        ("plot.png", len(PICTURE), 1, "output"),
        ("tool", 10, 1, "output"),
    ]
    assert (files.attempt, files.left_out_count) == (1, 1)
    assert [(one.path, one.why) for one in files.left_out] == [
        ("link", "it is an absolute link, or one that leads out of the folder")
    ]
    assert through.shown(run)["outputs"]["1"]["files"] == 4
    assert files.file("build.log").read() == b"built"
    assert files.file("best/model.pt").read() == FILES["best/model.pt"]
    assert b"".join(files.file("best/model.pt").pieces(1_279_999)) == b"\xff"
    with pytest.raises(InputError, match=r"has no file 'nothing'; there are: best/model\.pt, build\.log"):
        files.file("nothing")


def test_a_saved_file_with_the_path_of_an_output_is_not_hidden(through: Api, store: Store, run: str) -> None:
    store.save_file(run, "tool", b"another")
    files = through.run(run).files()
    assert (files.file("tool").read(), files.file("saved/tool").read()) == (FILES["tool"], b"another")


def test_files_are_fetched_into_a_folder(through: Api, run: str, tmp_path: Path) -> None:
    files = through.run(run).files()
    assert files.download(tmp_path / "all") == (5, files_bytes() + 5, 0)
    assert (tmp_path / "all/best/model.pt").read_bytes() == FILES["best/model.pt"]
    assert os.access(tmp_path / "all/tool", os.X_OK)
    assert files.download(tmp_path / "all").were_there == 5
    assert files.download(tmp_path / "some", "best", "build.log").files == 2
    assert files.file("notes.html").download(tmp_path / "one") == tmp_path / "one/notes.html"


def files_bytes() -> int:
    return sum(map(len, FILES.values()))


def test_links_are_read_through_and_made_where_they_lead_to_something(
    through: Api, store: Store, url: str, tmp_path: Path, client: httpx.Client, call: Callable[..., Said]
) -> None:
    run_id = claim(store, create(store)).id
    contents = {"step-3/model.pt": b"three", "step-3/opt": b"o", "notes": b"n"}
    leave(store, url, run_id, 1, contents, tmp_path, last="step-3", best="last/model.pt")
    files = through.run(run_id).files()
    assert [(file.path, file.link, file.size) for file in files] == [
        ("best", "last/model.pt", 5),
        ("last", "step-3", 0),
        ("notes", "", 1),
        ("step-3/model.pt", "", 5),
        ("step-3/opt", "", 1),
    ]
    assert (files.file("best").read(), files.file("last/model.pt").read()) == (b"three", b"three")
    with pytest.raises(InputError, match="has no file 'last'"):
        files.file("last")

    def fetched(*paths: str) -> dict[str, str]:
        folder = tmp_path / ",".join(("got", *paths)).replace("/", "-")
        files.download(folder, *paths)
        files.download(folder, *paths)
        found = sorted(path for path in folder.rglob("*") if path.is_symlink() or path.is_file())
        return {
            str(path.relative_to(folder)): f"-> {os.readlink(path)}" if path.is_symlink() else path.read_text()
            for path in found
        }

    plain = {path: data.decode() for path, data in contents.items()}
    assert fetched() == plain | {"best": "-> last/model.pt", "last": "-> step-3"}
    assert fetched("best") == {"best": "three"}
    assert fetched("last") == {"last/model.pt": "three", "last/opt": "o"}
    assert fetched("last/opt") == {"last/opt": "o"}
    assert fetched("best", "step-3/model.pt") == {"best": "-> last/model.pt", "step-3/model.pt": "three"}
    assert call("files", run_id, "best")[1] == "three"
    assert call("files", run_id)[1].splitlines()[1].split()[:3] == ["best", "last/model.pt", "-"]
    data = client.get(f"/api/v1/runs/{run_id}/files.tar").content
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        links = [(one.name, one.linkname) for one in archive][-2:]
    assert links == [(f"{run_id}/best", "last/model.pt"), (f"{run_id}/last", "step-3")]
    page = client.get(f"/runs/{run_id}/files", headers={"Accept": "text/html"}).text
    assert ("→ last/model.pt" in page, "/files/last?" in page) == (True, False)


def test_the_latest_attempt_that_left_something_is_meant(
    through: Api, store: Store, url: str, run: str, tmp_path: Path
) -> None:
    crash(store, store.get(run))
    through.run(run).retry()
    claim(store, run)
    assert through.run(run).files().attempt == 1
    leave(store, url, run, 2, {"second": b"2"}, tmp_path)
    assert [file.path for file in through.run(run).files()] == ["build.log", "second"]
    assert len(through.run(run).files(attempt=1)) == 4
    with pytest.raises(InputError, match="has had 2 attempts"):
        through.run(run).files(attempt=3)


def test_outputs_on_their_way_are_told_of(through: Api, store: Store, run: str) -> None:
    point(store, run, {"1": {"sending": True}})
    files = through.run(run).files()
    assert (files.is_sending, [file.path for file in files]) == (True, ["build.log"])
    assert "the outputs of attempt 1 " in files.notices[0]


def test_outputs_on_the_machine_of_a_dead_worker_are_told_of(through: Api, store: Store) -> None:
    record = claim(store, create(store))
    crash(store, record)
    host, worker = store.get(record.id).host, store.get(record.id).worker
    gone = f"on {host}, and its worker {worker} is gone: the next one that starts there sends them"
    assert through.run(record.id).files().notices == [f"if attempt 1 left outputs, they are {gone}"]
    point(store, record.id, {"1": {"sending": True}})
    assert through.run(record.id).files().notices == [f"the outputs of attempt 1 wait {gone}"]
    said = {"worker": "w@h", "state": "running", "pid": 1, "slots": 1, "running": 0, "queues": ["default"]}
    description = {"owner": "owner2", "host": host, **said}
    store.heartbeat(
        [], owner="owner2", worker="w@h", lease_s=30.0, gone_s=60.0, description=description, queues=["default"]
    )
    assert through.run(record.id).files().notices == [f"the outputs of attempt 1 are on their way: {worker} sends them"]
    point(store, record.id, {"1": {"files": 0, "at": 1}})
    assert through.run(record.id).files(attempt=1).notices[1:] == []


def test_who_does_not_reach_the_store_is_told_where_the_rest_is(api: Api, run: str) -> None:
    files = api.run(run).files()
    assert [file.path for file in files] == ["build.log"]
    assert "attempt 1 left 4 files" in files.notices[-1]
    assert "LAUNCH_OUTPUT_URL" in files.notices[-1]


def test_a_store_that_lost_a_content_is_a_sentence(through: Api, run: str, tmp_path: Path) -> None:
    for path in (tmp_path / "store/content").rglob("*"):
        if path.is_file() and path.stat().st_size == len(EVIL):
            path.unlink()
    with pytest.raises(LaunchError, match=r"'notes\.html' .* is gone from the store"):
        through.run(run).file("notes.html").read()


def test_outputs_outlast_the_run_in_redis(redis_url: str, store: Store, url: str, tmp_path: Path) -> None:
    """They may come after the archive has the end of the run."""
    with serving(redis_url, tmp_path / "server", with_archive=True, LAUNCH_OUTPUT_URL=url) as server:
        record = claim(store, create(store))
        assert store.finish(record, FINISHED)
        api = Api(settings=Settings.of_client({"LAUNCH_API_TOKEN": KEY}, url=server.url))

        def archived() -> Record:
            found = records(server.shared.database, [record.id])
            return found[record.id].record if found else Record()

        wait_until(lambda: archived().state is RunState.FINISHED, what="the archive has its end")
        leave(store, url, record.id, 1, {"late": b"1"}, tmp_path)
        wait_until(lambda: archived().outputs, what="the archive has its outputs")
        redis_of(store.url).delete(keys.run(record.id))
        assert [(file.path, file.read()) for file in Run(api, record.id).files()] == [("late", b"1")]
        api.transport.server.close()  # type: ignore[attr-defined]


# -- the API -----------------------------------------------------------------------------------------------------------


def test_a_range_of_a_file_is_served(client: httpx.Client, run: str) -> None:
    address = f"/api/v1/runs/{run}/files/best/model.pt"
    part = client.get(address, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, FILES["best/model.pt"][10:20])
    assert part.headers["Content-Range"] == "bytes 10-19/1280000"
    assert client.get(address, headers={"Range": "bytes=-5"}).content == FILES["best/model.pt"][-5:]
    assert client.get(address, headers={"Range": "bytes=1280000-"}).status_code == 416
    assert client.get(address, headers={"Range": "lines=1-2"}).status_code == 200
    tag = part.headers["ETag"]
    assert client.get(address, headers={"If-None-Match": tag}).status_code == 304
    assert client.get(address, headers={"Range": "bytes=0-1", "If-Range": '"other"'}).status_code == 200
    assert client.get(f"/api/v1/runs/{run}/files/nothing").status_code == 404


@pytest.mark.parametrize("path", ["notes.html", "build.log", "plot.png"])
def test_a_file_is_a_download_and_never_a_page(client: httpx.Client, run: str, path: str) -> None:
    answer = client.get(f"/api/v1/runs/{run}/files/{path}")
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Disposition"] == f"attachment; filename*=UTF-8''{path}"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in answer.headers["Content-Security-Policy"]


def test_only_pictures_that_carry_nothing_are_shown(client: httpx.Client, store: Store, run: str) -> None:
    picture = client.get(f"/api/v1/runs/{run}/files/plot.png?view=true")
    assert (picture.headers["Content-Type"], picture.content) == ("image/png", PICTURE)
    store.save_file(run, "evil.svg", EVIL)
    for path in ("evil.svg", "notes.html"):
        assert client.get(f"/api/v1/runs/{run}/files/{path}?view=true").status_code == 422


def test_all_files_come_as_one_archive(client: httpx.Client, run: str) -> None:
    answer = client.get(f"/api/v1/runs/{run}/files.tar")
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
        found = {one.name: archive.extractfile(one).read() for one in archive}  # type: ignore[union-attr]
        assert archive.getmember(f"{run}/tool").mode == 0o755
    assert found == {f"{run}/{path}": data for path, data in {**FILES, "build.log": b"built"}.items()}


def test_some_files_come_as_one_archive_and_none_that_is_not_there(client: httpx.Client, run: str) -> None:
    answer = client.get(f"/api/v1/runs/{run}/files.tar", params={"path": ["tool", "best/model.pt"]})
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
        assert archive.getnames() == [f"{run}/tool", f"{run}/best/model.pt"]
    answer = client.get(f"/api/v1/runs/{run}/files.tar", params={"path": ["tool", "nothing"]})
    assert (answer.status_code, "nothing" in answer.json()["detail"]) == (404, True)


def test_many_small_files_with_any_names_come_together(
    through: Api, store: Store, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["ä/ö?&=#%20+ü.txt", f"{'deep/' * 30}{'x' * 100}", "-rf", "path=x", "empty"]
    files = {name: name.encode() for name in [*names, *(f"part-{number}" for number in range(300))]} | {"empty": b""}
    run_id = claim(store, create(store)).id
    leave(store, url, run_id, 1, files, tmp_path)
    together: list[int] = []
    read_files = through.transport.read_files

    def noting(run_id: str, some: Sequence[KeptFile]) -> Iterator[tuple[KeptFile, Iterator[bytes]]]:
        yield from read_files(run_id, some)
        together.append(len(some))

    monkeypatch.setattr(through.transport, "read_files", noting)
    assert through.run(run_id).files().download(tmp_path / "got").files == 305
    got = {path for path in (tmp_path / "got").rglob("*") if path.is_file()}
    there = {str(path.relative_to(tmp_path / "got")): path.read_bytes() for path in got}
    assert (there, sum(together), len(together) < 5) == (files, 305, True)


# -- the page ----------------------------------------------------------------------------------------------------------


def test_the_page_shows_a_look_at_texts_and_pictures(client: httpx.Client, run: str) -> None:
    def page(path: str) -> str:
        return client.get(f"/runs/{run}/files?path={path}", headers={"Accept": "text/html"}).text

    assert "Files 5" in page("")
    assert "&lt;script&gt;alert(1)" in page("notes.html")
    assert "<script>alert" not in page("notes.html")
    assert f'src="/api/v1/runs/{run}/files/plot.png?attempt=1&amp;view=true"' in page("plot.png")
    assert "It is no text" in page("best/model.pt")
    assert IS_LINK in page("")


# -- the command -------------------------------------------------------------------------------------------------------

Said = tuple[int, str, str]


@pytest.fixture
def call(through: Api, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Said]:
    monkeypatch.setenv("LAUNCH_API_TOKEN", KEY)
    monkeypatch.setenv("LAUNCH_OUTPUT_URL", through.settings.output_url)

    def called(*words: str) -> Said:
        url = through.settings.api_url or through.settings.redis_url
        monkeypatch.setattr("sys.argv", ["launch-worker", "--api", url, *words])
        with pytest.raises(SystemExit) as ended:
            run_command(group, program="launch-worker")
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return called


def test_the_command_lists_prints_and_fetches(call: Callable[..., Said], run: str, tmp_path: Path) -> None:
    code, out, err = call("files", run)
    assert (code, "best/model.pt" in out, f"not kept: link: {IS_LINK}" in err) == (0, True, True)
    assert call("files", run, "-o", "path,bytes")[1].splitlines()[1].split() == ["best/model.pt", "1280000"]
    assert call("files", run, "notes.html") == (0, EVIL.decode(), "")
    listed = [json.loads(line) for line in call("files", run, "--json")[1].splitlines()]
    assert listed[0]["sha256"] == hashlib.sha256(FILES["best/model.pt"]).hexdigest()
    assert listed[-1] == {"path": "link", "kept": False, "why": IS_LINK}
    code, out, err = call("files", run, "--get", str(tmp_path / "got"))
    assert (code, out, "5 files (" in err) == (0, "", True)
    assert "5 of them before" in call("files", run, "--get", str(tmp_path / "got"))[2]
    (tmp_path / "got/tool").write_text("changed here")
    code, _, err = call("files", run, "--get", str(tmp_path / "got"))
    assert (code, "has tool already" in err) == (2, True)
    assert call("files", run, "best", "--get", str(tmp_path / "best"))[0] == 0
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["best"]
    assert f"launch-worker files {run[:4]}" in call("show", run)[1] or "4 files" in call("show", run)[1]


def test_a_run_that_is_not_there_has_no_files(through: Api) -> None:
    with pytest.raises(UnknownRunError):
        through.transport.files("0" * 15, None)


# -- inputs ------------------------------------------------------------------------------------------------------------


def test_a_run_takes_outputs_of_a_run_that_redis_has_forgotten(through: Api, store: Store, run: str) -> None:
    redis_of(store.url).delete(keys.run(run))
    taking = submit(["true"], inputs=[f"{run}:best"], api=through)
    record = store.get(taking.id)
    assert (record.waits_for, record.reason) == ({}, "")
    with pytest.raises(InputError, match=f"no run or group {run} to wait for"):
        submit(["true"], inputs=[f"{run}:best"], after=[run], api=through)
    absent = "0" * 15
    with pytest.raises(InputError, match=f"no run or group {absent} to wait for"):
        submit(["true"], inputs=[f"{absent}:best"], api=through)


def test_outputs_of_a_hidden_run_that_redis_has_forgotten_are_not_given(
    server: TestServer, store: Store, url: str, tmp_path: Path
) -> None:
    tokens = tokens_of_everybody(server)
    hidden = claim(store, create(store, project=PRIVATE)).id
    leave(store, url, hidden, 1, {"secret": b"1"}, tmp_path)
    redis_of(store.url).delete(keys.run(hidden))
    api = Api(settings=Settings.of_client({"LAUNCH_API_TOKEN": tokens["member"]}, url=server.url))
    with pytest.raises(InputError, match=f"no run or group {hidden} to wait for"):
        submit(["true"], inputs=[f"{hidden}:."], project=OPEN, api=api)
    api.transport.server.close()  # type: ignore[attr-defined]
