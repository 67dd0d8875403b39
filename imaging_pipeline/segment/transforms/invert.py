"""The way back: what preprocessing did, undone on the predictions, with labels made on the way where they are next."""

from collections.abc import Hashable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Invertd, InvertibleTransform, MapTransform
from monai.transforms.utils import convert_applied_interp_mode

from imaging_pipeline.segment.transforms.discrete import Activation, Discrete
from imaging_pipeline.segment.transforms.geometry import Move, carry, grid_of, plain, with_values
from imaging_pipeline.segment.transforms.largest import Sink
from imaging_pipeline.segment.transforms.scores import Scores, gathered, in_memory
from imaging_pipeline.segment.transforms.spacing import Unspace
from imaging_pipeline.segment.transforms.steps import Foreign, Record, Revalue, State, Step, undo_foreign


@dataclass(frozen=True, slots=True, kw_only=True)
class Back:
    """One key's part of an `Invertd`.

    Attributes:
        owners: What to undo, the first applied first.
        key: What to undo it on.
        original: The key it was applied to.
        nearest: Never blend.
        device: Where the result goes; None: where it is.
        finally_: What to make of the result; None: nothing.
    """

    owners: tuple[Any, ...]
    key: Hashable
    original: Hashable
    nearest: bool
    device: torch.device | None
    finally_: Any

    def records(self, state: State) -> list[Record]:
        """What to undo, in the order of undoing."""
        left, found = list(state.records), []
        for owner in reversed(self.owners):
            if not isinstance(owner, InvertibleTransform):
                continue
            if isinstance(owner, MapTransform) and self.original not in owner.keys:
                continue
            mine = [n for n, record in enumerate(left) if record.owner is owner and record.key in (self.original, None)]
            found.append(left.pop(mine[-1]) if mine else Record(owner=owner, key=self.original, undo=None))
        return found

    def start(self, state: State) -> MetaTensor | None:
        """Predictions under the metadata of the original; None where they or the original have none."""
        values, original = state.image(self.key), state.image(self.original)
        if original is None or values is None:
            return None
        noted = original.applied_operations
        if self.nearest:
            noted = convert_applied_interp_mode(trans_info=noted, mode="nearest", align_corners=None)
        return MetaTensor(plain(values).detach(), meta=deepcopy(original.meta), applied_operations=deepcopy(noted))

    def moves(self, image: MetaTensor, records: Sequence[Record]) -> list[Move]:
        """The moves that undo records of ours on an image."""
        grid, moves = grid_of(image), []
        for record in records:
            assert record.undo is not None
            moves.append(record.undo.plan(grid, nearest=self.nearest))
            grid = moves[-1].grid
        return moves

    def undone(self, image: MetaTensor, records: Sequence[Record], *, labels: bool) -> MetaTensor:
        """An image after undoing records.

        Args:
            image: Where to start.
            records: What to undo.
            labels: Integers may stay integers, where MONAI makes them float32.
        """
        for ours, group in groupby(records, key=lambda record: record.undo is not None):
            if ours:
                run = list(group)
                moves = self.moves(image, run)
                values = carry(plain(image), *moves)
                resampled = any(isinstance(record.undo, Unspace) for record in run)
                if resampled and not (labels and not values.is_floating_point()):
                    values = values.float()
                image = with_values(image, values, moves[-1].grid)
            else:
                for record in group:
                    image = undo_foreign(record.owner, self.original, image)
        return image

    def done(self, state: State, image: MetaTensor) -> State:
        """The state with the result."""
        result = image if self.device is None else image.to(device=self.device)
        return state.with_image(self.key, self.finally_(result) if callable(self.finally_) else result)


@dataclass(frozen=True, slots=True, kw_only=True)
class Invert:
    """`Invertd` across steps of ours and MONAI's.

    Attributes:
        owner: MONAI's object.
        backs: Its keys.
        labels: As of `Back.undone`.
    """

    owner: Invertd
    backs: tuple[Back, ...]
    labels: bool

    def run(self, state: State) -> State:
        """The state after undoing; see `Step`."""
        backs = [back for back in self.backs if back.key in state.data or not self.owner.allow_missing_keys]
        records = [back.records(state) for back in backs]
        if not any(record.undo for found in records for record in found):
            return Foreign(owner=self.owner).run(state)
        for back, found in zip(backs, records, strict=True):
            image = back.start(state)
            if image is not None:
                state = back.done(state, back.undone(image, found, labels=self.labels))
        return state


