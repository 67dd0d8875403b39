"""One series task → one volume in patient space."""

from imaging_pipeline.volume.types import Volume

__all__ = ["Volume"]
