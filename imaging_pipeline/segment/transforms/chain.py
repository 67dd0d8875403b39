"""Pre- and postprocessing of a bundle as one chain of steps."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Activationsd, Compose, Invertd

from imaging_pipeline.segment.transforms.geometry import plain
from imaging_pipeline.segment.transforms.invert import fused
from imaging_pipeline.segment.transforms.recognise import flattened, recognise
from imaging_pipeline.segment.transforms.steps import Foreign, Record, State, Step, Whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A volume on the model grid, with what leads back.

    Attributes:
        image: (C, I', J', K') float32, on the device of the volume.
        data: MONAI's dictionary after preprocessing.
        records: Steps that postprocessing can undo.
    """

    image: torch.Tensor
    data: Mapping[Hashable, Any]
    records: tuple[Record, ...]


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

    def prepare(self, image: MetaTensor) -> Prepared:
        """A volume on the model grid.

        Args:
            image: (1, I, J, K) with affine; it stays as it is as far as MONAI's own objects let it.
        """
        state = _run(self.before, State(data={"image": image}, records=()))
        prepared = state.data["image"]
        prepared = prepared.contiguous() if isinstance(prepared, torch.Tensor) else prepared
        return Prepared(image=prepared, data={**state.data, "image": prepared}, records=state.records)

    def finish(self, scores: torch.Tensor, prepared: Prepared) -> torch.Tensor:
        """What postprocessing makes of scores, normally labels on the native grid.

        Args:
            scores: (C, I', J', K') on the grid of `prepared`; they stay as they are.
            prepared: What `prepare` returned.

        Returns:
            Normally a MetaTensor of shape (1, I, J, K) with the native affine; labels are integers where no transform
            of MONAI's own follows the step that makes them.
        """
        pred, image = plain(scores), prepared.image
        if isinstance(image, MetaTensor):
            pred = MetaTensor(pred, meta=dict(image.meta), applied_operations=list(image.applied_operations))
        state = _run(self.after, State(data={**prepared.data, "pred": pred}, records=prepared.records))
        finished: torch.Tensor = state.data["pred"]
        return finished


def compile_chain(preprocessing: Compose, postprocessing: Compose) -> Chain:
    """Replace the transforms that are known by equivalents of ours.

    Args:
        preprocessing: Dictionary transforms of the key `image`, without reading files.
        postprocessing: Dictionary transforms of the key `pred`, without writing files.
    """
    before, after = flattened(preprocessing), flattened(postprocessing)
    if _only_monai(preprocessing, postprocessing):
        names = [type(owner).__name__ for owner in (*before, *after)]
        steps: tuple[tuple[Step, ...], ...] = ((Whole(owner=preprocessing),), (Whole(owner=postprocessing),))
    else:
        names = [type(owner).__name__ for owner in (*before, *after) if _is_foreign(owner)]
        n_until_foreign = max((n for n, owner in enumerate(after, 1) if _is_foreign(owner)), default=0)
        ours = [recognise(owner, labels=n >= n_until_foreign) for n, owner in enumerate(after)]
        steps = (tuple(recognise(owner, labels=False) for owner in before), fused(ours))
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
