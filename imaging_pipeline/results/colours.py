"""Colours of labels that colour-blind people can tell apart, where a model's table names none."""

from collections.abc import Sequence

from imaging_pipeline.segment.labels import Label

OKABE_ITO = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
"""Okabe and Ito, Color Universal Design (2008), without black, which is no colour on an image."""


def colours_of(labels: Sequence[Label]) -> dict[int, str]:
    """Label number to #RRGGBB: the table's own colour, else one of seven in turn."""
    return {label.index: label.colour or OKABE_ITO[turn % len(OKABE_ITO)] for turn, label in enumerate(labels)}