@dataclass(frozen=True, slots=True, kw_only=True)
class ToLabels:
    """Scores to whole numbers, together with the activation and the `Invertd` before it.

    Attributes:
        key: The scores.
        back: What undoes preprocessing between activation and whole numbers; None: nothing.
        discrete: Argmax or threshold, with the activation.
        steps: The same one by one, for what cannot be done at once.
    """

    key: Hashable
    back: Back | None
    discrete: Discrete
    steps: tuple[Step, ...]

    def run(self, state: State) -> State:
        """The state after all of them; see `Step`."""
        image = self._image(state)
        if image is None:
            for step in self.steps:
                state = step.run(state)
            return state
        return self._finished(state, image, in_memory(plain(image)), None)

    def stream(self, state: State, scores: Scores, sink: Sink | None) -> State:
        """The state after all of them, from scores that are asked for slab by slab.

        Args:
            state: Its scores stand for shape and metadata only.
            scores: The scores.
            sink: Takes probabilities on the final grid.
        """
        image = self._image(state)
        assert image is not None
        return self._finished(state, image, scores, sink)

    def takes_order_only(self, state: State) -> bool:
        """Whether sums of scores do as well as means: nothing but their order matters."""
        discrete, image = self.discrete, self._image(state)
        if image is None or not discrete.argmax:
            return False
        if discrete.activation is not None and not discrete.activation.keeps_largest(torch.float32):
            return False
        if self.back is None:
            return True
        records = self.back.records(state)
        known = all(record.undo is not None for record in records)
        return known and not any(move.blends for move in self.back.moves(image, records))

    def _image(self, state: State) -> MetaTensor | None:
        return state.image(self.key) if self.back is None else self.back.start(state)

    def _finished(self, state: State, image: MetaTensor, scores: Scores, sink: Sink | None) -> State:
        if self.back is None:
            return state.with_image(self.key, with_values(image, self.discrete.streamed(scores, (), sink)))
        back, discrete = self.back, self.discrete
        records = back.records(state)
        n_before = max((n for n, record in enumerate(records, 1) if record.undo is None), default=0)
        if n_before:  # what MONAI undoes itself, it undoes on all probabilities
            values = gathered(scores)
            image = with_values(image, values if discrete.activation is None else discrete.activation(values))
            image = back.undone(image, records[:n_before], labels=False)
            discrete, scores = replace(discrete, activation=None), in_memory(plain(image))
        moves = back.moves(image, records[n_before:])
        labels = discrete.streamed(scores, moves, sink)
        return back.done(state, with_values(image, labels, moves[-1].grid if moves else None))


def fused(steps: Sequence[Step], *, nearest: bool = False) -> tuple[Step, ...]:
    """Steps with those joined that make labels faster together: activation, `Invertd`, argmax or threshold.

    Args:
        steps: All of postprocessing.
        nearest: Labels are made on the model grid and brought back by nearest neighbour, whatever the bundle says.
    """
    joined: list[Step] = []
    for step in steps:
        parts: list[Step] = [step]
        key, discrete = _whole_numbers(step)
        back = _only_back(joined[-1]) if joined and discrete is not None else None
        if back is not None and back.key == key:
            parts.insert(0, joined.pop())
        else:
            back = None
        activation = _activation(joined[-1], key) if joined and discrete is not None else None
        if activation is not None:
            parts.insert(0, joined.pop())
        if discrete is None:
            joined.append(step)
            continue
        inverted = any(isinstance(one, Invert | ToLabels) for one in joined)
        activation = activation if activation is None else replace(activation, exact=inverted)
        back = back if back is None or not nearest else replace(back, nearest=True)
        together = replace(discrete, activation=activation)
        joined.append(ToLabels(key=key, back=back, discrete=together, steps=tuple(parts)))
    return tuple(joined)


def _whole_numbers(step: Step) -> tuple[Hashable, Discrete | None]:
    key, change = _only_change(step)
    decides = isinstance(change, Discrete) and (change.argmax or change.threshold is not None)
    return (key, change) if decides and isinstance(change, Discrete) else (None, None)


def _activation(step: Step, key: Hashable) -> Activation | None:
    found, change = _only_change(step)
    return change if isinstance(change, Activation) and found == key else None


def _only_change(step: Step) -> tuple[Hashable, object]:
    return step.changes[0] if isinstance(step, Revalue) and len(step.changes) == 1 else (None, None)


def _only_back(step: Step) -> Back | None:
    back = step.backs[0] if isinstance(step, Invert) and len(step.backs) == 1 else None
    return back if back is not None and back.device is None and back.finally_ is None else None
