"""What a person at the terminal, or a log of a nightly job, sees."""

from imaging_pipeline.console.lines import progress, say, show_error, show_stopping, table
from imaging_pipeline.console.screen import Screen

__all__ = ["Screen", "progress", "say", "show_error", "show_stopping", "table"]
