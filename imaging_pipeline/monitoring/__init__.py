"""What the outside can see of a run: metrics for Prometheus, and a journal of series for log collectors."""

from imaging_pipeline.monitoring.observer import Observer
from imaging_pipeline.monitoring.observing import observing

__all__ = ["Observer", "observing"]
