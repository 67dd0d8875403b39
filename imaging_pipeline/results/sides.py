"""Left and right among a model's labels, by name or code."""

import re
from collections.abc import Iterable, Iterator
from typing import TypeVar

from imaging_pipeline.segment.labels import SNOMED_CT, Label

LEFT, RIGHT = "left", "right"

_CODES = {(SNOMED_CT, "7771000"): LEFT, (SNOMED_CT, "24028007"): RIGHT}
"""SNOMED CT: Left and Right, as DICOM PS3.16 CID 244 has them."""

_NAMED = re.compile(r"(?i)^(left|right|l|r)[\s_.-]+(.+)$|^(.+?)[\s_.-]+(left|right|l|r)$")
_SIDES = {"l": LEFT, "left": LEFT, "r": RIGHT, "right": RIGHT}

Named = TypeVar("Named")


def side_of(label: Label) -> str:
    """Left or right, by its modifier's code or else its name; empty where neither says."""
    if label.modifier is not None:
        side = _CODES.get((label.modifier.scheme, label.modifier.code))
        if side is not None:
            return side
    return split_name(label.name)[0]


def split_name(name: str) -> tuple[str, str]:
    """Side and the rest of a name such as `left kidney`, `kidney_left` or `lung_upper_lobe_left`; no side: empty."""
    found = _NAMED.match(name.strip())
    if found is None:
        return "", name
    before, behind, rest, after = found.groups()
    return _SIDES[(before or after).lower()], (behind or rest).lower()


def pairs(named: Iterable[tuple[str, Named]]) -> Iterator[tuple[str, Named, Named]]:
    """Name without its side, what is left and what is right, of each structure that has both by name."""
    found: dict[str, dict[str, Named]] = {}
    for name, what in named:
        side, rest = split_name(name)
        if side:
            found.setdefault(rest, {})[side] = what
    for rest, sides in found.items():
        if len(sides) == 2:
            yield rest, sides[LEFT], sides[RIGHT]
