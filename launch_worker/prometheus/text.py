"""Writes metrics as Prometheus reads them, by prometheus_client, which takes 70 ms to import: import this late."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from launch_worker.prometheus.metrics import Buckets, Metric, Sample, Values

#: Media type of the text.
CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


def registry_of(metrics: Sequence[Metric], values: Callable[[], Values]) -> CollectorRegistry:
    """What prometheus_client serves: `values` is called at each scrape."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(metrics, values))
    return registry


def as_text(metrics: Sequence[Metric], values: Values) -> bytes:
    """The text of these metrics, in their order; a metric without a value is left out."""
    return generate_latest(registry_of(metrics, lambda: values))


class _Collector(Collector):
    def __init__(self, metrics: Sequence[Metric], values: Callable[[], Values]) -> None:
        self._metrics = metrics
        self._values = values

    def describe(self) -> Iterable[Family]:
        return ()

    def collect(self) -> Iterator[Family]:
        values = self._values()
        for metric in self._metrics:
            samples = values.get(metric.name)
            if samples:
                yield _family(metric, samples)


def _family(metric: Metric, samples: Sequence[Sample]) -> Family:
    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels, value in samples:
            assert isinstance(value, Buckets)
            histogram.add_metric(labels, _cumulative(value.counts), value.sum)
        return histogram
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    plain = kind(metric.name, metric.help, labels=metric.labels)
    for labels, value in samples:
        assert not isinstance(value, Buckets)
        plain.add_metric(labels, value)
    return plain


def _cumulative(counts: Mapping[str, int]) -> list[tuple[str, float]]:
    """The buckets as Prometheus wants them: each has all events of those before it."""
    total, made = 0, []
    for bound, count in counts.items():
        total += count
        made.append((bound, float(total)))
    return made
