"""Accuracy of the default model on subjects that its training did not see, fold by fold.

    python -m benchmarks.eval_hippocampus [--dataset DIR] [--tta] [--set KEY=VALUE] [--folds 0 1] [--pictures DIR]
                                          [--json FILE]

Every labelled crop goes through the network of the one fold that kept its subject out of training, by the same engine
as a run, and is compared on its own voxels. DIR holds images/ and labels/ of the Medical Segmentation Decathlon's
Task04 Hippocampus. Published for this task: nnU-Net, about 0.90 (anterior) and 0.89 (posterior).
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from imaging_pipeline.segment.bundle import Bundle, describe
from imaging_pipeline.segment.engine import Engine
from imaging_pipeline.settings import ROOT, Settings, resolve
from imaging_pipeline.volume import Volume

MODEL = ROOT / "models" / "hippocampus_mr"
LABELS = {1: "anterior", 2: "posterior"}
WORST = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One crop against its reference.

    Attributes:
        case: Name of the crop.
        subject: Number of the subject.
        fold: Fold whose network has not seen the subject.
        anterior: Dice coefficient, 0 to 1.
        posterior: Dice coefficient, 0 to 1.
    """

    case: str
    subject: int
    fold: int
    anterior: float
    posterior: float

    @property
    def mean(self) -> float:
        """Of both labels."""
        return (self.anterior + self.posterior) / 2


def main(argv: Sequence[str] | None = None) -> int:
    """Score the folds and print the table."""
    arguments = _parser().parse_args(argv)
    if not (arguments.dataset / "images").is_dir():
        print(f"{arguments.dataset}: no images/ there; name the data set with --dataset", file=sys.stderr)
        return 2
    settings = resolve(assignments=[*(["segment.tta=true"] if arguments.tta else []), *arguments.set])
    scores = [score for fold in arguments.folds for score in score_fold(arguments.dataset, fold, settings)]
    print(table(scores))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(score) for score in scores], indent=2) + "\n")
    if arguments.pictures:
        from benchmarks.pictures_hippocampus import draw

        draw(scores, arguments.dataset, arguments.pictures, settings)
    return 0


def score_fold(dataset: Path, fold: int, settings: Settings) -> Iterator[Score]:
    """Score the crops that a fold kept out of training."""
    engine = fold_engine(fold, settings)
    folds = _folds()
    for case in folds.cases(dataset):
        if case.subject % folds.FOLDS == fold:
            found, reference = segmented(engine, case.image), canonical(case.label).array
            dice = {name: _dice(found == label, reference == label) for label, name in LABELS.items()}
            yield Score(case=case.image.name.removesuffix(".nii.gz"), subject=case.subject, fold=fold, **dice)


def fold_engine(fold: int, settings: Settings) -> Engine:
    """The default model with the network of one fold."""
    together = describe(str(MODEL), settings.models.model_copy(update={"ensemble": True}))
    chosen = next(item for item in together.weights if item.path.stem == f"fold_{fold}")
    return Engine(_alone(together, chosen), settings)


def segmented(engine: Engine, image: Path) -> NDArray[Any]:
    """Labels of a NIfTI volume on its own voxels, axes closest to RAS+."""
    return engine.segment(canonical(image)).mask.array


def canonical(path: Path) -> Volume:
    """A NIfTI file with axes closest to RAS+."""
    image = nib.as_closest_canonical(nib.Nifti1Image.from_filename(path))
    return Volume(array=np.asanyarray(image.dataobj), affine=np.asarray(image.affine, np.float64))


def table(scores: Sequence[Score]) -> str:
    """The fold table of the model card, in Markdown, and the worst crops."""
    lines = ["| fold | crops | subjects | anterior: mean | SD | worst | posterior: mean | SD | worst |"]
    lines.append("|" + "---|" * 9)
    folds = sorted({score.fold for score in scores})
    lines += [_line(str(fold), [score for score in scores if score.fold == fold]) for fold in folds]
    lines.append(_line("all", scores))
    worst = sorted(scores, key=lambda score: score.mean)[:WORST]
    lines += ["", "worst: " + ", ".join(f"{item.case} {item.anterior:.3f} / {item.posterior:.3f}" for item in worst)]
    for name in LABELS.values():
        values = [getattr(score, name) for score in scores]
        cuts = ", ".join(f"P{percent} {np.percentile(values, percent):.3f}" for percent in (5, 25, 50, 75, 95))
        lines.append(f"{name}: {cuts}")
    return "\n".join(lines)


def _line(name: str, scores: Sequence[Score]) -> str:
    cells = [name, str(len(scores)), str(len({score.subject for score in scores}))]
    for label in LABELS.values():
        values = [getattr(score, label) for score in scores]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        cells += [f"{statistics.mean(values):.4f}", f"{spread:.3f}", f"{min(values):.3f}"]
    return f"| {' | '.join(cells)} |"


def _alone(bundle: Bundle, weights: Any) -> Bundle:
    from imaging_pipeline.segment.bundle import digest_in_use

    return replace(bundle, weights=(weights,), digest=digest_in_use(bundle.path, (weights,)))


def _dice(found: NDArray[np.bool_], reference: NDArray[np.bool_]) -> float:
    total = int(found.sum()) + int(reference.sum())
    return 2 * int((found & reference).sum()) / total if total else 1.0


def _folds() -> ModuleType:
    """The bundle's own rule of who is in which fold."""
    spec = spec_from_file_location("hippocampus_folds", MODEL / "scripts" / "folds.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, default=ROOT.parent / "shared" / "data" / "msd_hippocampus")
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(5)), choices=range(5))
    parser.add_argument("--tta", action="store_true", help="average over mirror images")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="a setting, as of a run")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="draw the distribution and the worst crops")
    parser.add_argument("--json", type=Path, help="keep every crop's figures")
    return parser


if __name__ == "__main__":
    sys.exit(main())
