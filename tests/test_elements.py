"""Headers are read as pydicom reads them, only faster; damaged ones end in a reason."""

from __future__ import annotations

import io
import logging
import struct
import warnings
from pathlib import Path

import pydicom
import pytest

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.intake.elements import NotDicomError, read_elements
from imaging_pipeline.intake.headers import read_header
from imaging_pipeline.intake.listing import list_files
from imaging_pipeline.records import FileRef, HeaderRow
from sample_data.phantom import CtSpec, write_ct

WANTED = frozenset((0x00080016, 0x00200032, 0x00280010))


def rows_of(path: Path) -> list[HeaderRow]:
    return list(read_header(FileRef(path=str(path), size_bytes=path.stat().st_size, modified_at=0.0)))


def test_every_header_of_the_collection_reads_as_pydicom_reads_it(shared: Path) -> None:
    warnings.simplefilter("ignore")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    compared = 0
    for file in list_files(shared / "data"):
        plane = next(read_header(file)).plane
        if plane is None or plane.frame is not None:
            continue
        ds = pydicom.dcmread(file.path, stop_before_pixels=True)
        for ours, theirs in (
            (plane.position_mm, ds.get("ImagePositionPatient")),
            (plane.orientation, ds.get("ImageOrientationPatient")),
            (plane.pixel_spacing_mm, ds.get("PixelSpacing")),
        ):
            assert ours == (tuple(float(value) for value in theirs) if theirs else None), file.path
        assert plane.series_uid == ds.get("SeriesInstanceUID", "")
        assert plane.series_description == str(ds.get("SeriesDescription", "")).strip()
        assert plane.rows in (0, ds.get("Rows"))
        compared += 1
    assert compared > 700


@pytest.mark.parametrize(
    "syntax",
    [
        "1.2.840.10008.1.2",
        "1.2.840.10008.1.2.1",
        "1.2.840.10008.1.2.2",
        "1.2.840.10008.1.2.1.99",
        "1.2.840.10008.1.2.5",
    ],
)
def test_a_header_reads_alike_in_every_encoding(syntax: str, tmp_path: Path) -> None:
    written = write_ct(CtSpec(shape=(32, 32, 3), transfer_syntax=syntax), tmp_path)
    (row,) = rows_of(written.paths[1])
    assert row.plane is not None
    assert row.plane.transfer_syntax_uid == syntax
    assert (row.plane.rows, row.plane.columns, row.plane.bits_allocated) == (32, 32, 16)
    assert row.plane.position_mm == (-157.5, -157.5, -95.0)
    assert row.plane.intercept == -1024


def test_a_file_without_preamble_is_read(tmp_path: Path) -> None:
    written = write_ct(CtSpec(shape=(32, 32, 3), transfer_syntax="1.2.840.10008.1.2"), tmp_path)
    ds = pydicom.dcmread(written.paths[0])
    bare = tmp_path / "bare"
    pydicom.dcmwrite(bare, pydicom.Dataset(ds), implicit_vr=True, little_endian=True)
    (row,) = rows_of(bare)
    assert row.plane is not None
    assert row.plane.rows == 32


def test_an_overlong_decimal_string_is_a_number_all_the_same(tmp_path: Path) -> None:
    written = write_ct(CtSpec(shape=(32, 32, 3)), tmp_path)
    content = written.paths[0].read_bytes()
    at = content.index(struct.pack("<HH2s", 0x20, 0x32, b"DS"))
    (length,) = struct.unpack_from("<H", content, at + 6)
    value = b"-157.50000000000000000000\\-157.5000000000000000000000\\-100.00000000000000000000 "
    longer = tmp_path / "long"
    longer.write_bytes(content[: at + 6] + struct.pack("<H", len(value)) + value + content[at + 8 + length :])
    (row,) = rows_of(longer)
    assert row.plane is not None
    assert row.plane.position_mm == (-157.5, -157.5, -100.0)


def test_a_header_that_breaks_off_is_damaged_at_every_byte(tmp_path: Path) -> None:
    written = write_ct(CtSpec(shape=(32, 32, 3)), tmp_path)
    whole = written.paths[0].read_bytes()
    header = whole.index(struct.pack("<HH2s", 0x7FE0, 0x10, b"OW"))
    cut = tmp_path / "cut"
    for length in range(200, header, 7):
        cut.write_bytes(whole[:length])
        (row,) = rows_of(cut)
        assert row.skipped is None or row.skipped.code in (Code.DAMAGED_HEADER, Code.NOT_DICOM)
        assert row.plane is None or row.plane.rows == 0


def test_pixels_that_were_cut_off_are_noticed_in_the_header_pass(tmp_path: Path) -> None:
    written = write_ct(CtSpec(shape=(32, 32, 3)), tmp_path)
    cut = tmp_path / "cut"
    cut.write_bytes(written.paths[0].read_bytes()[:-100])
    (row,) = rows_of(cut)
    assert row.plane is not None
    assert row.plane.problem_code is Code.TRUNCATED_PIXELS
    assert "2048" in row.plane.problem
    assert "1948" in row.plane.problem


def test_text_and_pictures_are_no_dicom(tmp_path: Path) -> None:
    for content in (b"hello", b"\x89PNG\r\n\x1a\n" + bytes(200), bytes(4096), b"\x08\0" * 5000):
        with pytest.raises((NotDicomError, PipelineError)):
            read_elements(io.BytesIO(content), len(content), WANTED)
    empty = tmp_path / "empty.dcm"
    empty.touch()
    (row,) = rows_of(empty)
    assert row.skipped is not None
    assert row.skipped.code is Code.EMPTY_FILE


def test_sequences_nested_without_end_are_refused() -> None:
    item = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    sequence = struct.pack("<HH2sHL", 0x08, 0x1140, b"SQ", 0, 0xFFFFFFFF) + item
    content = bytes(128) + b"DICM" + struct.pack("<HH2sH", 0x02, 0x10, b"UI", 20) + b"1.2.840.10008.1.2.1\0"
    content += sequence * 10_000
    with pytest.raises(PipelineError, match="nest deeper than 32"):
        read_elements(io.BytesIO(content), len(content), WANTED)
