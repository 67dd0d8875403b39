"""Steps of a chain: ours on single keys, or MONAI's own objects on the whole dictionary."""

from collections.abc import Callable, Hashable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from monai.data import MetaTensor
from monai.transforms import Compose, InvertibleTransform, MapTransform, allow_missing_keys_mode, apply_transform

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.segment.transforms.crop_pad import Foreground
from imaging_pipeline.segment.transforms.geometry import Move, Undo, carry, plain, with_values


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A step that `Invertd` can undo.

    Attributes:
        owner: MONAI's object that the step stands for.
        key: What it worked on; None: whatever the owner says.
        undo: The way back; None: by the owner's own `inverse`.
    """

    owner: object
    key: Hashable | None
    undo: Undo | None


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What flows through a chain.

    Attributes:
        data: MONAI's dictionary.
        records: What has been done to it, in order.
    """

    data: Mapping[Hashable, Any]
    records: tuple[Record, ...]

    def image(self, key: Hashable) -> MetaTensor | None:
        """The volume of a key, if it is one of shape (C, I, J, K) with a (4, 4) affine and nothing pending."""
        found = self.data.get(key)
        if not isinstance(found, MetaTensor) or found.ndim != 4 or found.affine.shape != (4, 4):
            return None
        return None if found.pending_operations else found

    def with_image(self, key: Hashable, image: torch.Tensor, *records: Record) -> "State":
        """The state after a step on one key."""
        return State(data={**self.data, key: image}, records=(*self.records, *records))


class Step(Protocol):
    """One step of a chain."""

    def run(self, state: State) -> State:
        """The state after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign:
    """MONAI's own object.

    Attributes:
        owner: The object.
    """

    owner: Any

    def run(self, state: State) -> State:
        """The state after MONAI's object; see `Step`."""
        data: Any = apply_transform(self.owner, dict(state.data), map_items=True, unpack_items=False, lazy=False)
        if not isinstance(data, Mapping):
            raise _not_one_volume(self.owner, data)
        if not isinstance(self.owner, InvertibleTransform):
            return State(data=data, records=state.records)
        keys = [key for key in self.owner.keys if key in data] if isinstance(self.owner, MapTransform) else [None]
        records = (Record(owner=self.owner, key=key, undo=None) for key in keys)
        return State(data=data, records=(*state.records, *records))


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """All of a MONAI chain, by itself.

    Attributes:
        owner: The chain.
    """

    owner: Compose

    def run(self, state: State) -> State:
        """The state after MONAI's chain; see `Step`."""
        data: Any = self.owner(dict(state.data))
        return State(data=data, records=state.records)


def undo_foreign(owner: Any, key: Hashable, image: MetaTensor) -> MetaTensor:
    """What the `inverse` of MONAI's own object makes of an image.

    Args:
        owner: The object.
        key: What the image is called in its dictionary.
        image: It holds what the object noted of its own step in its applied operations.
    """
    mapped = isinstance(owner, MapTransform | Compose)
    lenient: AbstractContextManager[object] = allow_missing_keys_mode(owner) if mapped else nullcontext()
    with lenient:
        undone: MetaTensor = owner.inverse({key: image})[key]
    return undone


class Plan(Protocol):
    """A geometric step before it knows its image."""

    def plan(self, image: MetaTensor) -> tuple[Move, Undo]:
        """The move of an image, and the way back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Regrid:
    """Carries images to another grid.

    Attributes:
        owner: MONAI's object that this stands for; it runs itself where an image is not what plans are made for.
        plans: Key and plan, of each of its keys.
        single: Plans hold for one key only: with several, the owner matches their shapes.
        as_float: The result is float32.
    """

    owner: MapTransform
    plans: tuple[tuple[Hashable, Plan], ...]
    single: bool = False
    as_float: bool = False

    def run(self, state: State) -> State:
        """The state after the moves; see `Step`."""
        present = [(key, plan) for key, plan in self.plans if key in state.data]
        if not _covered(state, self.owner, [key for key, _ in present]) or (self.single and len(present) > 1):
            return Foreign(owner=self.owner).run(state)
        for key, plan in present:
            image = state.image(key)
            assert image is not None
            move, undo = plan.plan(image)
            values = carry(plain(image), move)
            moved = with_values(image, values.float() if self.as_float else values, move.grid)
            state = state.with_image(key, moved, Record(owner=self.owner, key=key, undo=undo))
        return state


@dataclass(frozen=True, slots=True, kw_only=True)
class CropForeground:
    """Cuts the box of the foreground out of one image.

    Attributes:
        owner: As of `Regrid`.
        key: What is cut.
        foreground: Where the box is.
        notes: Keys under which the corners are noted, if any.
    """

    owner: Any
    key: Hashable
    foreground: Foreground
    notes: tuple[str | None, str | None]

    def run(self, state: State) -> State:
        """The state after the cut; see `Step`."""
        image, shown = state.image(self.key), state.image(self.owner.source_key)
        if image is None or shown is None:
            return Foreign(owner=self.owner).run(state)
        box = self.foreground.box(shown)
        move, undo = self.foreground.plan(image, box)
        cut = with_values(image, carry(plain(image), move), move.grid)
        state = state.with_image(self.key, cut, Record(owner=self.owner, key=self.key, undo=undo))
        noted: dict[Hashable, Any] = {note: end for note, end in zip(self.notes, box, strict=True) if note is not None}
        return State(data={**state.data, **noted}, records=state.records)


@dataclass(frozen=True, slots=True, kw_only=True)
class Revalue:
    """Changes values where they are.

    Attributes:
        owner: As of `Regrid`.
        changes: Key and function of values, of each of its keys.
        floating: The functions take floating dtypes only.
    """

    owner: MapTransform
    changes: tuple[tuple[Hashable, Callable[[torch.Tensor], torch.Tensor]], ...]
    floating: bool = False

    def run(self, state: State) -> State:
        """The state after the changes; see `Step`."""
        present = [(key, change) for key, change in self.changes if key in state.data]
        if not _covered(state, self.owner, [key for key, _ in present]):
            return Foreign(owner=self.owner).run(state)
        changed = state
        for key, change in present:
            image = state.image(key)
            assert image is not None
            values = plain(image)
            covers = getattr(change, "covers", None)
            if (self.floating and not values.is_floating_point()) or (covers is not None and not covers(values)):
                return Foreign(owner=self.owner).run(state)
            changed = changed.with_image(key, with_values(image, change(values)))
        return changed


def _not_one_volume(owner: Any, data: Any) -> PipelineError:
    return PipelineError(
        Code.MODEL_INVALID,
        f"transform {type(owner).__name__} makes {type(data).__name__} of one volume, a dictionary is needed",
        "bundles that cut volumes into several do not run here",
    )


def _covered(state: State, owner: MapTransform, present: list[Hashable]) -> bool:
    complete = owner.allow_missing_keys or len(present) == len(owner.keys)
    return complete and all(state.image(key) is not None for key in present)
