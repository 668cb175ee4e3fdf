"""What a notice says: a sentence first, then what helps, and nothing twice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from launch_worker.model.group import KINDS, GroupRecord
from launch_worker.model.states import RunState
from launch_worker.notifications.message import GROUP_HALTED, Alarm, Best, digest, of_alarm, of_group, of_run
from launch_worker.notifications.texts import OUTPUT_LINES, text_of
from tests.unit.notifications.test_senders import HOSTILE, RUN


def said(state: RunState, *, output: str = "", **fields: Any) -> list[str]:
    text = text_of(of_run("n", 1, replace(RUN, state=state, **fields), state, output=output))
    return [text.sentence, *text.lines]


FACTS = "Run 1m83cyvtfq1tc69, queue gpu, project lab/x, by ada."


@pytest.mark.parametrize(
    ("fields", "lines"),
    [
        (
            {"reason": "KeyError: 'label' (exit code 1)", "exit_code": 1},
            ["train failed after 2 min 3 s on celery@vm: KeyError: 'label' (exit code 1).", FACTS],
        ),
        (
            {"reason": "exit code 127", "exit_code": 127},
            [
                "train failed after 2 min 3 s on celery@vm: exit code 127, a command was not found.",
                "The shell did not find it, or a library of it: the last line names it. Look at PATH on the worker, or "
                "take an --image that has it.",
                FACTS,
            ],
        ),
    ],
)
def test_a_failure_is_one_sentence_and_what_helps(fields: dict[str, Any], lines: list[str]) -> None:
    assert said(RunState.FAILED, **fields) == lines


def test_other_moments_are_a_sentence_each() -> None:
    assert said(RunState.FINISHED)[0] == "train finished after 2 min 3 s on celery@vm."
    assert said(RunState.RUNNING) == ["train runs on celery@vm.", FACTS]
    assert said(RunState.PENDING)[0] == "train is tried again on celery@vm: exit code 3."
    assert said(RunState.KILLED, reason="cancelled by bob")[0].endswith(
        "was killed after 2 min 3 s on celery@vm: cancelled by bob."
    )
    never = said(RunState.KILLED, reason="cancelled", attempt=0, worker="", started_at=None)
    assert never[0] == "train was killed: cancelled."


def test_an_output_is_its_last_lines_without_what_steers_a_terminal() -> None:
    output = "\n".join(f"line {number}\x1b[31m" for number in range(100)) + f"\n{HOSTILE}\n{'x' * 10_000}\n\n"
    text = text_of(of_run("n", 1, RUN, RunState.FAILED, output=output))
    assert len(text.output) == OUTPUT_LINES
    assert text.output[-1].endswith("x…")
    body = text.body()
    assert body.replace("\n", "").isprintable()
    assert "\x1b" not in body


def test_a_group_says_its_counts_its_first_failures_and_its_best() -> None:
    counts = {**dict.fromkeys(KINDS, 0), "Finished": 98, "Failed": 1, "Never": 1}
    group = GroupRecord("a1m83cyvtfq1tc69", "array", RUN.id, 100, counts, name="ablation")
    text = text_of(of_group("g", 1, group, failed=[RUN]), server_url="https://launch.example")
    assert text.subject == "Ended: ablation"
    assert text.sentence == "The array ablation has ended: 98 of 100 runs finished, 1 failed, 1 never ran."
    assert "  train (1m83cyvtfq1tc69), Failed: exit code 3" in text.lines
    assert text.commands[-1] == "launch-worker retry --failed a1m83cyvtfq1tc69"
    assert text.url == "https://launch.example/runs?group=a1m83cyvtfq1tc69"
    halted = replace(group, halted=2, counts={**counts, "Running": 1})
    text = text_of(of_group("g", 1, halted, type_=GROUP_HALTED))
    assert text.subject == "Halted: ablation"
    assert text.sentence.startswith("The array ablation is halted after 2 failed runs (--max-fails): 98 of 100 runs")
    assert " has ended, halted after 2 failed runs" in text_of(of_group("g", 1, replace(group, halted=2))).sentence
    sweep = text_of(of_group("s", 1, replace(group, kind="sweep"), best=Best(RUN, "loss", 0.12345)))
    assert sweep.lines == ("The best loss is 0.1235: train (1m83cyvtfq1tc69).",)


def test_a_digest_counts_by_kind_and_lists_a_bounded_number() -> None:
    parts = [of_run(str(number), 1, RUN, RunState.FAILED, output="secret") for number in range(60)]
    text = text_of(digest("d", 1, [*parts, of_alarm("a", 1, Alarm("slow", "queue", "gpu", 1, HOSTILE))]))
    assert text.subject == "Digest: 61 notices"
    assert text.sentence == "61 notices of the quiet hours: 60 failed, 1 alarm."
    assert text.lines[-1] == "… and 11 more notices."
    assert "secret" not in text.body()
