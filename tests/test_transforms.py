"""Transforms of a bundle give what MONAI's own objects give, whichever of them are replaced."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    BorderPadd,
    CastToTyped,
    Compose,
    CropForegroundd,
    DivisiblePadd,
    EnsureTyped,
    FillHolesd,
    Flipd,
    GaussianSmoothd,
    Invertd,
    KeepLargestConnectedComponentd,
    NormalizeIntensityd,
    Orientationd,
    RandGaussianNoised,
    Resized,
    Rotate90d,
    ScaleIntensityd,
    ScaleIntensityRanged,
    ScaleIntensityRangePercentilesd,
    Spacingd,
    SpatialPadd,
)
from numpy.typing import NDArray

from imaging_pipeline.segment.transforms import compile_chain, geometry, in_memory

Affine = NDArray[np.float64]

LPI = np.array([[-1.1, 0, 0, 30], [0, -0.8, 0, 20], [0, 0, -2.5, 10], [0, 0, 0, 1.0]])
SAGITTAL = np.array([[0, 0, 1.2, -9], [0.9, 0, 0, -8.5], [0, -0.9, 0, 4], [0, 0, 0, 1.0]])
FLAT = np.diag([0.75, 0.75, 3.0, 1])
SHEARED = np.array([[0.9, 0, 0, 1], [0, 0.9, 0.4, 2], [0, 0, 2, 3], [0, 0, 0, 1.0]])


def oblique() -> Affine:
    a, b = 0.35, -0.2
    turn_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    turn_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn_x @ turn_z @ np.diag([-0.913, 1.327, 2.119])
    affine[:3, 3] = (12, -7, 3)
    return affine


AFFINES = {"lpi": LPI, "sagittal": SAGITTAL, "flat": FLAT, "oblique": oblique(), "sheared": SHEARED}


def volume(affine: Affine, seed: int = 0, *, whole: bool = False, shape: tuple[int, ...] = (33, 28, 17)) -> MetaTensor:
    """Smooth blobs on zeros, as a scanner's volume comes to the model."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    values = 900 * np.exp(-3 * (grid**2).sum(0)) + 60 * rng.normal(size=shape)
    values[(np.abs(grid) > 0.8).any(0)] = 0
    values = np.round(values) if whole else values
    meta = {"original_affine": torch.from_numpy(affine), "space": "RAS", "spatial_shape": np.array(shape)}
    return MetaTensor(torch.from_numpy(values.astype(np.float32))[None], affine=torch.from_numpy(affine), meta=meta)


def scores_for(image: torch.Tensor, n: int, seed: int = 1) -> torch.Tensor:
    """Scores of n classes that form regions rather than noise."""
    coarse = torch.randn((1, n, 5, 5, 4), generator=torch.Generator().manual_seed(seed))
    return 4 * torch.nn.functional.interpolate(coarse, tuple(image.shape[1:]), mode="trilinear")[0]


def labels_of(values: torch.Tensor) -> NDArray[Any]:
    return np.asarray(values.as_tensor() if isinstance(values, MetaTensor) else values).astype(np.float64)


def assert_same_image(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    a, b = labels_of(ours), labels_of(theirs)
    np.testing.assert_allclose(a, b, atol=1e-4 * max(float(np.ptp(b)), 1e-3), rtol=0)
    assert isinstance(ours, MetaTensor)
    assert isinstance(theirs, MetaTensor)
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-9)


def assert_same_labels(ours: torch.Tensor, theirs: torch.Tensor, ties: float = 0.0) -> None:
    assert ours.shape == theirs.shape
    assert (labels_of(ours) != labels_of(theirs)).mean() <= ties
    assert isinstance(ours, MetaTensor)
    assert isinstance(theirs, MetaTensor)
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-9)


def monai_alone(pre: Compose, post: Compose, image: MetaTensor, n: int) -> tuple[MetaTensor, torch.Tensor]:
    prepared = pre({"image": deepcopy(image)})["image"]
    pred = MetaTensor(
        scores_for(prepared, n), meta=dict(prepared.meta), applied_operations=deepcopy(prepared.applied_operations)
    )
    return prepared, post({"image": prepared, "pred": pred})["pred"]


