"""Metrics, rules and dashboard: each is what Prometheus takes, of bounded size, and all three name the same things."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch_worker.model.notice import ChannelState, OutboxState
from launch_worker.model.states import FINAL, RunState
from launch_worker.prometheus.metrics import SYSTEM, WORKER, Metric
from launch_worker.prometheus.system import notices_of, values_of
from launch_worker.prometheus.text import as_text
from launch_worker.settings import Settings
from launch_worker.store.counts import BOUNDS, MOST_COUNTED, NO_BOUND, OTHER_QUEUES, Counts
from launch_worker.store.figures import Figures, PoolFigures, QueueFigures
from tests.support.promtool import DASHBOARD, DEPLOY, RULES, promtool

DOCS = Path(__file__).parents[3] / "docs"
#: Labels of our metrics; names, ids, projects and users of runs must never be one.
LABELS = {"state", "queue", "pool", "pass", "channel", "outcome"}
NAMES = {metric.name for metric in (*SYSTEM, *WORKER)}
#: Labels that are no metrics, and words of PromQL.
WORDS = LABELS | {
    "le",
    "instance",
    "job",
    "up",
    "by",
    "on",
    "or",
    "and",
    "sum",
    "max",
    "min",
    "rate",
    "increase",
    "topk",
}
WORDS |= {"without", "ignoring", "group_left", "absent", "histogram_quantile"}


def rules() -> list[dict[str, Any]]:
    [group] = yaml.safe_load(RULES.read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", ())]


def full() -> Figures:
    """A system with as many queues, pools and passes as are told of, and each kind of end in each."""
    counts = Counts({"submitted": 9} | {f"end:{state.value}:{bound}": 1 for state in FINAL for bound in BOUNDS})
    names = (*(f"queue-{number}" for number in range(MOST_COUNTED)), OTHER_QUEUES)
    return Figures(
        now=10**9,
        runs=dict.fromkeys(RunState, 1),
        queue_count=5000,
        queues=[QueueFigures(name, 1, 1, 1, 1.5, "", counts) for name in names],
        pools=[PoolFigures(f"pool-{number}", 1, 1, 5) for number in range(20)],
        counts=counts,
        workers={"running": 1000, "of a later release": 1},
        slots=1,
        slots_busy=1,
        gpus=1,
        gpus_held=1,
        leases_late=1,
        held=1,
        pass_ages_s={f"pass-{number}": 1.0 for number in range(30)},
        events={},
        refused_kept=1,
        feed_length=1,
        has_archive=True,
        unarchived=1,
        unarchived_age_s=1.0,
        server={"maxmemory": 10, "used_memory": 5, "maxclients": 5, "connected_clients": 1},
    )


def many_channels() -> OutboxState:
    state = ChannelState(1, 1, 0, "", 0, 1, oldest_at=10**6, sent=5, refused=1, given_up=0, dropped=0)
    return OutboxState(None, {f"channel-{number}": state for number in range(64)}, 1, 1, 1, 1)


def test_the_text_is_what_prometheus_takes_and_its_size_is_bounded() -> None:
    text = as_text(SYSTEM, values_of(full(), Settings()) | notices_of(many_channels(), now=10**9))
    assert len(text.splitlines()) < 1000
    promtool("check", "metrics", text=text)
    promtool("check", "metrics", text=as_text(WORKER, {metric.name: [((), 1)] for metric in WORKER}))
    named = set(re.findall(rb"# TYPE (\S+)", text))
    assert {name.decode() for name in named} == {metric.name for metric in SYSTEM}


def test_buckets_are_cumulative_and_their_count_is_that_of_all() -> None:
    text = as_text(SYSTEM, values_of(full(), Settings())).decode()
    last = re.search(r'launch_attempt_seconds_bucket\{le="\+Inf",state="Failed"\} (\S+)', text)
    assert last
    assert float(last[1]) == len(BOUNDS)
    assert f'launch_attempt_seconds_count{{state="Failed"}} {last[1]}' in text
    assert NO_BOUND == "+Inf"


@pytest.mark.parametrize("metric", [*SYSTEM, *WORKER], ids=lambda metric: metric.name)
def test_no_metric_has_a_label_whose_values_grow_with_runs(metric: Metric) -> None:
    assert set(metric.labels) <= LABELS
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert metric.help.endswith(".")


def test_each_alarm_has_a_rule_and_each_rule_a_line_in_the_docs() -> None:
    page = (DOCS / "operations.md").read_text()
    told = re.findall(r"^\| [^|]+ \| `(Launch\w+)` \|", page, flags=re.MULTILINE)
    assert sorted(told) == sorted(rule["alert"] for rule in rules())


def test_rules_and_dashboard_name_only_metrics_that_exist() -> None:
    for expression in [rule["expr"] for rule in rules()] + expressions():
        plain = re.sub(r'"[^"]*"|\[[^]]*\]', "", expression)
        for word in re.findall(r"[a-z_]{2,}", plain):
            assert re.sub(r"_(bucket|sum|count)$", "", word) in NAMES | WORDS, expression


def test_every_expression_of_the_dashboard_can_be_read(tmp_path: Path) -> None:
    file = tmp_path / "rules.yml"
    made = [
        {"record": f"panel:{at}", "expr": text.replace("$__rate_interval", "5m")}
        for at, text in enumerate(expressions())
    ]
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": made}]}))
    promtool("check", "rules", str(file))
    promtool("check", "rules", str(RULES))
    promtool("check", "config", "--syntax-only", str(DEPLOY / "prometheus" / "prometheus.yml"))


def test_panels_of_the_dashboard_do_not_overlap_and_each_asks_the_chosen_prometheus() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + dx, place["y"] + dy) for dx in range(place["w"]) for dy in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel.get("targets", ()))


#: For each alarm what is measured when all is well, and when it is not. Of a counter: whether it grows.
SERIES: dict[str, dict[str, tuple[str, str]]] = {
    "LaunchNotMeasured": {"launch_up": ("1", "_")},
    "LaunchRedisAway": {"launch_up": ("1", "0")},
    "LaunchNoWorker": {'launch_workers{state="running"}': ("1", "0")},
    "LaunchWorkerUnhealthy": {"launch_worker_healthy": ("1", "0")},
    "LaunchWorkersNotReady": {'launch_workers{state="quarantined"}': ("0", "2")},
    "LaunchMustBeMended": {"launch_redis_saved": ("1", "0")},
    "LaunchRunsUnserved": {'launch_queue_waiting{queue="q"}': ("3", "3"), 'launch_queue_slots{queue="q"}': ("1", "0")},
    "LaunchRunsCrash": {'launch_attempts_ended_total{state="Crashed"}': ("0", "+1")},
    "LaunchRedisFull": {"launch_redis_memory_bytes": ("5", "95"), "launch_redis_memory_limit_bytes": ("100", "100")},
    "LaunchPassesLate": {
        'launch_pass_age_seconds{pass="retire_runs"}': ("5", "100"),
        "launch_pass_interval_seconds": ("5", "5"),
    },
    "LaunchLeasesLate": {"launch_leases_late": ("0", "1")},
    "LaunchArchiveBehind": {"launch_archive_lag_seconds": ("1", "600")},
    "LaunchNoticesLate": {"launch_notices_oldest_seconds": ("0", "1200")},
    "LaunchWorkerDiskFull": {"launch_worker_disk_free_bytes": ("1000000000", "1000000")},
}


def test_every_rule_fires_after_its_time_and_falls_silent(tmp_path: Path) -> None:
    assert set(SERIES) == {rule["alert"] for rule in rules()}
    tests = []
    for name, series in SERIES.items():
        values = []
        for metric, (well, ill) in series.items():
            # 20 minutes of the one, 40 of the other, and 80 of the first again.
            if ill.startswith("+"):
                values.append({"series": metric, "values": "0x19 0+1x39 39x80"})
            else:
                values.append({"series": metric, "values": f"{well}x19 {ill}x39 {well}x80"})
        alerts = [
            {"eval_time": "15m", "alertname": name},
            {"eval_time": "55m", "alertname": name, "exp_alerts": "some"},
            {"eval_time": "130m", "alertname": name},
        ]
        tests.append(
            {
                "name": name,
                "interval": "1m",
                "input_series": values,
                "promql_expr_test": [
                    {
                        "expr": f'count(ALERTS{{alertname="{name}", alertstate="firing"}})',
                        "eval_time": alert["eval_time"],
                        "exp_samples": [{"labels": "{}", "value": 1}] if "exp_alerts" in alert else [],
                    }
                    for alert in alerts
                ],
            }
        )
    file = tmp_path / "test.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    promtool("test", "rules", str(file))
