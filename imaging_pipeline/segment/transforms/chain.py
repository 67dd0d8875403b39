"""Pre- and postprocessing of a bundle as one chain of steps."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Activationsd, Compose, Invertd

from imaging_pipeline.segment.transforms.foreground import CLIP, Air, above, above_floor
from imaging_pipeline.segment.transforms.geometry import plain
from imaging_pipeline.segment.transforms.integers import as_float, is_idle_cast, takes_integers
from imaging_pipeline.segment.transforms.invert import ToLabels, fused
from imaging_pipeline.segment.transforms.largest import Sink
from imaging_pipeline.segment.transforms.recognise import flattened, recognise
from imaging_pipeline.segment.transforms.scores import Scores, gathered
from imaging_pipeline.segment.transforms.steps import Foreign, Record, State, Step, Whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A volume on the model grid, with what leads back.

    Attributes:
        image: (C, I', J', K') float32, on the device of the volume.
        data: MONAI's dictionary after preprocessing.
        records: Steps that postprocessing can undo.
        foreground: (I', J', K') voxels that are not air; None where nobody asked, or where it cannot be told.
    """

    image: torch.Tensor
    data: Mapping[Hashable, Any]
    records: tuple[Record, ...]
    foreground: torch.Tensor | None = None

    def state(self, n_channels: int) -> State:
        """The state before postprocessing, with scores that have a shape, and no values and no memory."""
        shape = (n_channels, *self.image.shape[1:])
        pred = torch.zeros(1, device=self.image.device).expand(shape)
        return self.state_of(pred)

    def state_of(self, pred: torch.Tensor) -> State:
        """The state before postprocessing."""
        if isinstance(self.image, MetaTensor):
            noted = list(self.image.applied_operations)
            pred = MetaTensor(plain(pred), meta=dict(self.image.meta), applied_operations=noted)
        return State(data={**self.data, "pred": pred}, records=self.records)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """Pre- and postprocessing, ready for volumes.

    Attributes:
        before: Steps from volume to model grid.
        after: Steps from scores to labels.
        foreign: Class names of the transforms that run as MONAI's own objects, in order, each once.
        activation: What the first `Activationsd` applies to the scores: softmax, sigmoid or nothing.
    """

    before: tuple[Step, ...]
    after: tuple[Step, ...]
    foreign: tuple[str, ...]
    activation: str

    @property
    def streams(self) -> bool:
        """Whether scores are reduced slab by slab; otherwise steps of MONAI's own want all of them at once."""
        return bool(self.after) and isinstance(self.after[0], ToLabels)

    @property
    def threshold(self) -> float | None:
        """From where on a probability means its channel's label, where channels overlap; None: the largest does."""
        first = self.after[0] if self.after else None
        if isinstance(first, ToLabels):
            return None if first.discrete.argmax else first.discrete.threshold
        return 0.5 if self.activation == "sigmoid" else None

    def prepare(self, image: MetaTensor, air: Air | None = None) -> Prepared:
        """A volume on the model grid.

        Args:
            image: (1, I, J, K) with affine; it stays as it is as far as MONAI's own objects let it. Integers stand
                for the float32 that MONAI's readers give: they become that as late as possible.
            air: Tells air from body; None: nobody asks.
        """
        state, foreground = State(data={"image": image}, records=()), None
        raw = not image.is_floating_point()
        for step in self.before:
            if not takes_integers(step):
                foreground = above(state.data["image"], air) if foreground is None else foreground
                state, raw = as_float(state) if raw else state, False
            if raw and is_idle_cast(step, state):
                continue
            state = step.run(state)
            raw = raw and not state.data["image"].is_floating_point()
        foreground = above(state.data["image"], air) if foreground is None else foreground
        state = as_float(state) if raw else state
        prepared = state.data["image"]
        prepared = prepared.contiguous() if isinstance(prepared, torch.Tensor) else prepared
        if air == CLIP:
            foreground = above_floor(prepared, self.before)
        if foreground is not None and foreground.shape != prepared.shape[1:]:
            foreground = None
        data = {**state.data, "image": prepared}
        return Prepared(image=prepared, data=data, records=state.records, foreground=foreground)

    def takes_order_only(self, prepared: Prepared, n_channels: int) -> bool:
        """Whether sums of scores do as well as means."""
        first = self.after[0] if self.after else None
        return isinstance(first, ToLabels) and first.takes_order_only(prepared.state(max(n_channels, 1)))

    def finish(self, scores: Scores, prepared: Prepared, sink: Sink | None = None) -> torch.Tensor:
        """What postprocessing makes of scores, normally labels on the native grid.

        Args:
            scores: (C, I', J', K') on the grid of `prepared`.
            prepared: What `prepare` returned.
            sink: Takes probabilities on the native grid; only where the chain `streams`.

        Returns:
            Normally a MetaTensor of shape (1, I, J, K) with the native affine; labels are integers where no transform
            of MONAI's own follows the step that makes them.
        """
        after = self.after
        if after and isinstance(after[0], ToLabels):
            state = after[0].stream(prepared.state(scores.n_channels), scores, sink)
            after = after[1:]
        else:
            state = prepared.state_of(gathered(scores))
        finished: torch.Tensor = _run(after, state).data["pred"]
        return finished


