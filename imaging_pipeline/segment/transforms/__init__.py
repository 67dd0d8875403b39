"""The transforms of a MONAI bundle: those that are known by equivalents of ours, all others by MONAI's own objects."""

from imaging_pipeline.segment.transforms.chain import Chain, Prepared, compile_chain
from imaging_pipeline.segment.transforms.foreground import CLIP, Air
from imaging_pipeline.segment.transforms.largest import Sink
from imaging_pipeline.segment.transforms.scores import Scores, gathered, in_memory

__all__ = ["CLIP", "Air", "Chain", "Prepared", "Scores", "Sink", "compile_chain", "gathered", "in_memory"]
