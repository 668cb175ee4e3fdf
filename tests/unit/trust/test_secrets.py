"""Secrets come from a place where nobody else sees them, are sealed, and open for their own run only."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from launch_worker.errors import CodeError, InputError
from launch_worker.ids import new_run_id
from launch_worker.model.masking import MASK, masked_spec
from launch_worker.model.secrets import MAX_ALL_BYTES, MAX_SECRET_BYTES, MAX_SECRETS
from launch_worker.model.spec import RunSpec
from launch_worker.submission.command_line import command_line, options_of_spec
from launch_worker.trust.keys import PrivateKey, new_private, write_private
from launch_worker.trust.secrets import check_values, opened, read_secrets, sealed

RUN = new_run_id()
SPEC = RunSpec(command=("env",), env={"A": "1"}, timeout_s=0.1)
VALUE = "very-säcret\n"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    folder.mkdir()
    return folder


def add_key(folder: Path) -> PrivateKey:
    key = new_private("seal")
    write_private(folder / f"{key.public.id}.key", key)
    return key


def sealed_spec(key: PrivateKey, spec: RunSpec = SPEC, run_id: str = RUN) -> str:
    texts = sealed({"TOKEN": VALUE}, key.public, run_id=run_id, spec_text=spec.to_json())
    return RunSpec(**{**vars(spec), "secrets": texts}).to_json()


def test_a_sealed_value_opens_for_its_run_and_shows_nowhere(keys: Path) -> None:
    text = sealed_spec(add_key(keys))
    assert opened(text, run_id=RUN, keys=keys) == {"TOKEN": VALUE}
    assert "säcret" not in text
    assert masked_spec(text)["secrets"] == {"TOKEN": MASK}
    for shown in (text, json.dumps(masked_spec(text))):
        assert "--secret TOKEN " in command_line(options_of_spec(shown))


def test_a_sealed_value_does_not_open_elsewhere(keys: Path) -> None:
    text = sealed_spec(add_key(keys))
    spec = json.loads(text)
    changed = json.dumps(spec | {"command": ["curl", "evil"]})
    renamed = json.dumps(spec | {"secrets": {"OTHER": spec["secrets"]["TOKEN"]}})
    for other, run_id in ((text, new_run_id()), (changed, RUN), (renamed, RUN)):
        with pytest.raises(InputError, match="sealed for another run, or this run's record was changed"):
            opened(other, run_id=run_id, keys=keys)
    with pytest.raises(InputError, match="sealed for another run, or this run's record was changed"):
        opened(text, run_id=RUN, keys=keys, user="mallory")
    cut = spec["secrets"]["TOKEN"][:-8]
    with pytest.raises(InputError, match="cannot be opened"):
        opened(json.dumps(spec | {"secrets": {"TOKEN": cut}}), run_id=RUN, keys=keys)


def test_older_and_later_keys_open_what_was_sealed_with_them(keys: Path) -> None:
    old = sealed_spec(add_key(keys))
    assert opened(old, run_id=RUN, keys=keys) == {"TOKEN": VALUE}
    new = sealed_spec(add_key(keys))
    assert opened(new, run_id=RUN, keys=keys) == opened(old, run_id=RUN, keys=keys) == {"TOKEN": VALUE}


def test_a_worker_without_the_key_leaves_the_run_to_another_one(keys: Path) -> None:
    text = sealed_spec(new_private("seal"))
    for place, words in ((None, "LAUNCH_SEALING_KEYS"), (keys, "which its worker does not have")):
        with pytest.raises(CodeError, match=words) as error:
            opened(text, run_id=RUN, keys=place)
        assert error.value.worker_fault


def test_values_come_from_environment_file_and_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "value"
    file.write_text("of a file\n")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"typed\r\n")))
    found = read_secrets(("A", f"B=@{file}", "C=-"), {"A": "of the environment "})
    assert found == {"A": "of the environment ", "B": "of a file", "C": "typed"}


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("A=hunter2",), "stands on the command line"),
        (("A=@",), "stands on the command line"),
        (("A",), "is no variable of this environment"),
        (("A=@/nowhere/x",), "cannot be read"),
        (("A=-", "B=-"), "only one secret"),
    ],
)
def test_a_value_that_others_could_see_or_that_is_nowhere_is_refused(
    words: tuple[str, ...], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"x")))
    with pytest.raises(InputError, match=why) as refusal:
        read_secrets(words, {})
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize(
    "values",
    [
        {"A": ""},
        {"A": "x\0"},
        {"A": "\ud800"},
        {"A": "x" * (MAX_SECRET_BYTES + 1)},
        {f"A{n}": "x" * MAX_SECRET_BYTES for n in range(1 + MAX_ALL_BYTES // MAX_SECRET_BYTES)},
    ],
    ids=["empty", "NUL", "no text", "long", "together long"],
)
def test_a_value_that_no_job_could_have_is_refused(values: dict[str, str]) -> None:
    with pytest.raises(InputError, match="secret"):
        check_values(values)


@pytest.mark.parametrize(
    "secrets",
    [
        {"A": "a value"},
        {"A": ""},
        {"LAUNCH_TOKEN": "0" * 16 + ".AA"},
        {"A-B": "0" * 16 + ".AA"},
        {"A": "0" * 16 + "." + "A" * 1_000_000},
        {f"A{n}": "0" * 16 + ".AA" for n in range(MAX_SECRETS + 1)},
    ],
)
def test_a_spec_takes_sealed_values_only(secrets: dict[str, str]) -> None:
    with pytest.raises(InputError) as refusal:
        RunSpec(command=("true",), secrets=secrets)
    assert "a value" not in str(refusal.value)


def test_a_secret_hides_no_other_variable() -> None:
    with pytest.raises(InputError, match="TOKEN is a secret and another variable"):
        RunSpec(command=("true",), env={"TOKEN": "x"}, secrets={"TOKEN": "0" * 16 + ".AA"})
