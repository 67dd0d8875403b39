"""What tests ask receipts."""

from __future__ import annotations

from imaging_pipeline.records import SeriesResult, Status
from imaging_pipeline.stores import Store


def is_whole(out: Store, receipt: SeriesResult) -> bool:
    """Whether a series is done, and every output as it was written."""
    outputs = receipt.output_digests.items()
    return receipt.status is Status.DONE and all(out.digest(path) == digest for path, digest in outputs)