def both(
    pre: list[Any], post: Callable[[Compose], list[Any]], image: MetaTensor, n: int = 4
) -> tuple[torch.Tensor, torch.Tensor, tuple[str, ...]]:
    """Labels by the chain, labels by MONAI, and the transforms that the chain left to MONAI."""
    before = Compose(pre)
    after = Compose(post(before))
    theirs_prepared, theirs = monai_alone(before, after, image, n)
    chain = compile_chain(before, after)
    given = deepcopy(image)
    prepared = chain.prepare(given)
    assert_same_image(prepared.image, theirs_prepared)
    assert torch.equal(given, image)
    scores = scores_for(prepared.image, n)
    kept = scores.clone()
    ours = chain.finish(in_memory(scores), prepared)
    assert torch.equal(scores, kept)
    return ours, theirs, chain.foreign


def there_and_back(steps: list[Any], image: MetaTensor, *, nearest: bool) -> None:
    """Values on the model grid, and scores brought back, as MONAI has them."""
    ours, theirs, foreign = both(steps, lambda pre: [invert(pre, nearest=nearest)], image, n=2)
    assert foreign == ()
    assert_same_image(ours, theirs)


def invert(pre: Compose, *, nearest: bool, **options: Any) -> Invertd:
    return Invertd(keys="pred", transform=pre, orig_keys="image", nearest_interp=nearest, to_tensor=True, **options)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR"])
@pytest.mark.parametrize("affine", AFFINES)
def test_axes_are_turned_as_monai_turns_them(affine: str, codes: str) -> None:
    there_and_back([Orientationd(keys="image", axcodes=codes)], volume(AFFINES[affine]), nearest=True)


def test_axes_are_turned_to_the_closest_ones_and_by_own_labels() -> None:
    own = (("R", "L"), ("A", "P"), ("I", "S"))
    for options in ({"as_closest_canonical": True}, {"axcodes": "LPS", "labels": own}):
        there_and_back([Orientationd(keys="image", **options)], volume(SAGITTAL), nearest=True)


@pytest.mark.parametrize("nearest", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {"pixdim": (1.5, 1.5, 1.5)},
        {"pixdim": (1.0, 1.0, -1.0), "mode": "nearest"},
        {"pixdim": (2.0, 0.8), "padding_mode": "zeros"},
        {"pixdim": (0.6, 1.7, 2.2), "align_corners": True},
        {"pixdim": (1.3, 1.3, 1.3), "diagonal": True},
        {"pixdim": (1.3, 1.3, 2.0), "padding_mode": "reflection", "dtype": np.float32},
        {"pixdim": (1.5, 1.5, 1.5), "min_pixdim": (0.7, 0.7, 0.7), "max_pixdim": (1.6, 1.6, 2.8)},
        {"pixdim": (1.0, 1.0, 1.0), "mode": ("nearest",), "padding_mode": "zeros"},
    ],
    ids=str,
)
@pytest.mark.parametrize("affine", AFFINES)
def test_voxels_get_the_spacing_that_monai_gives_them(affine: str, options: dict[str, Any], nearest: bool) -> None:
    there_and_back([Spacingd(keys="image", **options)], volume(AFFINES[affine]), nearest=nearest)


def test_neighbours_halfway_between_voxels_are_those_that_monai_takes() -> None:
    for spacing, pixdim in ((2.0, 1.0), (1.0, 2.0), (1.0, 0.4), (3.0, 1.2)):
        image = volume(np.diag([spacing] * 3 + [1]), shape=(21, 16, 11))
        there_and_back([Spacingd(keys="image", pixdim=[pixdim] * 3, mode="nearest")], image, nearest=True)


def test_a_volume_that_has_the_spacing_already_is_not_copied() -> None:
    image = volume(np.diag([1.5, 1.5, 1.5, 1]))
    chain = compile_chain(Compose([Spacingd(keys="image", pixdim=[1.5] * 3)]), Compose([]))
    assert chain.prepare(image).image.data_ptr() == image.data_ptr()


