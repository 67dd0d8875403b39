"""Processes in which series are worked through, and who watches them: what dies there costs one series, not the run."""

from imaging_pipeline.workers.attempts import Attempts
from imaging_pipeline.workers.log import logging_of
from imaging_pipeline.workers.shift import Handover
from imaging_pipeline.workers.supervisor import Worker

__all__ = ["Attempts", "Handover", "Worker", "logging_of"]
