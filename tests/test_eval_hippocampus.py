"""The default model's card says what its networks do on subjects that they have not seen."""

from __future__ import annotations

import json
import statistics
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from benchmarks.eval_hippocampus import (
    LABELS,
    MODEL,
    Score,
    canonical,
    fold_engine,
    main,
    score_fold,
    segmented,
    table,
)
from imaging_pipeline.settings import Settings, resolve
from tests.bundles import needs_bfloat16

SCORES = [Score(**row) for row in json.loads((MODEL / "docs" / "folds.json").read_text())]


def test_the_card_quotes_the_table_of_the_kept_scores() -> None:
    card = (MODEL / "docs" / "README.md").read_text()
    for line in table(SCORES).splitlines():
        assert line in card


def test_every_crop_is_scored_once_and_by_the_fold_that_kept_its_subject_out() -> None:
    assert len({score.case for score in SCORES}) == len(SCORES)
    for score in SCORES:
        assert score.subject == (int(score.case.rsplit("_", 1)[1]) + 1) // 2
        assert score.fold == score.subject % 5


@pytest.mark.slow
def test_the_weights_give_the_scores_that_were_kept(shared: Path, settings: Settings) -> None:
    data = shared / "data" / "msd_hippocampus"
    for fold in (1, 3):
        kept = min((score for score in SCORES if score.fold == fold), key=lambda score: score.mean)
        found = segmented(fold_engine(fold, settings), data / "images" / f"{kept.case}.nii.gz")
        reference = canonical(data / "labels" / f"{kept.case}.nii.gz").array
        for label, name in LABELS.items():
            both = ((found == label) & (reference == label)).sum()
            dice = 2 * both / ((found == label).sum() + (reference == label).sum())
            assert np.isclose(dice, getattr(kept, name), atol=0.005)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_bfloat16_costs_no_more_than_a_thousandth_of_dice(shared: Path, backend: str) -> None:
    if backend == "openvino":
        needs_bfloat16()
    data = shared / "data" / "msd_hippocampus"
    which = f"models.backend={backend}"
    exact, mixed = (
        [score.mean for score in islice(score_fold(data, 2, resolve(None, [which, f"segment.amp={amp}"])), 12)]
        for amp in ("off", "bf16")
    )
    assert len(exact) == len(mixed) == 12
    assert statistics.mean(mixed) >= statistics.mean(exact) - 0.001 > 0.8


def test_without_the_data_set_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dataset", str(tmp_path)]) == 2
    assert "name the data set with --dataset" in capsys.readouterr().err