def test_spacing_beyond_linear_and_nearest_stays_with_monai() -> None:
    image = volume(FLAT, shape=(14, 12, 9))
    for options in ({"mode": 3, "padding_mode": "nearest"}, {"scale_extent": True}, {"recompute_affine": True}):
        pre = [Spacingd(keys="image", pixdim=(1.0, 1.0, 2.0), **options)]
        ours, theirs, foreign = both(pre, lambda before: [invert(before, nearest=True)], image)
        assert foreign == ("Spacingd",)
        assert_same_image(ours, theirs)


@pytest.mark.parametrize(
    "step",
    [
        ScaleIntensityRanged(keys="image", a_min=-57, a_max=164, b_min=0, b_max=1, clip=True),
        ScaleIntensityRanged(keys="image", a_min=10, a_max=700.5),
        ScaleIntensityRanged(keys="image", a_min=10, a_max=10, b_min=3, b_max=5),
        ScaleIntensityRanged(keys="image", a_min=0, a_max=300, b_min=0.2, clip=True),
        ScaleIntensityRangePercentilesd(keys="image", lower=1, upper=99, b_min=0, b_max=1, clip=True),
        ScaleIntensityRangePercentilesd(keys="image", lower=0.5, upper=99.5, b_min=-1, b_max=2, relative=True),
        ScaleIntensityRangePercentilesd(keys="image", lower=5, upper=90, b_min=None, b_max=None, channel_wise=True),
        ScaleIntensityd(keys="image", minv=-1.0, maxv=1.0),
        ScaleIntensityd(keys="image", minv=None, maxv=None, factor=0.3),
        ScaleIntensityd(keys="image", channel_wise=True, maxv=None),
        NormalizeIntensityd(keys="image"),
        NormalizeIntensityd(keys="image", nonzero=True),
        NormalizeIntensityd(keys="image", nonzero=True, channel_wise=True),
        NormalizeIntensityd(keys="image", subtrahend=120.0, divisor=55.0),
        NormalizeIntensityd(keys="image", subtrahend=[120.0], nonzero=True, channel_wise=True),
        NormalizeIntensityd(keys="image", divisor=30),
        EnsureTyped(keys="image"),
        EnsureTyped(keys="image", dtype=torch.float64),
        CastToTyped(keys="image", dtype=np.int16),
    ],
    ids=lambda step: type(step).__name__,
)
def test_intensities_are_scaled_as_monai_scales_them(step: Any) -> None:
    for whole in (False, True):
        there_and_back([deepcopy(step)], volume(LPI, whole=whole), nearest=False)


def test_flat_and_empty_volumes_are_scaled_as_monai_scales_them() -> None:
    image = volume(LPI)
    for value in (0.0, 7.5):
        flat = image * 0 + value
        for step in (
            NormalizeIntensityd(keys="image", nonzero=True),
            ScaleIntensityd(keys="image", minv=-1, maxv=1),
            ScaleIntensityRangePercentilesd(keys="image", lower=1, upper=99, b_min=0, b_max=1),
        ):
            there_and_back([step], flat, nearest=False)


def test_percentiles_of_more_than_a_million_voxels_are_those_of_monai() -> None:
    image = volume(LPI, shape=(120, 110, 80))
    pre = Compose([ScaleIntensityRangePercentilesd(keys="image", lower=0.3, upper=99.7, b_min=0, b_max=1)])
    ours = compile_chain(pre, Compose([])).prepare(image).image
    assert_same_image(ours, pre({"image": image})["image"])


@pytest.mark.parametrize(
    "step",
    [
        SpatialPadd(keys="image", spatial_size=(40, 20, -1)),
        SpatialPadd(keys="image", spatial_size=(40, 40, 40), method="end", mode="replicate"),
        DivisiblePadd(keys="image", k=16),
        DivisiblePadd(keys="image", k=(16, 0, 5), mode="reflect"),
        BorderPadd(keys="image", spatial_border=3, value=-7.0),
        BorderPadd(keys="image", spatial_border=(1, 2, 3, 4, 5, 0), mode="minimum"),
        CropForegroundd(keys="image", source_key="image"),
        CropForegroundd(keys="image", source_key="image", margin=5, k_divisible=8),
        CropForegroundd(keys="image", source_key="image", margin=(0, 9, 2), allow_smaller=True),
        CropForegroundd(keys="image", source_key="image", margin=9, mode="edge", select_fn=lambda x: x > 300),
        CropForegroundd(keys="image", source_key="image", channel_indices=0, k_divisible=(4, 64, 1)),
    ],
    ids=lambda step: type(step).__name__,
)
def test_borders_and_boxes_are_those_of_monai(step: Any) -> None:
    for affine in (LPI, oblique()):
        there_and_back([deepcopy(step)], volume(affine), nearest=False)


