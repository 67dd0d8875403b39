"""Scores that come plane by plane become the labels on the native grid that all of them at once would give."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from imaging_pipeline.segment.transforms import between
from imaging_pipeline.segment.transforms.cells import fill_cells
from imaging_pipeline.segment.transforms.crop_pad import Unbox
from imaging_pipeline.segment.transforms.discrete import Activation
from imaging_pipeline.segment.transforms.geometry import Grid, Move, carry
from imaging_pipeline.segment.transforms.largest import largest
from imaging_pipeline.segment.transforms.orientation import Unorient
from imaging_pipeline.segment.transforms.places import Sampling
from imaging_pipeline.segment.transforms.resample import Sampled, plan_resample
from imaging_pipeline.segment.transforms.scores import Scores

SHAPE = (21, 18, 15)
SOFTMAX = Activation(name="softmax")


def scores_in_order(values: torch.Tensor, axis: int) -> Scores:
    """Scores that are gone once something behind them was asked for."""
    last = [0, 0]

    def source(along: int, start: int, stop: int) -> torch.Tensor:
        assert along == axis
        assert start >= last[0]
        assert stop >= last[1]
        last[:] = start, stop
        return values.narrow(axis + 1, start, stop - start)

    return Scores(source=source, n_channels=len(values), shape=SHAPE, device=values.device, axis=axis, in_order=True)


def fields(n: int) -> torch.Tensor:
    torch.manual_seed(n)
    return torch.nn.functional.interpolate(torch.randn(1, n, 6, 5, 4), size=SHAPE, mode="trilinear")[0] * 4


def way_back(padding: str, *, oblique: bool) -> list[Move]:
    grid = Grid(affine=np.diag([2.0, 2, 3, 1]), shape=SHAPE)
    moves = [Unbox(low=(-2, 6, 0), high=(3, -1, 5)).plan(grid, nearest=False)]
    turned = np.diag([0.8, 0.9, 1.1, 1.0])
    if oblique:
        turned[0, 1], turned[1, 0] = 0.2, -0.2
    sampling = Sampling(nearest=False, padding=padding, align_corners=False, dtype=torch.float64)
    affine = moves[0].grid.affine.copy()
    affine[:3, :3] = turned[:3, :3]
    moves.append(plan_resample(moves[0].grid, affine, (50, 55, 52), sampling))
    assert isinstance(moves[1], Sampled) == oblique
    return [*moves, Unorient(codes="PIR", labels=None).plan(moves[1].grid, nearest=False)]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("padding", ["border", "zeros"])
@pytest.mark.parametrize("oblique", [False, True])
def test_scores_asked_for_once_and_in_order_give_the_labels_of_all_at_once(
    axis: int, padding: str, *, oblique: bool
) -> None:
    values, moves = fields(9), way_back(padding, oblique=oblique)
    labels = largest(scores_in_order(values, axis), moves, SOFTMAX)
    probabilities = carry(SOFTMAX(values), *moves)
    top = probabilities.topk(2, dim=0).values
    clear = (top[0] - top[1] > 1e-5) | (top[0] == 0)
    theirs = probabilities.max(0).indices
    assert torch.equal(labels[0][clear].long(), theirs[clear])
    assert (labels[0] == theirs).double().mean() > 0.99999


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_probabilities_on_the_native_grid_are_handed_out_slab_by_slab(axis: int) -> None:
    values, moves = fields(5), way_back("border", oblique=False)
    wanted = carry(SOFTMAX(values), *moves)
    got = torch.full_like(wanted, torch.nan)

    def keep(along: int, start: int, stop: int, slab: torch.Tensor) -> None:
        got.narrow(along + 1, start, stop - start).copy_(slab)

    labels = largest(scores_in_order(values, axis), moves, SOFTMAX, keep)
    torch.testing.assert_close(got, wanted)
    assert torch.equal(labels[0].long(), got.max(0).indices)


@pytest.mark.parametrize("n_channels", [2, 5, 70])
def test_labels_between_voxels_are_the_largest_interpolated_value_whether_compiled_or_not(
    n_channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(n_channels)
    rough = torch.rand(n_channels, 5, 6, 4)  # another class at nearly every voxel
    grid = Grid(affine=np.diag([3.0, 3, 3, 1]), shape=(5, 6, 4))
    sampling = Sampling(nearest=False, padding="border", align_corners=False, dtype=torch.float64)
    finer = plan_resample(grid, np.diag([1.0, 0.7, 0.9, 1.0]), (15, 25, 13), sampling)
    scores = Scores(source=lambda axis, start, stop: rough.narrow(axis + 1, start, stop - start),
                    n_channels=n_channels, shape=(5, 6, 4), device=rough.device)  # fmt: skip
    expected = carry(rough, finer).max(0)
    compiled = largest(scores, [finer])[0]
    monkeypatch.setattr(between, "_compiled", lambda: fill_cells)
    plain = largest(scores, [finer])[0]
    assert torch.equal(compiled, plain)
    top = carry(rough, finer).topk(2, dim=0).values
    clear = top[0] - top[1] > 1e-6
    assert torch.equal(plain[clear].long(), expected.indices[clear])


def test_where_nothing_can_be_kept_on_disk_labels_are_compiled_for_this_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import numba

    compile_ = numba.njit

    def without_a_place(**options: object) -> object:
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return compile_(**options)

    between._compiled.cache_clear()
    monkeypatch.setattr(numba, "njit", without_a_place)
    assert callable(between._compiled())
    between._compiled.cache_clear()
