"""Score the bundle on the subjects of a fold: `python -m scripts.evaluate --dataset-dir DIR`.

Run it from the bundle's folder. Each image passes through the transforms, the inferer and the
post-processing of `configs/inference.json` and is compared on its own voxels.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import decollate_batch, list_data_collate
from monai.transforms import SaveImaged

from scripts.folds import split

LABELS = {1: "anterior", 2: "posterior"}


def evaluate(
    bundle_root: Path, pairs: Sequence[dict[str, str]], weights: Path | None = None
) -> list[dict[str, str | float]]:
    """Return one row of Dice values for each pair of image and label file.

    Args:
        bundle_root: folder of the bundle.
        pairs: `{"image": ..., "label": ...}` as `scripts.folds.split` gives them.
        weights: checkpoint to score, the bundle's own where it is not given.
    """
    parser = ConfigParser()
    parser.read_config(str(bundle_root / "configs" / "inference.json"))
    parser["bundle_root"] = str(bundle_root)
    parser["postprocessing"]["transforms"] = [
        step
        for step in parser["postprocessing"]["transforms"]
        if step["_target_"] != SaveImaged.__name__
    ]
    network = parser.get_parsed_content("network")
    state = torch.load(weights or bundle_root / "models" / "model.pt", weights_only=True)
    network.load_state_dict(state)
    network.eval()
    device = parser.get_parsed_content("device")
    preprocess = parser.get_parsed_content("preprocessing")
    inferer = parser.get_parsed_content("inferer")
    postprocess = parser.get_parsed_content("postprocessing")
    rows = []
    for pair in pairs:
        batch = list_data_collate([preprocess({"image": pair["image"]})])
        with torch.no_grad():
            batch["pred"] = inferer(batch["image"].to(device), network)
        predicted = postprocess(decollate_batch(batch)[0])["pred"][0].cpu().numpy()
        reference = np.asarray(nibabel.Nifti1Image.from_filename(pair["label"]).dataobj)
        row: dict[str, str | float] = {"case": Path(pair["image"]).name.removesuffix(".nii.gz")}
        row |= {name: dice(predicted == k, reference == k) for k, name in LABELS.items()}
        rows.append(row)
    return rows


def dice(predicted: np.ndarray, reference: np.ndarray) -> float:
    """Return the Dice coefficient of two masks of one shape, 1.0 where both are empty."""
    total = int(predicted.sum()) + int(reference.sum())
    return 2 * int((predicted & reference).sum()) / total if total else 1.0


def main(argv: Sequence[str] | None = None) -> int:
    """Score a fold, write the rows as CSV where asked, and print a summary."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--dataset-dir", type=Path, required=True)
    arguments.add_argument("--fold", type=int, default=0)
    arguments.add_argument("--bundle-root", type=Path, default=Path(__file__).parents[1])
    arguments.add_argument("--weights", type=Path)
    arguments.add_argument("--csv", type=Path)
    given = arguments.parse_args(argv)
    _, pairs = split(given.dataset_dir, given.fold)
    rows = evaluate(given.bundle_root, pairs, given.weights)
    if given.csv:
        with given.csv.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    for name in LABELS.values():
        values = [float(row[name]) for row in rows]
        sys.stdout.write(
            f"{name}: mean {statistics.mean(values):.4f}, SD {statistics.stdev(values):.4f}, "
            f"worst {min(values):.4f}, n {len(values)}\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
