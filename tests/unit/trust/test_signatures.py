"""A signature holds for the run, the spec, the user and the expiry that were signed, and for nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from launch_worker.errors import InputError
from launch_worker.ids import new_run_id
from launch_worker.model.derived import check_derived
from launch_worker.model.run import Record
from launch_worker.model.spec import RunSpec
from launch_worker.store.submit import fields_of
from launch_worker.trust.keys import new_private
from launch_worker.trust.signatures import Signer, is_signed_by, read_signature

KEY = new_private("sign")
RUN = new_run_id()
SPEC = RunSpec(command=("python", "a.py"), env={"A": "ä"}, queue="gpu", memory="1G..4G", tags=("x",)).to_json()


def test_a_signature_holds_for_just_what_was_signed() -> None:
    signature = read_signature(Signer(KEY).signature(RUN, SPEC, user="ada"))
    assert signature.key_id == KEY.public.id
    assert is_signed_by(KEY.public, signature, RUN, SPEC, user="ada")
    assert not is_signed_by(KEY.public, signature, new_run_id(), SPEC, user="ada")
    assert not is_signed_by(KEY.public, signature, RUN, SPEC.replace("a.py", "b.py"), user="ada")
    assert not is_signed_by(KEY.public, signature, RUN, SPEC, user="")
    later = signature._replace(expires_us=signature.expires_us + 1)
    assert not is_signed_by(KEY.public, later, RUN, SPEC, user="ada")
    assert not is_signed_by(new_private("sign").public, signature, RUN, SPEC, user="ada")


@pytest.mark.parametrize("text", ["", "a.b.c", "0" * 16 + ".1." + "A" * 85, "0" * 16 + ".x." + "A" * 86])
def test_a_text_that_is_no_signature_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="signature is damaged"):
        read_signature(text)


def record_of(spec: RunSpec) -> Record:
    fields = list(map(str, fields_of(spec)))
    pairs = dict(zip(fields[::2], fields[1::2], strict=True))
    return Record.from_hash({"priority": "6", "queue": spec.queue, **pairs, "id": RUN})


FULL = RunSpec(
    command=("a",),
    queue="gpu",
    name="n",
    project="lab/iris",
    tags=("x", "y"),
    priority="high",
    gpus=1,
    memory="1G..4G",
    concurrency_key="k",
    array=RUN,
    array_index=1,
)


@pytest.mark.parametrize(
    "spec", [FULL, RunSpec(command=("true",)), RunSpec(command=("true",), sweep="s", memory=1 << 30)]
)
def test_a_record_as_it_was_created_is_that_of_its_spec(spec: RunSpec) -> None:
    check_derived(record_of(spec), spec)


def test_the_memory_of_a_range_may_have_been_doubled() -> None:
    check_derived(replace(record_of(FULL), needs=f"1:0:{4 << 30}"), FULL)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("queue", "default"), ("name", "m"), ("project", ""), ("tags", ("x",)), ("priority", 0), ("array", "")),
        *(("sweep", "s"), ("concurrency_key", ""), ("needs", "2:0:1073741824"), ("needs", f"1:0:{5 << 30}")),
    ],
)
def test_a_changed_field_of_a_record_is_named(field: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"its {field.replace('_', ' ')} is not the one"):
        check_derived(replace(record_of(FULL), **{field: value}), FULL)