def compile_chain(preprocessing: Compose, postprocessing: Compose, *, nearest: bool = False) -> Chain:
    """Replace the transforms that are known by equivalents of ours.

    Args:
        preprocessing: Dictionary transforms of the key `image`, without reading files.
        postprocessing: Dictionary transforms of the key `pred`, without writing files.
        nearest: Bring labels back by nearest neighbour, whatever the bundle says.
    """
    before, after = flattened(preprocessing), flattened(postprocessing)
    if _only_monai(preprocessing, postprocessing):
        names = [type(owner).__name__ for owner in (*before, *after)]
        steps: tuple[tuple[Step, ...], ...] = ((Whole(owner=preprocessing),), (Whole(owner=postprocessing),))
    else:
        names = [type(owner).__name__ for owner in (*before, *after) if _is_foreign(owner)]
        n_until_foreign = max((n for n, owner in enumerate(after, 1) if _is_foreign(owner)), default=0)
        ours = [recognise(owner, labels=n >= n_until_foreign) for n, owner in enumerate(after)]
        steps = (tuple(recognise(owner, labels=False) for owner in before), fused(ours, nearest=nearest))
    return Chain(
        before=steps[0],
        after=steps[1],
        foreign=tuple(dict.fromkeys(names)),
        activation=_first_activation(after),
    )


def _run(steps: tuple[Step, ...], state: State) -> State:
    for step in steps:
        state = step.run(state)
    return state


def _only_monai(preprocessing: Compose, postprocessing: Compose) -> bool:
    """Whether MONAI must run all of it: other kinds of Compose, or steps that undo others in a way of their own."""
    if any(
        type(one) is not Compose or one.lazy is not False or one.unpack_items for one in (preprocessing, postprocessing)
    ):
        return True
    known = {id(owner) for owner in (preprocessing, *flattened(preprocessing))}
    strangers = (owner for owner in flattened(postprocessing) if _is_foreign(owner))
    return any(isinstance(owner, Invertd) or known & {id(part) for part in _parts(owner)} for owner in strangers)


def _parts(owner: Any) -> list[Any]:
    return list(getattr(owner, "__dict__", {}).values())


def _is_foreign(owner: Any) -> bool:
    return isinstance(recognise(owner, labels=False), Foreign)


def _first_activation(after: tuple[Any, ...]) -> str:
    owners = (owner for owner in after if isinstance(owner, Activationsd) and "pred" in owner.keys)
    owner = next(owners, None)
    if owner is None:
        return ""
    n = owner.keys.index("pred")
    return "softmax" if owner.softmax[n] else "sigmoid" if owner.sigmoid[n] else ""
