"""Every script loads, with all of the prelude that it uses and nothing else, and writes records the one way."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from launch_worker.store.redis.scripts import script_of
from launch_worker.store.store import Store

LUA = files("launch_worker.store") / "lua"
PRELUDE = (LUA / "prelude.lua").read_text()
NAMES = sorted(entry.name.removesuffix(".lua") for entry in LUA.iterdir())
SCRIPTS = [name for name in NAMES if name != "prelude"]
#: What the prelude gives a name to, at the beginning of a line.
SHARED = re.findall(r"^local (?:function )?(\w+)", PRELUDE, re.MULTILINE)


def words(lua: str) -> list[str]:
    """What may be a name of the prelude's: no comment, no text, no field."""
    lua = re.sub(r"--.*", "", lua)
    lua = re.sub(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"", "''", lua)
    return re.findall(r"(?<![.\w])[A-Za-z_]\w*", lua)


def test_the_prelude_consists_of_single_locals() -> None:
    """What else began a line there would be left out, or kept, with the part before it."""
    code = re.sub(r"^ *--.*\n", "", PRELUDE, flags=re.MULTILINE)
    begun = {line.split()[0] for line in code.splitlines() if line and not line.startswith((" ", "end", "}"))}
    assert begun == {"local"}
    assert not re.search(r"^local \w+\s*,", PRELUDE, re.MULTILINE)
    assert len(SHARED) == len(set(SHARED))


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_loads(store: Store, name: str) -> None:
    source, sha = script_of(name)
    assert store._redis.script_load(source) in (sha, sha.encode())


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_has_what_it_uses_of_the_prelude_above_it(name: str) -> None:
    source, _ = script_of(name)
    parts = re.split(r"^(?=local )", source, flags=re.MULTILINE)
    known: set[str] = set()
    for part in parts:
        begun = re.match(r"local (?:function )?(\w+)", part)
        known |= {begun[1]} if begun else set()
        local = set(re.findall(r"\blocal (?:function )?(\w+(?:, *\w+)*)", part))
        own = {word for names in local for word in re.split(r", *", names)}
        own |= {word for names in re.findall(r"function[^(\n]*\(([^)]*)\)", part) for word in re.split(r", *", names)}
        own |= {word for names in re.findall(r"\bfor ([\w, ]+) in", part) for word in re.split(r", *", names)}
        assert not (set(words(part)) & set(SHARED)) - known - own


@pytest.mark.parametrize("name", NAMES)
def test_records_are_written_in_one_way(name: str) -> None:
    """What a script has read of a record stays true: `put`, `drop` and `forget` note what they change."""
    lua = (LUA / f"{name}.lua").read_text()
    if name == "prelude":
        before, ours, after = re.split(
            r"^(?=local function put|-- The arrows that a Redis)", lua, maxsplit=2, flags=re.MULTILINE
        )
        assert ours.count("run_key(id)") >= 3
        lua = before + after
    assert not re.search(r"'(HSET|HDEL|HINCRBY|DEL)', run_key\(\w+\)[,)]", lua)


def test_a_script_carries_little_that_it_does_not_use() -> None:
    """Each of the prelude's functions costs time in each call."""
    sizes = {name: len(re.findall(r"^local ", script_of(name)[0], re.MULTILINE)) for name in ("started", "append_log")}
    assert max(sizes.values()) < 20, sizes
