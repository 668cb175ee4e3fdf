"""Runs state machines of Hypothesis whose every step is a call of a real Redis."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

#: Sequences that are tried; LAUNCH_TEST_EXAMPLES=2000 for a long search.
EXAMPLES = int(os.environ.get("LAUNCH_TEST_EXAMPLES", "40"))


def try_machine(machine: type[RuleBasedStateMachine]) -> None:
    """Give a machine orders in many sequences of up to 40 steps."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=40,
            database=None,
            # A failure is reported as it was found: shrinking its 40 steps takes minutes.
            phases=(Phase.generate,),
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
