"""The transforms of a MONAI bundle: those that are known by equivalents of ours, all others by MONAI's own objects."""

from imaging_pipeline.segment.transforms.chain import Chain, Prepared, compile_chain

__all__ = ["Chain", "Prepared", "compile_chain"]
