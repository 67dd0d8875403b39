"""Files are whole or not there; the index has one row for each series and model."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.records import HeaderRow, SeriesIdentity, SeriesResult, SeriesTask, SliceRef, Status
from imaging_pipeline.results.index import open_index
from imaging_pipeline.results.layout import image_path, mask_path, open_results
from imaging_pipeline.results.nifti import write_nifti
from imaging_pipeline.results.receipt import read_receipt, read_receipts, write_receipt
from imaging_pipeline.results.tables import Keys
from imaging_pipeline.rows import from_batch, pack, schema_of, to_batch, unpack
from imaging_pipeline.stores import LocalStore
from imaging_pipeline.volume import Volume

st.register_type_strategy(int, st.integers(-(2**63), 2**63 - 1))
st.register_type_strategy(float, st.floats(allow_nan=False))


def identity(key: str = "k1", **changes: object) -> SeriesIdentity:
    values: dict[str, object] = {
        "series_key": key, "stack": 0, "subject_key": "s", "session_key": "t", "study_uid": "1.2", "series_uid": "1.3",
        "series_number": 4, "modality": "CT", "series_description": "", "n_slices": 9, "inputs_digest": "d",
    }  # fmt: skip
    return SeriesIdentity(**{**values, **changes})  # type: ignore[arg-type]


def result(key: str = "k1", **changes: object) -> SeriesResult:
    values: dict[str, object] = {"identity": identity(key), "status": Status.DONE, "model_name": "m"}
    return SeriesResult(**{**values, **changes})  # type: ignore[arg-type]


@given(result_=st.from_type(SeriesResult))
def test_a_result_survives_its_way_through_arrow_and_back(result_: SeriesResult) -> None:
    assert from_batch(SeriesResult, to_batch(SeriesResult, [result_])) == [result_]


@given(rows=st.lists(st.from_type(HeaderRow), max_size=3))
def test_headers_survive_being_packed(rows: list[HeaderRow]) -> None:
    assert unpack(HeaderRow, pack(rows)) == rows


def test_a_task_survives_its_way_through_arrow_and_back() -> None:
    ref = SliceRef(path="a", frame=None, position_mm=(1.0, 2.0, 3.5), slope=1.0, intercept=-1024.0)
    task = SeriesTask(
        identity=identity(), slices=(ref, ref), rows=3, columns=4, orientation=(1.0, 0, 0, 0, 1.0, 0),
        pixel_spacing_mm=(0.5, 0.7), step_mm=(0.0, 0.1, 2.0), photometric="MONOCHROME2", size_bytes=7,
    )  # fmt: skip
    assert from_batch(SeriesTask, to_batch(SeriesTask, [task])) == unpack(SeriesTask, pack([task])) == [task]
    assert schema_of(SeriesTask).field("slices").type.value_type.field("frame").type == pa.int64()


@pytest.mark.parametrize("n_rows", [0, 1, 2500])
def test_rows_of_a_table_come_back_in_order_however_many_there_are(n_rows: int) -> None:
    identities = [identity(f"{number:05}") for number in range(n_rows)]
    whole = to_batch(SeriesIdentity, identities)
    assert from_batch(SeriesIdentity, whole) == identities
    pieces = pa.Table.from_batches([whole.slice(start, 700) for start in range(0, n_rows, 700)], schema=whole.schema)
    assert from_batch(SeriesIdentity, pieces) == identities


def test_a_nifti_has_the_same_bytes_each_time_and_the_true_affine(tmp_path: Path) -> None:
    affine = np.array([[2, 0, 0.4, -9], [0, 3, 0, 4], [0, 0, 4.0, 7], [0, 0, 0, 1]])
    volume = Volume(array=np.arange(60, dtype=np.int16).reshape(3, 4, 5), affine=affine)
    digests = {write_nifti(volume, LocalStore(root=tmp_path), f"{name}/a.nii.gz", 1) for name in "xy"}
    assert len(digests) == 1
    image = nib.load(tmp_path / "x" / "a.nii.gz")
    np.testing.assert_allclose(image.affine, affine)
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 0)
    assert image.header.get_data_dtype() == np.int16
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), volume.array)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, Code.OUT_FULL),
        (errno.EDQUOT, Code.OUT_FULL),
        (errno.EROFS, Code.OUT_NOT_WRITABLE),
        (errno.ESTALE, Code.OUT_NOT_WRITABLE),
        (errno.EIO, Code.WRITE_FAILED),
    ],
)
def test_a_disk_that_takes_no_more_leaves_no_half_file_and_its_reason(
    number: int, code: Code, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(number, os.strerror(number))

    out = LocalStore(root=tmp_path)
    out.publish("a", b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PipelineError, match=os.strerror(number)) as refused:
        out.publish("a", b"new")
    assert refused.value.code is code
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_receipt_that_breaks_off_is_none(tmp_path: Path) -> None:
    out = LocalStore(root=tmp_path)
    open_results(out)
    written = write_receipt(out, result(fingerprint="f"), b"key")
    assert read_receipt(out, "k1", "m") == written
    (tmp_path / "receipts" / "k1_m.json").write_text("{half")
    assert read_receipt(out, "k1", "m") is None
    assert list(read_receipts(out)) == []


@pytest.mark.parametrize("kind", ["delta", "parquet"])
def test_a_row_replaces_the_older_one_of_its_series_and_model(kind: str, tmp_path: Path) -> None:
    index = open_index(LocalStore(root=tmp_path), kind)
    assert index.keys() == Keys()
    index.commit([result("k1", status=Status.FAILED), result("k2")])
    index.commit([result("k1", volumes_ml={"liver": 1.5}), result("k1", model_name="other")])
    rows = {(row["series_key"], row["model_name"]): row for row in index.read().to_pylist(maps_as_pydicts="strict")}
    assert set(rows) == {("k1", "m"), ("k2", "m"), ("k1", "other")}
    assert index.keys() == Keys(rows)
    assert rows["k1", "m"]["status"] == "done"
    assert rows["k1", "m"]["volumes_ml"] == {"liver": 1.5}


def test_a_damaged_index_says_how_to_get_a_new_one(tmp_path: Path) -> None:
    index = open_index(LocalStore(root=tmp_path), "delta")
    index.commit([result()])
    for path in (tmp_path / "index" / "_delta_log").glob("*.json"):
        path.write_text("{")
    with pytest.raises(PipelineError, match="index-damaged"):
        index.commit([result("k2")])


def test_delta_opens_with_pandas_polars_and_duckdb(tmp_path: Path) -> None:
    import duckdb
    import polars as pl
    from deltalake import DeltaTable

    open_index(LocalStore(root=tmp_path), "delta").commit(
        [result("k1"), result("k2", status=Status.SKIPPED, reason_code="localizer")]
    )
    table = DeltaTable(str(tmp_path / "index"))
    assert sorted(table.to_pandas()["series_key"]) == ["k1", "k2"]
    assert pl.read_delta(str(tmp_path / "index")).filter(pl.col("status") == "skipped").height == 1
    duckdb.register("rows", table.to_pyarrow_dataset())
    assert duckdb.sql("SELECT reason_code FROM rows WHERE status = 'skipped'").fetchall() == [("localizer",)]


def test_parquet_opens_with_pandas(tmp_path: Path) -> None:
    import pandas as pd

    open_index(LocalStore(root=tmp_path), "parquet").commit([result("k1", volumes_ml={"a": 2.0})])
    assert list(pd.read_parquet(tmp_path / "index")["status"]) == ["done"]


def test_paths_are_made_of_checked_parts_only() -> None:
    wild = identity(modality="../../etc", series_number=-3)
    assert image_path(wild) == "sub-s/ses-t/etc/sub-s_ses-t_acq-3xk1_etc.nii.gz"
    assert mask_path(identity(), "a/../b") == "sub-s/ses-t/ct/sub-s_ses-t_acq-4xk1_seg-ab_dseg.nii.gz"
