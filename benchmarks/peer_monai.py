"""The peer: what one would write with MONAI alone to segment a folder of series folders, in one process.

The bundle's own transforms, inferer and network, made once; each series folder is read, segmented and saved in turn.

    python -m benchmarks.peer_monai BUNDLE SERIES_FOLDERS OUT
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from monai.bundle import ConfigParser
from monai.inferers import Inferer
from monai.transforms import Compose


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A bundle opened for use."""

    network: torch.nn.Module
    preprocessing: Compose
    inferer: Inferer
    postprocessing: Compose


def main() -> None:
    """Segment every folder below SERIES_FOLDERS into OUT/<folder>_seg.nii.gz."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("folders", type=Path, metavar="SERIES_FOLDERS")
    parser.add_argument("out", type=Path, metavar="OUT")
    arguments = parser.parse_args()
    parts = open_bundle(arguments.bundle, arguments.out)
    for folder in sorted(path for path in arguments.folders.iterdir() if path.is_dir()):
        segment(folder, parts)


def open_bundle(bundle: Path, out: Path) -> Parts:
    """Network with weights, and transforms that write into a folder."""
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    parser["bundle_root"] = str(bundle)
    parser["output_dir"] = str(out)
    network = parser.get_parsed_content("network")
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", map_location="cpu", weights_only=True))
    return Parts(
        network=network.eval(),
        preprocessing=parser.get_parsed_content("preprocessing"),
        inferer=parser.get_parsed_content("inferer"),
        postprocessing=parser.get_parsed_content("postprocessing"),
    )


def segment(folder: Path, parts: Parts) -> None:
    """One series folder to its mask."""
    data = parts.preprocessing({"image": str(folder)})
    with torch.inference_mode():
        data["pred"] = parts.inferer(data["image"][None], parts.network)[0]
        parts.postprocessing(data)


if __name__ == "__main__":
    main()
