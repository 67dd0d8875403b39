"""Counters that go on from run to run: a nightly job's count of yesterday is in the file that it left."""

import math
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from imaging_pipeline.monitoring.metrics import NAMESPACE, Before, Labels
from imaging_pipeline.monitoring.named import LABEL

_CUMULATIVE = ("counter", "histogram")


class Carried(Collector):
    """Metrics of this run, counters and histograms increased by what earlier runs counted.

    Prometheus then sees one counter that grows, however short the runs are: `increase` over a day is right for a job
    that runs for a minute each night.
    """

    def __init__(self, registry: CollectorRegistry, before: Before) -> None:
        """Take what is to be added to what.

        Args:
            registry: Metrics of this run.
            before: What `samples_in` found.
        """
        self._registry = registry
        self._before = before

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client's `Collector`."""
        for family in self._registry.collect():
            family.samples = list(self._carried(family))
            yield family

    def _carried(self, family: Metric) -> Iterator[Sample]:
        samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
        if family.type not in _CUMULATIVE:
            yield from (sample for sample in samples if sample.value or not sample.name.endswith("_timestamp_seconds"))
            return
        is_comparable = family.type == "counter" or self._has_buckets_of(samples)
        for sample in samples:
            earlier = self._before.get(_key(sample), 0.0) if is_comparable else 0.0
            yield sample._replace(value=sample.value + earlier)

    def _has_buckets_of(self, samples: Iterable[Sample]) -> bool:
        """Whether an earlier version had the same limits: sums of different ones would be no histogram."""
        keys = [_key(sample) for sample in samples if sample.name.endswith("_bucket")]
        name = keys[0][0] if keys else ""
        earlier = {_limit(labels) for other, labels in self._before if other == name}
        return not earlier or earlier == {_limit(labels) for _, labels in keys}


def samples_in(text: str) -> Before:
    """Our samples of a textfile; none of one that cannot be read.

    Args:
        text: In Prometheus' text format.
    """
    try:
        families = list(text_string_to_metric_families(text))
    except ValueError:
        return {}
    samples = (sample for family in families for sample in family.samples if sample.name.startswith(f"{NAMESPACE}_"))
    return {_key(sample): sample.value for sample in samples if math.isfinite(sample.value) and sample.value >= 0}


def _key(sample: Sample) -> tuple[str, Labels]:
    return sample.name, frozenset(item for item in sample.labels.items() if item[0] != LABEL)


def _limit(labels: Labels) -> float:
    return float(dict(labels)["le"])
