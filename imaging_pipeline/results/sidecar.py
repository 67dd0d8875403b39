"""The JSON beside each NIfTI: where it comes from and what it is worth."""

from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging_pipeline import __version__
from imaging_pipeline.records import SeriesResult
from imaging_pipeline.results.dataset import NOT_FOR_CLINICAL_USE
from imaging_pipeline.results.layout import sidecar_path
from imaging_pipeline.results.publish import publish_json
from imaging_pipeline.segment.bundle import Bundle
from imaging_pipeline.stores import Store


def write_sidecar(
    out: Store, nifti: str, result: SeriesResult, bundle: Bundle | None, affine: NDArray[np.float64]
) -> str:
    """Write the sidecar of an image or mask; SHA-256 of the file.

    It holds nothing that differs between two runs over the same input.

    Args:
        out: RESULTS.
        nifti: Path of the NIfTI relative to it.
        result: What is known of the series so far.
        bundle: The model that made the mask.
        affine: (4, 4) of its grid, for probabilities beside it.
    """
    identity = result.identity
    content: dict[str, Any] = {
        "Modality": identity.modality,
        "SeriesInstanceUID": identity.series_uid,
        "StudyInstanceUID": identity.study_uid,
        "SeriesDescription": identity.series_description,
        "Stack": identity.stack,
        "NumberOfSlices": identity.n_slices,
        "GeometryVerdict": result.geometry_verdict,
        "GeometryFindings": [{"Code": item.code, "Message": item.message} for item in result.findings],
        "Fingerprint": result.fingerprint,
        "PipelineVersion": __version__,
    }
    if bundle is not None and nifti == result.mask_path:
        content |= {
            "Labels": {label.name: label.index for label in bundle.labels},
            "VolumesMl": result.volumes_ml,
            "Model": {
                "Name": bundle.name,
                "Version": bundle.version,
                "SHA256": bundle.digest,
                "Networks": result.n_networks,
                "MirrorAxes": list(result.mirror_axes),
            },
            **_probabilities(result, bundle, affine),
            "Notice": NOT_FOR_CLINICAL_USE,
        }
    return publish_json(out, sidecar_path(nifti), content)


def _probabilities(result: SeriesResult, bundle: Bundle, affine: NDArray[np.float64]) -> dict[str, Any]:
    """What a NumPy file cannot say of itself."""
    if not result.probabilities_path:
        return {}
    return {
        "Probabilities": {
            "File": PurePosixPath(result.probabilities_path).name,
            "Affine": affine.tolist(),
            "Channels": {label.name: label.index for label in bundle.labels},
        }
    }
