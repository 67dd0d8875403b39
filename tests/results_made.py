"""RESULTS with as many series as a test wants, written by the package's own writers, without a model."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from imaging_pipeline.errors import FlagCode
from imaging_pipeline.records import Flag, SeriesIdentity, SeriesResult, Status
from imaging_pipeline.results import layout
from imaging_pipeline.results.card import Card
from imaging_pipeline.results.index import open_index
from imaging_pipeline.results.nifti import write_nifti
from imaging_pipeline.results.preview import backdrop_of, write_preview
from imaging_pipeline.results.publish import publish_json
from imaging_pipeline.segment.labels import Label
from imaging_pipeline.stores import LocalStore
from imaging_pipeline.volume import Volume

LABELS = (Label(index=1, name="core", colour="#00FF00"), Label(index=2, name="rim", colour="#FF00FF"))
MODEL = "tiny"
_MISSING = Flag(code=FlagCode.LABEL_MISSING, message="not found: rim", hint="see whether it is in the picture")


def ball() -> tuple[Volume, Volume]:
    """A bright ball in noise near the patient's right, front and top, and its mask of two labels."""
    grid = np.mgrid[:40, :40, :30]
    centre = np.array((28, 26, 18)).reshape(3, 1, 1, 1)
    distance = np.sqrt(((grid - centre) ** 2).sum(axis=0))
    mask = np.where(distance < 4, 1, np.where(distance < 7, 2, 0)).astype(np.uint8)
    image = (np.random.default_rng(0).integers(0, 100, mask.shape) + 300 * (mask > 0)).astype(np.int16)
    affine = np.diag([1.0, 1.0, 1.5, 1.0])
    return Volume(array=image, affine=affine), Volume(array=mask, affine=affine)


def made_results(folder: Path, n_series: int, *, description: str = "T1 axial", images: bool = False) -> LocalStore:
    """A RESULTS: of twelve series one failed, one skipped, one with an empty label; the pictures are one picture."""
    out = LocalStore(root=folder)
    layout.open_results(out)
    image, mask = ball()
    first = result_of(0, description)
    write_preview(out, first.preview_path, backdrop_of(image, "MR"), mask, LABELS)
    write_nifti(mask, out, first.mask_path, 1)
    write_nifti(image, out, layout.image_path(first.identity), 1)
    results = []
    for number in range(n_series):
        result = result_of(number, description)
        result = replace(result, preview_path=first.preview_path, mask_path=first.mask_path)
        if images:
            result = replace(result, image_path=layout.image_path(first.identity))
        results.append(
            result if result.status is Status.DONE else replace(result, preview_path="", mask_path="", image_path="")
        )
    labels = {label.index: (label.name, label.colour) for label in LABELS}
    publish_json(out, f"seg-{MODEL}_card.json", asdict(Card(name=MODEL, version="1", digest="0", labels=labels)))
    open_index(out, "delta").commit(results)
    return out


def result_of(number: int, description: str) -> SeriesResult:
    key = f"{number:016x}"
    identity = SeriesIdentity(
        series_key=key, stack=0, subject_key="5ub", session_key="5e5", study_uid="1.2.3", series_uid=f"1.2.3.{number}",
        series_number=number, modality="MR", series_description=description, n_slices=30, inputs_digest="",
    )  # fmt: skip
    status = {3: Status.FAILED, 4: Status.SKIPPED}.get(number % 12, Status.DONE)
    done = status is Status.DONE
    return SeriesResult(
        identity=identity,
        status=status,
        reason_code={Status.FAILED: "decode-failed", Status.SKIPPED: "localizer"}.get(status, ""),
        message="" if done else f"plane {number} is damaged",
        hint="" if done else "send it again",
        model_name=MODEL,
        mask_path=layout.mask_path(identity, MODEL),
        preview_path=layout.preview_path(identity, MODEL),
        shape=(40, 40, 30),
        spacing_mm=(1.0, 1.0, 1.5),
        volumes_ml={"core": 0.3 + 0.01 * (number * 7919 % 1000), "rim": 0.0 if number % 12 == 5 else 1.5}
        if done
        else {},
        agreement={"core": 0.5} if number % 12 == 5 else {},
        flags=(_MISSING,) if number % 12 == 5 else (),
        stage_seconds={"decode": 0.1, "network": 0.5 + 0.001 * number} if done else {},
        run_id="made",
        finished_at="2026-01-01T00:00:00+00:00",
    )
