"""The library of functions: what is in it, that it is loaded when it is missing, and how its scripts are written."""

from __future__ import annotations

import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from launch_worker.dev.redis_server import find_redis_server
from launch_worker.errors import BrokerUnavailableError, LaunchError, SettingsError
from launch_worker.ids import new_run_id
from launch_worker.model.spec import RunSpec
from launch_worker.store import keys
from launch_worker.store.redis.library import SUBJECTS, Library, function_of, library
from launch_worker.store.store import Store
from launch_worker.store.submit import Creator
from tests.conftest import wait_until
from tests.support.arrows import enlist
from tests.support.ports import own_port

SPEC = RunSpec(command=("true",))
LUA = files("launch_worker.store") / "lua"
#: Files of shared words, by subject, in the order of the library.
WORDS = {subject: (LUA / "words" / f"{subject}.lua").read_text() for subject in SUBJECTS}
SCRIPTS = {entry.name.removesuffix(".lua"): entry.read_text() for entry in LUA.iterdir() if entry.name.endswith(".lua")}
#: The shared words: what `words/*.lua` gives a name to, at the beginning of a line.
SHARED = re.findall(r"^local (?:function )?(\w+)", "\n".join(WORDS.values()), re.MULTILINE)
#: Tables whose fields are functions: they are made once.
TABLES = set(re.findall(r"^function (\w+)\.", "\n".join(WORDS.values()), re.MULTILINE)) & set(SHARED)


def words(lua: str) -> list[str]:
    """Names in a text that can be shared words: comments, strings and fields are left out."""
    lua = re.sub(r"--.*", "", lua)
    lua = re.sub(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"", "''", lua)
    return re.findall(r"(?<![.\w])[A-Za-z_]\w*", lua)


def test_every_file_of_words_has_its_place_in_the_order() -> None:
    assert sorted(SUBJECTS) == sorted(entry.name.removesuffix(".lua") for entry in (LUA / "words").iterdir())


@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_file_of_words_consists_of_single_locals(subject: str) -> None:
    """So that each has a name of its own, and none is a global, which no function may write.

    The functions of a subject may be in a table: Lua allows 200 local variables in the whole library.
    """
    code = re.sub(r"^ *--.*\n", "", WORDS[subject], flags=re.MULTILINE)
    code = re.sub(rf"^function (?:{'|'.join(TABLES)})\.\w+\(", "local function (", code, flags=re.MULTILINE)
    begun = {line.split()[0] for line in code.splitlines() if line and not line.startswith((" ", "end", "}"))}
    assert begun == {"local"}
    assert not re.search(r"^local \w+\s*,", code, re.MULTILINE)


def test_no_word_has_two_meanings() -> None:
    assert len(SHARED) == len(set(SHARED))


@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_word_uses_words_above_it_only(subject: str) -> None:
    before = "\n".join(WORDS[name] for name in SUBJECTS[: SUBJECTS.index(subject)])
    known = set(re.findall(r"^local (?:function )?(\w+)", before, re.MULTILINE))
    for part in re.split(r"^(?=local )", WORDS[subject], flags=re.MULTILINE):
        begun = re.match(r"local (?:function )?(\w+)", part)
        known |= {begun[1]} if begun else set()
        local = set(re.findall(r"\blocal (?:function )?(\w+(?:, *\w+)*)", part))
        own = {word for names in local for word in re.split(r", *", names)}
        own |= {word for names in re.findall(r"function[^(\n]*\(([^)]*)\)", part) for word in re.split(r", *", names)}
        own |= {word for names in re.findall(r"\bfor ([\w, ]+) in", part) for word in re.split(r", *", names)}
        assert not (set(words(part)) & set(SHARED)) - known - own


def test_what_one_call_has_read_is_forgotten_by_the_next() -> None:
    """A library's variables outlive a call. Constants are in capitals."""
    variables = set(re.findall(r"^local ([a-z]\w*) =", "\n".join(WORDS.values()), re.MULTILINE))
    body = WORDS["functions"].split("local function start_call()")[1].split("\nend\n")[0]
    reset = {name for names in re.findall(r"^  ([\w, ]+) = ", body, re.MULTILINE) for name in names.split(", ")}
    assert variables - reset == {"server"}
    assert reset <= variables


def test_the_functions_that_a_full_server_refuses_exist() -> None:
    named = WORDS["functions"].split("local NOT_WHEN_FULL = {")[1].split("}")[0]
    assert set(re.findall(r"(\w+) = true", named)) <= set(SCRIPTS)


