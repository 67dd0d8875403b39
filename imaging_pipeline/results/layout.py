"""Names of everything below RESULTS: BIDS derivatives, built from digests and checked parts only."""

import re
from pathlib import Path

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.records import SeriesIdentity

INDEX = "index"
LOGS = "logs"
RECEIPTS = "receipts"
RUN = "run.json"
DATASET_DESCRIPTION = "dataset_description.json"
LABEL_TABLE = "dseg.tsv"
VOLUMES_ONLY = "none"


def open_results(out: Path) -> None:
    """Make RESULTS and the folders that every run needs.

    Raises:
        PipelineError: `out-not-writable`.
    """
    try:
        for folder in (LOGS, RECEIPTS):
            (out / folder).mkdir(parents=True, exist_ok=True)
        probe = out / LOGS / ".probe"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise PipelineError(
            Code.OUT_NOT_WRITABLE, f"cannot write to {out}: {error.strerror}", "name a folder that you may write to"
        ) from None


def image_path(identity: SeriesIdentity) -> str:
    """Path of the image NIfTI relative to RESULTS."""
    return f"{_stem(identity)}_{_modality(identity)}.nii.gz"


def mask_path(identity: SeriesIdentity, model: str) -> str:
    """Path of the mask NIfTI relative to RESULTS."""
    return f"{_stem(identity)}_seg-{label_of(model)}_dseg.nii.gz"


def probabilities_path(identity: SeriesIdentity, model: str) -> str:
    """Path of the class probabilities relative to RESULTS."""
    return f"{_stem(identity)}_seg-{label_of(model)}_probseg.npy"


def sidecar_path(nifti: str) -> str:
    """Path of the JSON that belongs to a NIfTI."""
    return nifti.removesuffix(".nii.gz") + ".json"


def receipt_path(series_key: str, model: str) -> str:
    """Path of a series' receipt for one model, relative to RESULTS."""
    return f"{RECEIPTS}/{series_key}_{label_of(model)}.json"


def label_of(text: str) -> str:
    """A BIDS label: letters and digits only."""
    return re.sub(r"[^A-Za-z0-9]", "", text) or "x"


def _stem(identity: SeriesIdentity) -> str:
    subject, session = f"sub-{identity.subject_key}", f"ses-{identity.session_key}"
    number = "" if identity.series_number is None else f"{abs(identity.series_number)}x"
    name = f"{subject}_{session}_acq-{number}{identity.series_key}"
    return f"{subject}/{session}/{_modality(identity)}/{name}"


def _modality(identity: SeriesIdentity) -> str:
    return label_of(identity.modality.lower())[:16]  # Code String (CS), PS3.5 table 6.2-1
