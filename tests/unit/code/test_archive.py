"""An uploaded folder: the same content gives the same bytes, ignore files count, and no archive is trusted."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import socket
import stat
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from launch_worker.code import listing
from launch_worker.code.archive import make_archive
from launch_worker.code.extract import extract
from launch_worker.code.listing import list_folder
from launch_worker.errors import CodeError, InputError

LIMIT = 1 << 20


def fill(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def archive_of(folder: Path, *, limit_bytes: int = LIMIT) -> bytes:
    target = io.BytesIO()
    sha256 = make_archive(folder, target, limit_bytes=limit_bytes)
    assert sha256 == hashlib.sha256(target.getvalue()).hexdigest()
    return target.getvalue()


def refused(folder: Path, **options: Any) -> str:
    with pytest.raises(InputError) as error:
        archive_of(folder, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def paths(folder: Path) -> list[str]:
    return [entry.path for entry in list_folder(folder)]


def unpack(data: bytes, folder: Path, *, limit_bytes: int = LIMIT) -> Path:
    folder.mkdir()
    extract(io.BytesIO(data), folder, limit_bytes=limit_bytes)
    return folder


# -- making --------------------------------------------------------------------------------------------------------


def test_a_folder_comes_back_as_it_was(tmp_path: Path) -> None:
    folder = fill(tmp_path / "a", {"run.sh": "#!/bin/sh", "deep/er/x": "x", "ü/é y": "z"})
    (folder / "run.sh").chmod(0o750)
    (folder / "empty").mkdir()
    (folder / "link").symlink_to("deep/er")
    (folder / "deep" / "up").symlink_to("../run.sh")
    (folder / "dangling").symlink_to("not/there")
    (folder / "deep").chmod(0o555)
    back = unpack(archive_of(folder), tmp_path / "b")
    (folder / "deep").chmod(0o755)
    assert sorted(paths(back)) == sorted(paths(folder))
    assert (back / "ü" / "é y").read_text() == "z"
    assert (back / "link" / "x").read_text() == "x"
    assert os.readlink(back / "deep" / "up") == "../run.sh"
    assert os.readlink(back / "dangling") == "not/there"
    assert stat.S_IMODE((back / "run.sh").stat().st_mode) == 0o750
    assert stat.S_IMODE((back / "deep").stat().st_mode) == 0o755, "its owner can delete it"


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    files = {"a": "1", "b/c": "2", "b/a": "3", "B": "4"}
    one, two = fill(tmp_path / "one", files), fill(tmp_path / "two", dict(reversed(files.items())))
    os.utime(two / "a", (1, 1))
    assert archive_of(one) == archive_of(two)
    (two / "a").chmod(0o755)
    assert archive_of(one) != archive_of(two), "whether it can be executed is content"


def test_special_bits_and_owners_are_not_sent(tmp_path: Path) -> None:
    folder = fill(tmp_path / "a", {"x": "x"})
    (folder / "x").chmod(0o6755)
    with tarfile.open(fileobj=io.BytesIO(archive_of(folder))) as tar:
        member = tar.getmember("x")
    assert (member.mode, member.uid, member.gid, member.uname, member.gname, member.mtime) == (0o755, 0, 0, "", "", 0)


def test_a_name_that_is_no_unicode_survives(tmp_path: Path) -> None:
    folder = fill(tmp_path / "a", {"x": "x"})
    (folder / "x").rename(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe"))
    back = unpack(archive_of(folder), tmp_path / "b")
    assert os.listdir(os.fsencode(back)) == [b"\xff\xfe"]


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "..", "sub/../../outside"])
def test_a_link_that_points_outside_is_named(tmp_path: Path, target: str) -> None:
    folder = fill(tmp_path / "a", {"sub/x": "x"})
    (folder / "sub" / ".." / "out").symlink_to(target)
    assert "the link 'out' points outside" in refused(folder)


def test_a_link_that_leads_outside_through_another_is_named(tmp_path: Path) -> None:
    folder = fill(tmp_path / "a", {"d/e/x": "x"})
    (folder / "d" / "e" / "up").symlink_to("../..")
    (folder / "out").symlink_to("d/e/up/../x")
    assert "the link 'out' points outside" in refused(folder)


def test_pipes_and_sockets_are_named(tmp_path: Path) -> None:
    folder = fill(tmp_path / "a", {"x": "x"})
    os.mkfifo(folder / "pipe")
    assert "'pipe' is a socket, a pipe or a device" in refused(folder)
    (folder / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(os.path.relpath(folder / "sock"))
        assert "'sock' is a socket" in refused(folder)
        fill(folder, {".launchignore": "sock\n"})
        archive_of(folder)


def test_no_folder_and_an_empty_one_are_refused(tmp_path: Path) -> None:
    assert "not a folder" in refused(tmp_path / "nothing")
    assert "not a folder" in refused(fill(tmp_path / "a", {"x": "x"}) / "x")
    (tmp_path / "b").mkdir()
    assert "nothing to send" in refused(tmp_path / "b")
    fill(tmp_path / "b", {".launchignore": "*"})
    assert "nothing to send" in refused(tmp_path / "b")


def test_what_is_too_large_is_refused_with_its_biggest_parts(tmp_path: Path) -> None:
    folder = fill(tmp_path / "a", {"code.py": "x", "data/small": "x" * 10})
    (folder / "data" / "big.bin").write_bytes(os.urandom(200_000))
    said = refused(folder, limit_bytes=100_000)
    assert "data/big.bin (200,000 bytes)" in said
    assert "LAUNCH_UPLOAD_BYTES" in said
    assert ".launchignore" in said


def test_what_compresses_too_well_is_refused_before_it_is_read(tmp_path: Path) -> None:
    folder = fill(tmp_path / "a", {"x": "x"})
    with (folder / "zeros").open("wb") as file:
        file.truncate(1 << 40)
    assert "zeros (1,099,511,627,776 bytes)" in refused(folder)


def test_too_many_entries_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MAX_ENTRIES", 3)
    said = refused(fill(tmp_path / "a", {"many/sub/" + str(n): "x" for n in range(9)}))
    assert "more than 3 files" in said
    assert "many/sub (3 entries)" in said


# -- what is left out ----------------------------------------------------------------------------------------------

TREE = dict.fromkeys(
    (
        *(".git/config", "sub/.git", "a.py", "a.log", "keep.log", "build/x", "sub/build/x", "sub/a.log", "sub/b.tmp"),
        *("sub/deep/b.tmp", "data/x.csv", "data/keep.csv"),
    ),
    "",
)


def test_git_is_never_sent(tmp_path: Path) -> None:
    assert not [path for path in paths(fill(tmp_path, TREE)) if ".git" in path.split("/")]


def test_gitignore_files_count_each_for_its_folder(tmp_path: Path) -> None:
    fill(tmp_path, TREE)
    fill(tmp_path, {
        ".gitignore": "*.log\n!keep.log\n/build/\ndata/*\n!data/keep.csv\n# a comment\n",
        "sub/.gitignore": "*.tmp\n!a.log\n",
        "sub/deep/.gitignore": "!b.tmp\n",
    })  # fmt: skip
    kept = [path for path in paths(tmp_path) if (tmp_path / path).is_file() and not path.endswith(".gitignore")]
    assert kept == ["a.py", "data/keep.csv", "keep.log", "sub/a.log", "sub/build/x", "sub/deep/b.tmp"]


def test_what_is_below_an_excluded_folder_cannot_come_back(tmp_path: Path) -> None:
    fill(tmp_path, {".gitignore": "out/\n!out/keep\n", "out/keep": "", "out/.gitignore": "!keep", "x": ""})
    assert paths(tmp_path) == [".gitignore", "x"]


def test_launchignore_stands_in_place_of_all_gitignore_files(tmp_path: Path) -> None:
    fill(
        tmp_path,
        {".launchignore": "*.csv\n", ".gitignore": "x\n", "x": "", "a.csv": "", "sub/.gitignore": "y", "sub/y": ""},
    )
    assert paths(tmp_path) == [".gitignore", ".launchignore", "sub", "sub/.gitignore", "sub/y", "x"]


# -- hostile archives ----------------------------------------------------------------------------------------------


def tar_of(*members: tuple[str, dict[str, Any], bytes]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, fields, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for field, value in fields.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(data))
    return gzip.compress(raw.getvalue())


FOLDER = {"type": tarfile.DIRTYPE, "mode": 0o755}


def link(target: str) -> dict[str, Any]:
    return {"type": tarfile.SYMTYPE, "linkname": target}


@pytest.mark.parametrize(
    "members",
    [
        *([(name, {}, b"x")] for name in ("/tmp/x", "../x", "a/../../x", "..", ".", "./x", "a//x", "a/", "")),
        [("a/x", {}, b"x")],
        [("a", link("/tmp"), b"")],
        [("a", link("../x"), b"")],
        [("a", link(""), b"")],
        [("d", FOLDER, b""), ("d/a", link("../../x"), b"")],
        [("a", link("b"), b""), ("a/x", {}, b"x")],
        [("b", FOLDER, b""), ("a", link("b"), b""), ("a/x", {}, b"x")],
        [("a", {}, b"x"), ("a", {}, b"y")],
        [("a", FOLDER, b""), ("a", link("b"), b"")],
        [("a", link("b"), b""), ("a", FOLDER, b""), ("a/x", {}, b"")],
        [("a", {"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"}, b"")],
        [("x", {}, b"x"), ("a", {"type": tarfile.LNKTYPE, "linkname": "x"}, b"")],
        [("a", {"type": tarfile.FIFOTYPE}, b"")],
        [("a", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}, b"")],
        [("a", {"type": tarfile.BLKTYPE}, b"")],
        [("a", {"pax_headers": {"GNU.sparse.size": "99999999999", "GNU.sparse.map": "0,1"}}, b"x")],
        [("a", {"pax_headers": {"comment": "x" * (8 << 20)}}, b"x")],
        [("a", {"pax_headers": {"path": "../x"}}, b"x")],
        [("a", {}, b"x" * (2 << 20))],
        [("a", {}, b"x" * (1 << 19)), ("b", {}, b"x" * (1 << 19)), ("c", {}, b"x")],
    ],
)  # fmt: skip
def test_a_hostile_archive_is_refused_and_writes_nothing_outside(
    tmp_path: Path, members: list[tuple[str, dict[str, Any], bytes]]
) -> None:
    (tmp_path / "around").mkdir()
    with pytest.raises(CodeError) as error:
        unpack(tar_of(*members), tmp_path / "around" / "in")
    assert "\n" not in str(error.value)
    assert [path.name for path in (tmp_path / "around").iterdir()] == ["in"]


def test_a_bomb_is_noticed_before_it_has_gone_off(tmp_path: Path) -> None:
    with pytest.raises(CodeError, match="larger than 1,048,576 bytes unpacked"):
        unpack(tar_of(("a", {}, bytes(64 << 20))), tmp_path / "in")
    assert sum(path.stat().st_size for path in (tmp_path / "in").rglob("*")) <= LIMIT


def test_many_entries_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launch_worker.code.extract.MAX_ENTRIES", 3)
    with pytest.raises(CodeError, match="more than 3 entries"):
        unpack(tar_of(*((str(n), {}, b"") for n in range(4))), tmp_path / "in")


@pytest.mark.parametrize("what", ["nothing", "no gzip", "no tar", "an empty tar", "a cut one"])
def test_what_is_no_archive_is_said(tmp_path: Path, what: str) -> None:
    data = {
        "nothing": b"",
        "no gzip": b"x" * 100,
        "no tar": gzip.compress(b"x" * 10_000),
        "an empty tar": gzip.compress(b""),
        "a cut one": tar_of(("a", {}, b"x" * 9000))[:60],
    }[what]
    with pytest.raises(CodeError):
        unpack(data, tmp_path / "in")


def test_special_bits_of_an_archive_are_taken_off(tmp_path: Path) -> None:
    unpack(tar_of(("x", {"mode": 0o6777}, b"x"), ("d", FOLDER | {"mode": 0o7777}, b"")), tmp_path / "in")
    for path in (tmp_path / "in").rglob("*"):
        assert path.stat().st_mode & 0o7000 == 0, path