@pytest.mark.parametrize("affine", AFFINES)
@pytest.mark.parametrize("n", [2, 14])
def test_a_chain_like_that_of_the_spleen_bundle_gives_the_same_labels(affine: str, n: int) -> None:
    pre = [
        Orientationd(keys="image", axcodes="RAS"),
        Spacingd(keys="image", pixdim=[1.5, 1.5, 2.0], mode="bilinear"),
        ScaleIntensityRanged(keys="image", a_min=-57, a_max=164, b_min=0, b_max=1, clip=True),
        EnsureTyped(keys="image"),
    ]

    def post(before: Compose) -> list[Any]:
        softmax = Activationsd(keys="pred", softmax=True)
        return [softmax, invert(before, nearest=False), AsDiscreted(keys="pred", argmax=True)]

    ours, theirs, foreign = both(pre, post, volume(AFFINES[affine]), n)
    assert foreign == ()
    assert_same_labels(ours, theirs, ties=2e-4)
    assert ours.dtype == torch.uint8


@pytest.mark.parametrize("affine", AFFINES)
def test_slabs_and_classes_that_win_nowhere_leave_the_labels_as_they_are(
    affine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pre = Compose([Orientationd(keys="image", axcodes="PLI"), Spacingd(keys="image", pixdim=[1.6, 1.2, 2.0])])
    crop = CropForegroundd(keys="image", source_key="image", select_fn=lambda x: x > 300)
    pre = Compose([*pre.transforms, crop])
    steps = [Activationsd(keys="pred", softmax=True), invert(pre, nearest=False), AsDiscreted(keys="pred", argmax=True)]
    chain = compile_chain(pre, Compose(steps))
    prepared = chain.prepare(volume(AFFINES[affine]))
    scores = scores_for(prepared.image, 12)
    scores[1::2] -= 25
    scores[:, :9, :, 3:] -= 15 * torch.arange(12)[:, None, None, None] % 4
    at_once = chain.finish(in_memory(scores), prepared)
    monkeypatch.setattr(geometry, "_SLAB_VALUES", 5000)
    assert torch.equal(chain.finish(in_memory(scores), prepared), at_once)
    theirs_prepared = pre({"image": volume(AFFINES[affine])})["image"]
    pred = MetaTensor(scores, meta=dict(theirs_prepared.meta))
    assert_same_labels(at_once, Compose(steps)({"image": theirs_prepared, "pred": pred})["pred"], ties=2e-4)


@pytest.mark.parametrize("affine", AFFINES)
def test_a_chain_like_that_of_the_whole_body_bundle_gives_the_same_labels(affine: str) -> None:
    pre = [
        Orientationd(keys="image", axcodes="RAS"),
        Spacingd(keys="image", pixdim=[3.0, 3.0, 3.0], mode="bilinear"),
        NormalizeIntensityd(keys="image", nonzero=True),
        ScaleIntensityd(keys="image", minv=-1.0, maxv=1.0),
    ]

    def post(before: Compose) -> list[Any]:
        softmax = Activationsd(keys="pred", softmax=True)
        return [softmax, AsDiscreted(keys="pred", argmax=True), invert(before, nearest=True)]

    ours, theirs, foreign = both(pre, post, volume(AFFINES[affine]), 20)
    assert foreign == ()
    assert_same_labels(ours, theirs, ties=2e-4)


@pytest.mark.parametrize("nearest", [True, False])
@pytest.mark.parametrize("affine", AFFINES)
def test_a_chain_that_crops_pads_and_cleans_up_gives_the_same_labels(affine: str, nearest: bool) -> None:
    pre = [
        Orientationd(keys=["image"], axcodes="LAS"),
        Spacingd(keys=["image"], pixdim=[1.2, 1.2, 2.4], mode=["bilinear"]),
        CropForegroundd(keys=["image"], source_key="image", margin=2),
        ScaleIntensityRangePercentilesd(keys=["image"], lower=1, upper=99, b_min=0, b_max=1, clip=True),
        DivisiblePadd(keys=["image"], k=8),
    ]

    def post(before: Compose) -> list[Any]:
        return [
            invert(before, nearest=nearest),
            Activationsd(keys="pred", softmax=True),
            AsDiscreted(keys="pred", argmax=True),
            KeepLargestConnectedComponentd(keys="pred"),
            FillHolesd(keys="pred"),
        ]

    ours, theirs, foreign = both(pre, post, volume(AFFINES[affine]), 5)
    assert foreign == ()
    assert_same_labels(ours, theirs, ties=2e-4)


@pytest.mark.parametrize("nearest", [True, False])
def test_classes_that_overlap_come_back_by_their_threshold(nearest: bool) -> None:
    pre = [Spacingd(keys="image", pixdim=[1.5, 1.5, 2.0]), SpatialPadd(keys="image", spatial_size=[40, 40, 40])]

    def post(before: Compose) -> list[Any]:
        sigmoid = Activationsd(keys="pred", sigmoid=True)
        return [sigmoid, invert(before, nearest=nearest), AsDiscreted(keys="pred", threshold=0.5)]

    for n in (1, 3):
        ours, theirs, foreign = both(pre, post, volume(oblique()), n)
        assert foreign == ()
        assert_same_labels(ours, theirs, ties=2e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"argmax": True, "to_onehot": 6},
        {"argmax": True, "dtype": torch.int32},
        {"threshold": 0.25},
        {"rounding": "torchrounding"},
        {"argmax": True, "keepdim": True, "threshold": 2},
        {"argmax": True, "dim": 1},
    ],
    ids=str,
)
def test_scores_become_labels_as_monai_makes_them(options: dict[str, Any]) -> None:
    for activation in ({"softmax": True}, {"sigmoid": True}):
        scale = GaussianSmoothd(keys="image", sigma=0.0)  # so that MONAI's dtype is asked for
        steps = [Activationsd(keys="pred", **activation), AsDiscreted(keys="pred", **options)]
        ours, theirs, _ = both([scale], lambda _, steps=steps: steps, volume(LPI), 6)  # type: ignore[misc]
        assert_same_labels(ours, theirs)