def test_each_script_is_a_function_of_one_library(store: Store, redis_client: Any) -> None:
    store.heal([])
    names = redis_client.execute_command("FUNCTION", "LIST", "LIBRARYNAME", library().name)
    assert set(re.findall(library().name + r"_\w+", str(names))) == {function_of(script) for script in SCRIPTS}


def test_two_versions_are_in_one_redis(store: Store, redis_client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = new_run_id()
    assert store.create(run_id, SPEC).is_new
    other = Library("launch_other", library().code)
    with monkeypatch.context() as newer:
        newer.setattr("launch_worker.store.redis.client.library", lambda: other)
        newer.setattr("launch_worker.store.redis.client.function_of", lambda script: f"launch_other_{script}")
        assert not store.create(run_id, SPEC).is_new
    assert not store.create(run_id, SPEC).is_new
    redis_client.function_delete("launch_other")


@pytest.mark.parametrize("is_quick", [True, False])
def test_a_library_that_is_gone_is_loaded_again(store: Store, redis_client: Any, is_quick: bool) -> None:
    creator = Creator(store.url, is_quick=is_quick)
    for _ in range(2):
        redis_client.function_flush()
        assert creator.create(new_run_id(), SPEC).is_new
    creator.close()


def test_a_claim_finds_a_library_that_is_gone(store: Store, redis_client: Any) -> None:
    enlist(store, "w", "default")
    for _ in range(2):
        run_id = new_run_id()
        store.create(run_id, SPEC)
        redis_client.function_flush()
        record, why = store.claim(run_id, 1, owner="w", worker="w", host="h", lease_s=30)
        assert record is not None, why


def test_clients_that_load_at_the_same_time_do_not_hinder_each_other(store: Store, redis_client: Any) -> None:
    clients = [Creator(store.url) for _ in range(20)]
    redis_client.function_flush()
    with ThreadPoolExecutor(20) as pool:
        made = list(pool.map(lambda client: client.create(new_run_id(), SPEC).is_new, clients))
    assert made == [True] * 20
    for client in clients:
        client.close()


def test_an_error_amid_a_call_leaves_nothing_to_the_next(store: Store, redis_client: Any) -> None:
    """A call that ends early has read records, and gathered entries of indexes for `add_all`."""
    first, second = new_run_id(), new_run_id()
    redis_client.set("launch:consumers:default", "no sorted set")
    with pytest.raises(LaunchError):
        store.create(first, SPEC)
    redis_client.delete("launch:consumers:default")
    redis_client.set(keys.QUEUES, "no set")
    with pytest.raises(LaunchError):
        store.create(first, SPEC)
    redis_client.flushdb()
    assert store.create(second, SPEC).is_new
    assert redis_client.zrange(keys.RUNS, 0, -1) == [second.encode()]
    assert store.create(first, SPEC).is_new


def test_a_server_without_functions_is_refused_in_one_sentence(tmp_path: Path) -> None:
    """As Redis 6.2 answers."""
    port = own_port()
    renamed = [word for name in ("FCALL", "FUNCTION") for word in ("--rename-command", name, "")]
    words = [find_redis_server(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", *renamed]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(words, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        for is_quick in (True, False):
            creator = Creator(f"redis://127.0.0.1:{port}/0", is_quick=is_quick)
            wait_until(partial(answers, creator))
            with pytest.raises(SettingsError, match=r"too old: it has no functions; use Redis 7\.0 or newer"):
                creator.create(new_run_id(), SPEC)
            creator.close()
    finally:
        server.kill()
        server.wait()


def answers(creator: Creator) -> bool:
    try:
        return creator.exists("x") is False
    except BrokerUnavailableError:
        return False


@pytest.mark.parametrize("name", sorted((SCRIPTS | WORDS).keys() - {"record", "retention"}))
def test_records_are_written_in_one_way(name: str) -> None:
    """What a script has read of a record stays true: `put`, `drop` and `forget` note what they change."""
    assert "redis.call('HSET', run_key(id)" in WORDS["record"]
    for lua in (SCRIPTS.get(name, ""), WORDS.get(name, "")):
        assert not re.search(r"'(HSET|HDEL|HINCRBY|DEL)', run_key\(\w+\)[,)]", lua)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_names_its_arguments_in_its_first_statement(name: str) -> None:
    """All of them; of a list at the end only its beginning has a name."""
    if "ARGV" not in SCRIPTS[name]:
        return
    code = re.sub(r"^ *--.*\n", "", SCRIPTS[name], flags=re.MULTILINE)
    first = re.match(r"local [\w, \n]+ = (unpack\(ARGV(, 1, \d+)?\)|(tonumber\()?ARGV\[1\]\)?|ARGV)\n", code)
    assert first, code[:200]
    assert not re.search(r"ARGV\[\d|unpack\(ARGV, \d", code[first.end() :])
