"""Every script loads, with all shared words that it uses and nothing else, and writes records the one way."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Any

import pytest

from launch_worker.store.redis.scripts import SUBJECTS, script_of
from launch_worker.store.store import Store

LUA = files("launch_worker.store") / "lua"
#: Files of shared words, by subject, in the order in which scripts get them.
WORDS = {subject: (LUA / "words" / f"{subject}.lua").read_text() for subject in SUBJECTS}
SCRIPTS = {entry.name.removesuffix(".lua"): entry.read_text() for entry in LUA.iterdir() if entry.name.endswith(".lua")}
#: The shared words: what `words/*.lua` gives a name to, at the beginning of a line.
SHARED = re.findall(r"^local (?:function )?(\w+)", "\n".join(WORDS.values()), re.MULTILINE)


def words(lua: str) -> list[str]:
    """Names in a text that can be shared words: comments, strings and fields are left out."""
    lua = re.sub(r"--.*", "", lua)
    lua = re.sub(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"", "''", lua)
    return re.findall(r"(?<![.\w])[A-Za-z_]\w*", lua)


def test_every_file_of_words_has_its_place_in_the_order() -> None:
    assert sorted(SUBJECTS) == sorted(entry.name.removesuffix(".lua") for entry in (LUA / "words").iterdir())


@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_file_of_words_consists_of_single_locals(subject: str) -> None:
    """Any other line at the left margin would be left out, or kept, with the word above it."""
    code = re.sub(r"^ *--.*\n", "", WORDS[subject], flags=re.MULTILINE)
    begun = {line.split()[0] for line in code.splitlines() if line and not line.startswith((" ", "end", "}"))}
    assert begun == {"local"}
    assert not re.search(r"^local \w+\s*,", code, re.MULTILINE)


def test_no_word_has_two_meanings() -> None:
    assert len(SHARED) == len(set(SHARED))


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_loads(store: Store, redis_client: Any, name: str) -> None:
    source, sha = script_of(name)
    assert redis_client.script_load(source) in (sha, sha.encode())


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_has_the_shared_words_that_it_uses_above_their_use(name: str) -> None:
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


@pytest.mark.parametrize("name", sorted((SCRIPTS | WORDS).keys() - {"record", "retention"}))
def test_records_are_written_in_one_way(name: str) -> None:
    """What a script has read of a record stays true: `put`, `drop` and `forget` note what they change."""
    assert "redis.call('HSET', run_key(id)" in WORDS["record"]
    for lua in (SCRIPTS.get(name, ""), WORDS.get(name, "")):
        assert not re.search(r"'(HSET|HDEL|HINCRBY|DEL)', run_key\(\w+\)[,)]", lua)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_names_its_arguments_in_its_first_statement(name: str) -> None:
    """All of them; of a list at the end only its beginning has a name."""
    code = re.sub(r"^ *--.*\n", "", SCRIPTS[name], flags=re.MULTILINE)
    first = re.match(r"local [\w, \n]+ = (unpack\(ARGV(, 1, \d+)?\)|(tonumber\()?ARGV\[1\]\)?|ARGV)\n", code)
    assert first, code[:200]
    assert not re.search(r"ARGV\[\d|unpack\(ARGV, \d", code[first.end() :])


def test_a_script_carries_little_that_it_does_not_use() -> None:
    """Each shared function costs time in each call."""
    sizes = {name: len(re.findall(r"^local ", script_of(name)[0], re.MULTILINE)) for name in ("started", "append_log")}
    assert max(sizes.values()) < 20, sizes