def blobs(seed: int = 3, shape: tuple[int, ...] = (24, 22, 20), n: int = 4) -> NDArray[Any]:
    """Labels with several components and holes each."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(n, *(length // 3 + 1 for length in shape)))
    fine = coarse.repeat(3, 1).repeat(3, 2).repeat(3, 3)[:, : shape[0], : shape[1], : shape[2]]
    labels: NDArray[Any] = fine.argmax(0)
    labels[rng.random(shape) < 0.02] = 0
    return labels


def nested() -> NDArray[Any]:
    """A shell of label 3 around one of label 1 around label 2 around nothing; and a pair of equal cubes."""
    labels = np.zeros((20, 18, 16), int)
    labels[1:13, 1:13, 1:13] = 3
    labels[3:11, 3:11, 3:11] = 1
    labels[5:9, 5:9, 5:9] = 2
    labels[6:8, 6:8, 6:8] = 0
    labels[15:17, 2:4, 2:4] = labels[15:17, 8:10, 8:10] = 5
    return labels


@pytest.mark.parametrize(
    "labels", [blobs(), blobs(4), nested(), np.zeros((6, 5, 4), int)], ids=["a", "b", "nested", "no"]
)
@pytest.mark.parametrize(
    "step",
    [
        KeepLargestConnectedComponentd(keys="pred"),
        KeepLargestConnectedComponentd(keys="pred", applied_labels=[2, 3, 9], connectivity=1, num_components=2),
        KeepLargestConnectedComponentd(keys="pred", independent=False, num_components=3),
        KeepLargestConnectedComponentd(keys="pred", applied_labels=[1, 2], independent=False, connectivity=2),
        FillHolesd(keys="pred"),
        FillHolesd(keys="pred", applied_labels=[3, 1], connectivity=1),
        FillHolesd(keys="pred", applied_labels=2, connectivity=2),
    ],
    ids=lambda step: type(step).__name__,
)
def test_components_are_those_of_monai(step: Any, labels: NDArray[Any]) -> None:
    onehot = np.stack([labels == n for n in range(6)])
    union_needs_labels = isinstance(step, KeepLargestConnectedComponentd) and not step.converter.independent
    cases = [labels[None]]
    if not union_needs_labels or step.converter.applied_labels is not None:
        cases.append(onehot)
    for case in cases:
        if len(case) > 1 and 9 in (step.converter.applied_labels or ()):
            continue
        values = torch.from_numpy(case.astype(np.float32))
        theirs = deepcopy(step)({"pred": MetaTensor(values.clone())})["pred"]
        chain = compile_chain(Compose([]), Compose([step]))
        ours = chain.finish(in_memory(values), chain.prepare(MetaTensor(torch.zeros(1, *labels.shape))))
        assert chain.foreign == ()
        assert_same_labels(ours, theirs)


@pytest.mark.parametrize("nearest", [True, False])
@pytest.mark.parametrize("affine", ["lpi", "sheared"])
@pytest.mark.parametrize(
    "stranger",
    [
        Rotate90d(keys="image", k=1, spatial_axes=(0, 2)),
        Flipd(keys="image", spatial_axis=(0, 1)),
        Resized(keys="image", spatial_size=(24, 30, 20), mode="trilinear"),
        GaussianSmoothd(keys="image", sigma=0.8),
    ],
    ids=lambda step: type(step).__name__,
)
def test_an_unknown_transform_runs_as_monais_own_and_is_named(stranger: Any, affine: str, nearest: bool) -> None:
    stranger = deepcopy(stranger)
    pre = [
        Orientationd(keys="image", axcodes="RAS"),
        Spacingd(keys="image", pixdim=[1.37, 1.41, 2.03]),  # halfway places are MONAI's own noise after a turn
        stranger,
        CropForegroundd(keys="image", source_key="image", select_fn=lambda x: x > 200, margin=1),
        NormalizeIntensityd(keys="image"),
    ]

    def post(before: Compose) -> list[Any]:
        softmax = Activationsd(keys="pred", softmax=True)
        return [softmax, invert(before, nearest=nearest), AsDiscreted(keys="pred", argmax=True)]

    ours, theirs, foreign = both(pre, post, volume(AFFINES[affine]))
    assert foreign == (type(stranger).__name__,)
    assert_same_labels(ours, theirs, ties=5e-4)


def test_a_random_transform_keeps_its_own_dice() -> None:
    noise = RandGaussianNoised(keys="image", prob=1.0, std=20.0)
    pre = Compose([Spacingd(keys="image", pixdim=[2.0] * 3), noise, ScaleIntensityd(keys="image")])
    chain = compile_chain(pre, Compose([]))
    assert chain.foreign == ("RandGaussianNoised",)
    pre.set_random_state(seed=5)
    ours = chain.prepare(volume(LPI)).image
    pre.set_random_state(seed=5)
    assert_same_image(ours, pre({"image": volume(LPI)})["image"])


def test_unknown_transforms_on_scores_see_floats_on_the_native_grid() -> None:
    pre = [Orientationd(keys="image", axcodes="RAS"), Spacingd(keys="image", pixdim=[1.5] * 3)]

    def post(before: Compose) -> list[Any]:
        smooth, flip = GaussianSmoothd(keys="pred", sigma=1.0), Flipd(keys="pred", spatial_axis=0)
        discrete = AsDiscreted(keys="pred", argmax=True)
        return [Activationsd(keys="pred", softmax=True), invert(before, nearest=False), smooth, discrete, flip]

    ours, theirs, foreign = both(pre, post, volume(LPI))
    assert foreign == ("GaussianSmoothd", "Flipd")
    assert_same_labels(ours, theirs, ties=2e-4)
    assert ours.dtype == theirs.dtype


def test_only_a_part_of_the_preprocessing_may_be_undone() -> None:
    spacing = Spacingd(keys="image", pixdim=[1.5, 1.5, 2.0])
    pad = DivisiblePadd(keys="image", k=8)
    pre = [Orientationd(keys="image", axcodes="RAS"), spacing, pad]
    for part in (Compose([spacing]), pad, Compose([Compose([spacing, pad])])):
        ours, theirs, foreign = both(pre, lambda _, part=part: [invert(part, nearest=False)], volume(LPI), 2)  # type: ignore[misc]
        assert foreign == ()
        assert_same_image(ours, theirs)


def test_what_is_undone_may_be_changed_by_a_function_and_moved_to_a_device() -> None:
    pre = [Spacingd(keys="image", pixdim=[1.5, 1.5, 2.0])]

    def post(before: Compose) -> list[Any]:
        undo = invert(before, nearest=False, post_func=lambda x: -x, device="cpu")
        return [undo, AsDiscreted(keys="pred", argmax=True)]

    ours, theirs, _ = both(pre, post, volume(FLAT))
    assert_same_labels(ours, theirs, ties=2e-4)


def test_nested_chains_are_one_and_lazy_ones_stay_with_monai() -> None:
    def steps() -> list[Any]:
        return [Orientationd(keys="image", axcodes="RAS"), Spacingd(keys="image", pixdim=[1.5] * 3)]

    def post(before: Compose) -> list[Any]:
        return [invert(before, nearest=False)]

    ours, theirs, foreign = both([Compose(steps()), Compose([ScaleIntensityd(keys="image")])], post, volume(LPI))
    assert foreign == ()
    assert_same_image(ours, theirs)
    lazy = Compose([*steps(), ScaleIntensityd(keys="image")], lazy=True)
    after = Compose(post(lazy))
    chain = compile_chain(lazy, after)
    assert chain.foreign == ("Orientationd", "Spacingd", "ScaleIntensityd", "Invertd")
    prepared, theirs = monai_alone(lazy, after, volume(LPI), 4)
    ours_prepared = chain.prepare(volume(LPI))
    assert_same_image(ours_prepared.image, prepared)
    assert_same_image(chain.finish(in_memory(scores_for(prepared, 4)), ours_prepared), theirs)


def test_other_keys_are_left_out_where_they_may_be_missing() -> None:
    pre = [
        Orientationd(keys=["image", "label"], axcodes="RAS", allow_missing_keys=True),
        Spacingd(keys=["image", "label"], pixdim=[1.5] * 3, mode=["bilinear", "nearest"], allow_missing_keys=True),
        EnsureTyped(keys=["image", "label"], allow_missing_keys=True),
    ]
    ours, theirs, foreign = both(pre, lambda before: [invert(before, nearest=True)], volume(LPI))
    assert foreign == ()
    assert_same_image(ours, theirs)
    strict = compile_chain(Compose([ScaleIntensityd(keys=["image", "label"])]), Compose([]))
    with pytest.raises(RuntimeError, match="ScaleIntensityd"):
        strict.prepare(volume(LPI))


@pytest.mark.parametrize("name", ["softmax", "sigmoid", ""])
def test_the_first_activation_is_named(name: str) -> None:
    after = Compose([Activationsd(keys="pred", **{name: True})] if name else [])
    assert compile_chain(Compose([]), after).activation == name


def test_scores_of_half_precision_and_of_inference_mode_are_taken() -> None:
    pre = Compose([Orientationd(keys="image", axcodes="RAS"), Spacingd(keys="image", pixdim=[2.0] * 3)])
    after = Compose(
        [Activationsd(keys="pred", softmax=True), invert(pre, nearest=False), AsDiscreted(keys="pred", argmax=True)]
    )
    chain = compile_chain(pre, after)
    prepared = chain.prepare(volume(LPI))
    with torch.inference_mode():
        scores = scores_for(prepared.image, 3).half()
    theirs_prepared = pre({"image": volume(LPI)})["image"]
    pred = MetaTensor(scores.clone(), meta=dict(theirs_prepared.meta))
    theirs = after({"image": theirs_prepared, "pred": pred})["pred"]
    assert_same_labels(chain.finish(in_memory(scores), prepared), theirs, ties=1e-3)
