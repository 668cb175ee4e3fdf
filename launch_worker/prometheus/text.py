"""Writes values of metrics as Prometheus reads them. It imports prometheus_client, which takes 70 ms: import it late."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from launch_worker.prometheus.metrics import Buckets, Metric, Values

#: Media type of the text.
CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


def as_text(metrics: Sequence[Metric], values: Values) -> bytes:
    """The text of these metrics, in their order; a metric without a value is left out."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Values(metrics, values))
    return generate_latest(registry)


class _Values(Collector):
    """What prometheus_client asks for the metrics; it is made anew for each scrape."""

    def __init__(self, metrics: Sequence[Metric], values: Values) -> None:
        self._metrics = metrics
        self._values = values

    def describe(self) -> Iterable[Family]:
        return ()

    def collect(self) -> Iterator[Family]:
        for metric in self._metrics:
            samples = self._values.get(metric.name)
            if samples:
                yield _family(metric, samples)


def _family(metric: Metric, samples: Sequence[tuple[tuple[str, ...], float | Buckets]]) -> Family:
    if metric.kind == "histogram":
        family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels, value in samples:
            assert isinstance(value, Buckets)
            family.add_metric(labels, _cumulative(value.counts), value.sum)
        return family
    plain = (CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily)(
        metric.name, metric.help, labels=metric.labels
    )
    for labels, value in samples:
        assert not isinstance(value, Buckets)
        plain.add_metric(labels, value)
    return plain


def _cumulative(counts: Mapping[str, int]) -> list[tuple[str, float]]:
    """As Prometheus wants buckets: each has all events of those below it."""
    total, made = 0, []
    for bound, count in counts.items():
        total += count
        made.append((bound, float(total)))
    return made
