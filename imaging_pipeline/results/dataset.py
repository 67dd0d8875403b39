"""What describes a RESULTS as a whole: dataset_description.json, the label tables, what columns mean."""

from collections.abc import Sequence

from imaging_pipeline import __version__
from imaging_pipeline.results.card import write_card
from imaging_pipeline.results.layout import DATASET_DESCRIPTION, LABEL_TABLE, MEASUREMENTS_COLUMNS, label_of
from imaging_pipeline.results.measurements import describe_columns
from imaging_pipeline.results.publish import publish_json
from imaging_pipeline.segment.bundle import LABELS, Bundle
from imaging_pipeline.stores import Store

NOT_FOR_CLINICAL_USE = "Made by software that is no medical device; not for clinical use."


def describe_dataset(out: Store, bundle: Bundle | None) -> None:
    """Write the BIDS description, and the model's label table as `dseg.tsv` and under the model's own name.

    Raises:
        PipelineError: `write-failed`.
    """
    publish_json(
        out,
        DATASET_DESCRIPTION,
        {
            "Name": "imaging_pipeline results",
            "BIDSVersion": "1.9.0",
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "imaging_pipeline", "Version": __version__, **_model(bundle)}],
            "HowToAcknowledge": NOT_FOR_CLINICAL_USE,
        },
    )
    if bundle is not None:
        publish_json(out, MEASUREMENTS_COLUMNS, describe_columns())
        content = _label_table(bundle)
        for name in (LABEL_TABLE, f"seg-{label_of(bundle.name)}_{LABEL_TABLE}"):
            out.publish(name, content)
        write_card(out, bundle)


def _model(bundle: Bundle | None) -> dict[str, str]:
    if bundle is None:
        return {"Description": "DICOM series as NIfTI volumes"}
    return {"Description": f"masks by model {bundle.name} {bundle.version}, sha256 {bundle.digest}"}


def _label_table(bundle: Bundle) -> bytes:
    if (bundle.path / LABELS).is_file():
        return (bundle.path / LABELS).read_bytes()
    lines: Sequence[str] = [f"{label.index}\t{label.name}" for label in bundle.labels]
    return ("index\tname\n" + "\n".join(lines) + "\n").encode()
