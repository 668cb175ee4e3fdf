"""What a run takes of another one's outputs is read once, and can lead nowhere else."""

from __future__ import annotations

import pytest

from launch_worker.errors import InputError
from launch_worker.model.inputs import WHOLE, Input, check_inputs, parse_input
from launch_worker.model.spec import RunSpec

RUN = "1m83cyvtfq1tc69"


@pytest.mark.parametrize(
    ("text", "path", "dest"),
    [
        (f"{RUN}:model.pt", "model.pt", "model.pt"),
        (f"{RUN}:./best//model.pt:m.pt", "best/model.pt", "m.pt"),
        (f"{RUN}:.", WHOLE, WHOLE),
        (f"{RUN}:data/:.", "data", WHOLE),
        (f"{RUN}:a b/ü..x:..c", "a b/ü..x", "..c"),
    ],
)
def test_an_input_names_a_run_a_path_and_a_destination(text: str, path: str, dest: str) -> None:
    assert parse_input(text) == Input(RUN, path, dest)
    assert parse_input(str(parse_input(text))) == Input(RUN, path, dest)


@pytest.mark.parametrize(
    "text",
    [
        *("", RUN, f"{RUN}:", f":{RUN}", f"{RUN}::x", f"{RUN}:a:b:c", "train:model.pt", f"a{RUN}:x"),
        *(f"{RUN}:/etc/passwd", f"{RUN}:../x", f"{RUN}:a/../../x", f"{RUN}:x:../y", f"{RUN}:x:/y", f"{RUN}:x\x00"),
        *(f"{RUN}:\ud800", f"{RUN}:{'x' * 2000}"),
    ],
)
def test_what_is_no_input_or_leads_out_of_its_folder_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"^input "):
        check_inputs((text,))


def test_a_run_waits_for_the_runs_of_its_inputs() -> None:
    other = "1m83cyvtfq1tc70"
    spec = RunSpec(command=("x",), after=(f"{other}:any",), inputs=(f"{RUN}:a", f"{RUN}:b", f"{other}:c"))
    assert spec.waits == {other: "any", RUN: "ok"}
