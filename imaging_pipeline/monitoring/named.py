"""Which RESULTS metrics are of, where one machine has several: a label that each sample has."""

from collections.abc import Iterator

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

LABEL = "results"


class Named(Collector):
    """The metrics of another collector with a label more."""

    def __init__(self, collector: Collector, name: str) -> None:
        """Take what is to be named.

        Args:
            collector: Its metrics.
            name: Value of the label; empty: they stay as they are.
        """
        self._collector = collector
        self._name = name

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client's `Collector`."""
        for family in self._collector.collect():
            if self._name:
                family.samples = [one._replace(labels={**one.labels, LABEL: self._name}) for one in family.samples]
            yield family
