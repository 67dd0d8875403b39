"""The table of all metrics, for the documentation."""

from imaging_pipeline.monitoring.backlog import Backlog
from imaging_pipeline.monitoring.devices import Devices
from imaging_pipeline.monitoring.metrics import Metrics
from imaging_pipeline.stores import Store

_ENDINGS = {"counter": "_total", "info": "_info"}


def reference(out: Store) -> str:
    """Name, kind and meaning of each metric, as a table in Markdown.

    Args:
        out: Any RESULTS.
    """
    lines = ["| metric | kind | meaning |", "|---|---|---|"]
    for collector in (Metrics().registry, Backlog(out), Devices()):
        for family in collector.collect():
            name, kind = f"{family.name}{_ENDINGS.get(family.type, '')}", family.type.replace("info", "gauge")
            lines.append(f"| `{name}` | {kind} | {family.documentation} |")
    return "\n".join(lines) + "\n"
