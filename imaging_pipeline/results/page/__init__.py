"""report.html: all series of a RESULTS on one page, for people."""

from imaging_pipeline.results.page.render import write_report

__all__ = ["write_report"]
