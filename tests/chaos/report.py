"""The table at the end."""

from __future__ import annotations

from collections.abc import Iterator

from tests.chaos.verify import Findings


def table(findings: Findings, *, seed: int, duration_s: float) -> str:
    """Runs, faults by kind, attempts, crashed, recovered, violations."""
    rows = list(_rows(findings))
    width = max(len(label) for label, _ in rows)
    lines = [f"chaos: seed {seed}, {duration_s:g} s", *(f"{label:<{width}}  {value}" for label, value in rows)]
    lines += [f"note: {note}" for note in findings.notes]
    lines += [f"tolerated: {text}" for text in findings.tolerated]
    lines += [f"VIOLATION: {text}" for text in findings.violations]
    return "\n".join(lines)


def _rows(findings: Findings) -> Iterator[tuple[str, str]]:
    states = ", ".join(f"{count} {state}" for state, count in sorted(findings.states.items()))
    yield "runs", f"{findings.runs:6}   {states}"
    yield "attempts", f"{findings.attempts:6}"
    kills = sum(count for kind, count in findings.faults.items() if kind.startswith("kill"))
    yield "faults", f"{sum(findings.faults.values()):6}   of these {kills} kills"
    for kind, count in sorted(findings.faults.items()):
        missed = findings.missed.get(kind, 0)
        yield f"  {kind}", f"{count:6}" + (f"   ({missed} more found no target)" if missed else "")
    yield "crashed", f"{findings.crashed:6}"
    yield (
        "recovered",
        (
            f"{findings.retried + findings.came_back:6}   {findings.retried} by a new attempt, "
            f"{findings.came_back} proved alive or reported late"
        ),
    )
    yield "resumed", f"{findings.resumed:6}   from a checkpoint; {findings.kept} attempts had one called stored"
    yield "outputs", f"{findings.outputs:6}   attempts had some kept; {findings.took} attempts were given some"
    yield (
        "rules",
        f"{findings.ruled:6}   runs had some; {findings.timed_out} attempts reached their time limit, "
        f"{findings.halted} groups were halted, {findings.in_environments} attempts ran in an environment",
    )
    late = findings.told_s
    shares = [
        f"{int(100 * share)} % after {late[int(share * (len(late) - 1))]:.2f} s" for share in (0.5, 0.95, 1) if late
    ]
    yield "notices", f"{findings.told:6}   in {findings.tries} tries that were heard; {', '.join(shares)}"
    if findings.vitals:
        yield "the most", findings.vitals
    yield "tolerated", f"{len(findings.tolerated):6}"
    yield "violations", f"{len(findings.violations):6}"
