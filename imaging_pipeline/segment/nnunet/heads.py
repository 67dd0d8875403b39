"""What the network's channels mean: exclusive labels, or overlapping regions."""

from dataclasses import dataclass
from typing import Any

from imaging_pipeline.segment.labels import Label

BACKGROUND = "background"
IGNORE = "ignore"


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """Meaning of the network's channels.

    Attributes:
        labels: What the mask may hold, background left out.
        regions: Label that each channel writes, later over earlier; empty where channels are exclusive labels.
        n_outputs: Number of channels.
    """

    labels: tuple[Label, ...]
    regions: tuple[int, ...]
    n_outputs: int


def read_heads(dataset: dict[str, Any]) -> Heads:
    """From `labels` and `regions_class_order` of dataset.json.

    Raises:
        ValueError: Labels that repeat or leave gaps, or regions without their order.
        KeyError, TypeError: Malformed.
    """
    named = {name: _members(value) for name, value in dataset["labels"].items() if name != IGNORE}
    if named[BACKGROUND] != (0,):
        raise ValueError(f"label background is {dataset['labels'][BACKGROUND]}, it must be 0")
    if any(len(members) > 1 for members in named.values()):
        named = {name: members for name, members in named.items() if set(members) != {0}}
        return _regions(named, dataset.get("regions_class_order"))
    return _exclusive({name: members[0] for name, members in named.items()})


def _members(value: Any) -> tuple[int, ...]:
    members = tuple(int(member) for member in (value if isinstance(value, list) else [value]))
    if not members:
        raise ValueError("a label without numbers")
    return members


def _exclusive(named: dict[str, int]) -> Heads:
    if sorted(named.values()) != list(range(len(named))):  # channel n is label n
        raise ValueError(f"labels {sorted(named.values())}, 0 to {len(named) - 1} are needed")
    labels = (Label(index=index, name=name) for name, index in named.items() if index != 0)
    return Heads(labels=tuple(sorted(labels, key=lambda label: label.index)), regions=(), n_outputs=len(named))


def _regions(named: dict[str, tuple[int, ...]], order: list[int] | None) -> Heads:
    written = tuple(int(index) for index in order or ())
    if len(written) != len(named) or len(set(written)) != len(written) or not all(0 < i < 2**16 for i in written):
        raise ValueError(f"{len(named)} regions with regions_class_order {order}")
    labels = (Label(index=index, name=_left_over(named, at)) for at, index in enumerate(written))
    return Heads(labels=tuple(sorted(labels, key=lambda label: label.index)), regions=written, n_outputs=len(written))


def _left_over(named: dict[str, tuple[int, ...]], at: int) -> str:
    """The name of what stays of a region after later ones are written over it: its label is not the whole region."""
    names, members = list(named), list(named.values())
    over = [
        name for name, later in zip(names[at + 1 :], members[at + 1 :], strict=True) if set(later) & set(members[at])
    ]
    return f"{names[at]} without {' or '.join(over)}" if over else names[at]
