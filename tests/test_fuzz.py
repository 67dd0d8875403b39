"""Whatever bytes a file holds, it ends in a volume or in a reason code, soon and in little memory.

The cases run in a process of their own, `python -m tests.test_fuzz FOLDER FIRST LAST`: a codec that crashes or hangs
takes that process down, not the tests, and the next one goes on behind the case that did it. The number of a case and
the seeds below FOLDER make it anew.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import json
import logging
import random
import re
import resource
import shutil
import struct
import subprocess
import sys
import time
import traceback
import warnings
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.identity import Keys
from imaging_pipeline.intake.elements import MAX_DEPTH
from imaging_pipeline.intake.headers import read_header
from imaging_pipeline.intake.listing import list_files
from imaging_pipeline.intake.series import group_series
from imaging_pipeline.records import FileRef, HeaderRow, SeriesTask
from imaging_pipeline.settings import Settings, resolve
from imaging_pipeline.volume.decode import decode
from sample_data.phantom import CtSpec, write_ct, write_enhanced_ct
from tests.conftest import ROOT, Finished

SEED = 20_240_607
CASE_SECONDS = 5.0
"""Processor time that a case may take; one that takes four times as much on the clock is ended."""
GROWTH_MIB = 600
"""What the process may grow by, over all cases."""
MAX_VOXELS = 1 << 23
LENIENT = {
    "geometry.missing_slices": "interpolate",
    "geometry.variable_spacing": "interpolate",
    "geometry.duplicate_positions": "first",
}
"""Every second case runs with these, so that gaps are filled."""

IMPLICIT, EXPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
DEFLATED, RLE, JPEG_2000 = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.90"
JPEG_LOSSLESS, JPEG_SV1, JPEG_LS = (f"1.2.840.10008.1.2.4.{number}" for number in (57, 70, 80))
SYNTAXES = (IMPLICIT, EXPLICIT, BIG, DEFLATED, RLE, JPEG_LOSSLESS, JPEG_SV1, JPEG_LS, JPEG_2000)
OTHER_SYNTAXES = (*(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 81, 91, 92, 100, 201)), "", "1.2.3", "../../x", "é\\")

PIXELS = 0x7FE00010
LONG_VRS = frozenset("OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
VRS = (*"AE AS AT CS DA DS DT FL FD IS LO LT OB OW PN SH SL SQ SS ST TM UI UL UN US UT".split(), "\0\0", "zz")
KEYWORDS = ("ConvolutionKernel", "KVP", "PatientAge", "BitsStored", "PixelRepresentation", "DiffusionBValue")

TARGETS = frozenset(
    (
        *(0x00080005, 0x00080008, 0x00080016, 0x00080018, 0x00080060, 0x0020000D, 0x0020000E, 0x00200011, 0x00200013),
        *(0x00200032, 0x00200037, 0x00280002, 0x00280004, 0x00280008, 0x00280010, 0x00280011, 0x00280030, 0x00280100),
        *(0x00280101, 0x00280102, 0x00280103, 0x00281052, 0x00281053, 0x00283000, 0x00283002, 0x52009229, 0x52009230),
    )
)
"""What intake and decoding act upon."""
DECIMALS = (
    *(b"", b"0", b"-1", b"nan", b"inf", b"1e308", b"-1e308", b"1e-320", b"1e9", b"1e5", b"0.5", b"9" * 400, b"abc"),
    *(b"\\", b"1\\1", b"0\\0", b"1e308\\1e308", b"1e-308\\1e-308", b"-1\\-1", b"nan\\nan", b"1\\2\\3", b"0\\0\\0"),
    *(b"1e308\\-1e308\\1e308", b"1e20\\0\\0", b"1\\0\\0\\1\\0\\0", b"0\\0\\0\\0\\0\\0", b"1\\0\\0\\0\\nan\\0", b"\xff"),
    *(b"-157.5\\-157.5\\-94.998", b"-157.5\\-157.5\\-95.3", b"-157.5\\-157.5\\1e7", b"-157.5\\-157.5\\-1e13"),
    *(b"1\\0\\0\\0\\1\\0", b"0\\1\\0\\0\\0\\-1", b"1_0", "\N{ARABIC-INDIC DIGIT ONE}".encode(), b"1\\" * 30_000),
)
INTEGERS = (b"", b"0", b"-1", b"1", b"2", b"30000", b"2147483647", b"2147483648", b"9" * 30, b"1e9", b"1e400", b"x")
SHORTS = (0, 1, 2, 3, 4, 7, 8, 12, 15, 16, 17, 24, 31, 32, 33, 64, 255, 256, 4096, 32767, 32768, 65535)
TEXTS = (
    *(
        b"",
        b"../../x",
        b"..",
        b"/etc/x",
        b"a\\b\\c",
        b"\\",
        b"\0",
        b"a\0b",
        b"\xe9\xff\xfe",
        b"\x1b$B\x1b(B",
        b"9" * 300,
    ),
    *(b"ISO 2022 IR 87\\ISO 2022 IR 13", b"ISO_IR 192", b"GB18030", b"no such set", b"\xed\xa0\x80", b"MONOCHROME1"),
    *(b"RGB", b"PALETTE COLOR", b"YBR_FULL_422", b"SEG", b"DERIVED\\PRIMARY\\MOSAIC", b"%s%n{0}", b"-1", b"C:\\x"),
)
LENGTHS = (0, 1, 2, 3, 0x7F, 0xFF, 0x101, 0xFFF0, 0xFFFE, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)


@dataclass(frozen=True, slots=True)
class Seed:
    """A small series that decodes: three files of a slice each, or one of several frames."""

    name: str
    planes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Field:
    """Where an element or item stands in a file."""

    tag: int
    at: int
    vr: str
    length_at: int
    value_at: int
    length: int
    big: bool

    @property
    def end(self) -> int:
        return self.value_at + (0 if self.length == 0xFFFFFFFF else self.length)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one case ended; `what` of a case that did not end as it should starts with an exclamation mark."""

    number: int
    seed: str
    mutators: str
    what: str
    seconds: float
    growth_mib: int


# what happens to the bytes


def fields_of(content: bytes) -> list[Field]:
    """Elements at all depths and items, as far as the file can be followed."""
    fields: list[Field] = []
    offset, syntax, in_pixels = (132 if content[128:132] == b"DICM" else 0), EXPLICIT, False
    while offset + 8 <= len(content):
        is_meta = content[offset : offset + 2] == b"\2\0"
        big, implicit = not is_meta and syntax == BIG, not is_meta and syntax == IMPLICIT
        order = ">" if big else "<"
        group, number = struct.unpack_from(order + "HH", content, offset)
        vr = "" if implicit or group == 0xFFFE else content[offset + 4 : offset + 6].decode("latin-1")
        size = 12 if vr in LONG_VRS else 8
        if offset + size > len(content):
            break
        code, length_at = ("H", offset + 6) if vr and size == 8 else ("L", offset + size - 4)
        (length,) = struct.unpack_from(order + code, content, length_at)
        field = Field(group << 16 | number, offset, vr, length_at, offset + size, length, big)
        fields.append(field)
        in_pixels = in_pixels or field.tag == PIXELS
        if field.tag == 0x00020010:
            syntax = content[field.value_at : field.end].strip(b"\0 ").decode("latin-1")
        holds_items = vr == "SQ" or length == 0xFFFFFFFF or (field.tag == 0xFFFEE000 and not in_pixels)
        offset = field.value_at if holds_items or field.tag in (0x52009229, 0x52009230) else field.end
    return fields


def with_value(content: bytes, field: Field, value: bytes, *, same_length: bool = False) -> bytes:
    """The file with another value, its own length set right; those of sequences around it stay."""
    value += b"\0" * (len(value) % 2)
    if same_length:
        value = value[: field.length].ljust(min(field.end, len(content)) - field.value_at)
    return with_length(content, field, len(value))[: field.value_at] + value + content[field.end :]


def with_length(content: bytes, field: Field, length: int) -> bytes:
    size = 2 if field.length_at + 2 == field.value_at else 4
    packed = (length & (1 << 8 * size) - 1).to_bytes(size, "big" if field.big else "little")
    return content[: field.length_at] + packed + content[field.length_at + size :]


def flip(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    header = next((field.at for field in fields_of(content) if field.tag == PIXELS), len(content))
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(128, max(header, 129)) if rng.random() < 0.8 else rng.randrange(len(content))
        if at < len(changed):
            changed[at] = changed[at] ^ (1 << rng.randrange(8)) if rng.random() < 0.6 else rng.randrange(256)
    return bytes(changed)


def flip_pixels(rng: random.Random, content: bytes) -> bytes:
    """Rubbish in the pixels, mostly where codestreams have their headers."""
    changed = bytearray(content)
    start = next((field.at for field in fields_of(content) if field.tag == PIXELS), 0)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = start + (rng.randrange(120) if rng.random() < 0.7 else rng.randrange(len(content) - start))
        if at < len(changed):
            changed[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return bytes(changed)


def truncate(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.randrange(1, len(content))]


def shuffle(rng: random.Random, content: bytes) -> bytes:
    """A piece left out, doubled, overwritten or swapped with another."""
    one, two = sorted(rng.randrange(len(content)) for _ in range(2))
    two = min(two, one + rng.choice((1, 2, 8, 64, 512)))
    at = rng.randrange(len(content))
    piece = content[one:two]
    return rng.choice(
        (
            content[:one] + content[two:],
            content[:two] + piece * rng.choice((1, 1, 50)) + content[two:],
            content[:at] + piece + content[at + len(piece) :],
            content[:one] + content[two : two + len(piece)] + piece + content[two + len(piece) :],
        )
    )


def change_length(rng: random.Random, content: bytes) -> bytes:
    field = pick(rng, content)
    return content if field is None else with_length(content, field, rng.choice((*LENGTHS, field.length + 1)))


def change_vr(rng: random.Random, content: bytes) -> bytes:
    field = pick(rng, content)
    if field is None or not field.vr:
        return content
    return content[: field.at + 4] + rng.choice(VRS).encode() + content[field.at + 6 :]


def swap_values(rng: random.Random, content: bytes) -> bytes:
    one, two = pick(rng, content), pick(rng, content)
    if one is None or two is None or one.end > two.at:
        return content
    first, second = content[one.value_at : one.end], content[two.value_at : two.end]
    return with_value(with_value(content, two, first), one, second)


def drop_element(rng: random.Random, content: bytes) -> bytes:
    field = pick(rng, content)
    return content if field is None else content[: field.at] + content[field.end :]


def hostile_value(rng: random.Random, content: bytes) -> bytes:
    field = pick(rng, content)
    if field is None or field.tag >= PIXELS:
        return content
    order = "big" if field.big else "little"
    if field.vr in ("DS", "IS") or field.tag in (
        0x00200032,
        0x00200037,
        0x00280030,
        0x00281052,
        0x00281053,
        0x00280008,
    ):
        value = rng.choice(INTEGERS if field.vr == "IS" or field.tag == 0x00280008 else DECIMALS)
    elif field.vr == "US" or (not field.vr and field.length == 2):
        value = rng.choice(SHORTS).to_bytes(2, order) * rng.choice((1, 1, 1, 0, 2, 3))
    else:
        value = rng.choice(TEXTS)
    return with_value(content, field, value, same_length=rng.random() < 0.3)


def change_matrix(rng: random.Random, content: bytes) -> bytes:
    """Rows, columns, samples, bits or frames that are not those of the pixels."""
    tags = (0x00280010, 0x00280011, 0x00280002, 0x00280008, 0x00280100, 0x00280101, 0x00280102, 0x00280103)
    wanted = rng.sample(tags, rng.choice((1, 1, 2, 3)))
    for tag in wanted:
        field = next((field for field in fields_of(content) if field.tag == tag), None)
        value = rng.choice(SHORTS)
        if field is not None:
            raw = str(value).encode() if tag == 0x00280008 else value.to_bytes(2, "big" if field.big else "little")
            content = with_value(content, field, raw)
    return content


def change_syntax(rng: random.Random, content: bytes) -> bytes:
    field = next((field for field in fields_of(content) if field.tag == 0x00020010), None)
    return content if field is None else with_value(content, field, rng.choice(SYNTAXES + OTHER_SYNTAXES).encode())


def nest(rng: random.Random, content: bytes) -> bytes:
    """Sequences in sequences, of any kind of length, in front of an element."""
    field = rng.choice(fields_of(content) or [None])
    if field is None or field.big:
        return content
    depth, tag = (
        rng.choice((1, 5, MAX_DEPTH, MAX_DEPTH + 1, 200, 500)),
        rng.choice((0x00081140, 0x52009229, 0x00283000)),
    )
    kind = rng.choice(("measured", "ended", "endless"))
    return content[: field.at] + nested(depth, tag, explicit=bool(field.vr), kind=kind) + content[field.at :]


def nested(depth: int, tag: int, *, explicit: bool, kind: str) -> bytes:
    """Little-endian sequences of one item, each in the item of another: with their lengths, with end marks, without."""
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + (b"SQ\0\0" if explicit else b"")
    if kind != "measured":
        ends = bytes.fromhex("feff0de000000000 feffdde000000000") * depth if kind == "ended" else b""
        return (head + bytes.fromhex("ffffffff feff00e0 ffffffff")) * depth + ends
    inner = b""
    for _ in range(depth):
        item = bytes.fromhex("feff00e0") + struct.pack("<L", len(inner)) + inner
        inner = head + struct.pack("<L", len(item)) + item
    return inner


def pick(rng: random.Random, content: bytes) -> Field | None:
    """Mostly an element that something depends on."""
    fields = fields_of(content)
    chosen = [field for field in fields if field.tag in TARGETS] if rng.random() < 0.7 else fields
    return rng.choice(chosen) if chosen else None


Mutator = Callable[[random.Random, bytes], bytes]
MUTATORS: tuple[Mutator, ...] = (
    *(flip, flip_pixels, flip_pixels, truncate, shuffle, change_length, change_vr, swap_values, drop_element),
    *(hostile_value, hostile_value, hostile_value, change_matrix, change_matrix, change_syntax, nest),
)


def mutate(rng: random.Random, content: bytes, mutators: Sequence[Mutator]) -> bytes:
    """The file after some mutations; a deflated one mostly changes before it is deflated."""
    inside = DEFLATED.encode() in content[:600] and rng.random() < 0.8
    if inside:
        head, body = inflated_parts(content)
        content = with_syntax(head, EXPLICIT) + body
    for mutator in mutators:
        content = mutator(rng, content) or b"\0"
    if inside:
        start = next((field.at for field in fields_of(content) if field.tag >> 16 != 2), len(content))
        content = with_syntax(content[:start], DEFLATED) + deflated(content[start:])
    return content


def inflated_parts(content: bytes) -> tuple[bytes, bytes]:
    """File meta information and data set, inflated if need be."""
    start = next(field.at for field in fields_of(content) if field.tag >> 16 != 2)
    head, body = content[:start], content[start:]
    return head, zlib.decompress(body, -zlib.MAX_WBITS) if DEFLATED.encode() in head else body


def deflated(body: bytes, mode: int = zlib.Z_FINISH) -> bytes:
    deflate = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
    return deflate.compress(body) + deflate.flush(mode)


def with_syntax(head: bytes, syntax: str) -> bytes:
    field = next((field for field in fields_of(head) if field.tag == 0x00020010), None)
    return head if field is None else with_value(head, field, syntax.encode())


def case_of(seeds: Sequence[Seed], number: int) -> tuple[Seed, str, tuple[bytes, ...]]:
    """The files of a case: first every seed as it is, then one plane of a seed changed, or all of them alike."""
    if number < len(seeds):
        return seeds[number], "", seeds[number].planes
    rng = random.Random(f"{SEED} {number}")
    seed = rng.choice(seeds)
    mutators = rng.choices(MUTATORS, k=rng.choice((1, 1, 1, 2, 3)))
    changed = range(len(seed.planes)) if rng.random() < 0.4 else (rng.randrange(len(seed.planes)),)
    state = rng.getrandbits(64)
    planes = list(seed.planes)
    for index in changed:
        planes[index] = mutate(random.Random(state), planes[index], mutators)
    return seed, "+".join(mutator.__name__ for mutator in mutators), tuple(planes)


# the process that works through the cases


def work(folder: Path, first: int, last: int) -> None:
    """Cases `first` to `last`, a line of JSON each in `folder`/outcomes, in address space that is short."""
    warnings.simplefilter("ignore")
    logging.disable()
    seeds = read_seeds(folder)
    strict = resolve(options={"intake.max_voxels": MAX_VOXELS})
    settings = (strict, resolve(options={"intake.max_voxels": MAX_VOXELS, **LENIENT}))
    for number in range(len(seeds)):  # codecs and tables load
        end_of(case_of(seeds, number)[2], folder / "files", strict)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + (GROWTH_MIB << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    at_start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with (folder / "outcomes").open("a", buffering=1) as outcomes, (folder / "failures").open("a") as failures:
        for number in range(first, last):
            seed, mutators, planes = case_of(seeds, number)
            faulthandler.dump_traceback_later(4 * CASE_SECONDS, exit=True)
            start = time.process_time()
            try:
                what = end_of(planes, folder / "files", settings[number % 2 if mutators else 0])
            except BaseException as error:
                what = f"! {type(error).__name__}: {error}"[:200]
                failures.write(f"case {number}, {seed.name}, {mutators}:\n{traceback.format_exc()}\n")
                failures.flush()
            seconds = time.process_time() - start
            growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - at_start) >> 10
            outcome = Outcome(number, seed.name, mutators, what, seconds, growth)
            outcomes.write(json.dumps(dataclasses.asdict(outcome)) + "\n")
    faulthandler.cancel_dump_traceback_later()


def read_seeds(folder: Path) -> list[Seed]:
    """Every folder below `folder`/seeds, its files in order of their names."""
    return [
        Seed(path.name, tuple(file.read_bytes() for file in sorted(path.iterdir())))
        for path in sorted((folder / "seeds").iterdir())
    ]


def end_of(planes: Sequence[bytes], folder: Path, settings: Settings) -> str:
    """Header, series and pixels of a case in words: the worst that happened, by its code."""
    folder.mkdir(exist_ok=True)
    rows = [row for number, plane in enumerate(planes) for row in rows_of(folder / f"{number}.dcm", plane)]
    skipped = [row.skipped for row in rows if row.skipped is not None]
    found = group_series([row.plane for row in rows if row.plane is not None], Keys(b"0" * 16), settings)
    ends = [decoded(task) for task in found.tasks]
    for place, codes in (
        ("file", [Code(file.code) for file in skipped]),
        ("pixels", [end for end in ends if end is not None]),
        ("series", [Code(series.code) for series in found.skipped]),
    ):
        if codes:
            return f"{place} {codes[0]}"
    assert ends, "neither a series nor a reason"
    return "decoded"


def rows_of(path: Path, content: bytes) -> Iterator[HeaderRow]:
    path.write_bytes(content)
    return read_header(FileRef(path=str(path), size_bytes=len(content), modified_at=0.0), KEYWORDS)


def decoded(task: SeriesTask) -> Code | None:
    """Code that decoding ended with; None for a volume of the declared shape in a place that exists."""
    try:
        volume = decode(task)
    except PipelineError as error:
        return Code(error.code)
    assert sorted(volume.shape) == sorted((task.rows, task.columns, task.depth)), "shape"
    assert volume.array.dtype.kind in "iuf", f"an array of {volume.array.dtype}"
    assert np.isfinite(volume.affine).all(), "the affine is not finite"
    assert volume.voxel_ml > 0, "the affine has no volume"
    return None


# the tests


def fuzz(folder: Path, n_cases: int) -> list[Outcome]:
    """Cases 0 to `n_cases`, whatever happens to the process that works through them."""
    lines = folder / "outcomes"
    lines.touch()
    while (first := len(lines.read_text().splitlines())) < n_cases:
        command = [sys.executable, "-m", "tests.test_fuzz", str(folder), str(first), str(n_cases)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        number = len(lines.read_text().splitlines())
        if done.returncode == 0 or number == n_cases:
            continue
        seed, mutators, _ = case_of(read_seeds(folder), number)
        what = "! hang" if "Timeout" in done.stderr else f"! process ended with {done.returncode}"
        with lines.open("a") as outcomes:
            outcomes.write(json.dumps(dataclasses.asdict(Outcome(number, seed.name, mutators, what, 0.0, 0))) + "\n")
        with (folder / "failures").open("a") as failures:
            failures.write(f"case {number}, {seed.name}, {mutators}: {what}\n{done.stderr[-4000:]}\n")
    return [Outcome(**json.loads(line)) for line in lines.read_text().splitlines()]


def judge(outcomes: Sequence[Outcome], folder: Path, capsys: pytest.CaptureFixture[str], start: float) -> None:
    """Print the counts; fail with the cases that did not end as they should."""
    counts = Counter(outcome.what for outcome in outcomes)
    slowest, growth = max(outcome.seconds for outcome in outcomes), max(outcome.growth_mib for outcome in outcomes)
    with capsys.disabled():
        print(f"\n{len(outcomes)} cases of {len({outcome.seed for outcome in outcomes})} seeds in", end=" ")
        print(f"{time.monotonic() - start:.0f} s, the slowest {slowest:.2f} s, memory grew by {growth} MiB")
        for what, count in counts.most_common():
            print(f"{count:7d} {what}")
    wrong = [outcome for outcome in outcomes if outcome.what.startswith("!") or outcome.seconds > CASE_SECONDS]
    failures = folder / "failures"
    assert not wrong, (f"seed {SEED}, files below {folder}", wrong[:20], failures.read_text()[-6000:])
    assert growth < GROWTH_MIB


def write_seeds(folder: Path) -> None:
    """Series in every transfer syntax, Enhanced ones, and one for each thing that decoding does besides."""
    seeds = folder / "seeds"
    spec = CtSpec(shape=(32, 40, 3))
    for syntax in SYNTAXES:
        write_ct(dataclasses.replace(spec, transfer_syntax=syntax), seeds / f"syntax {syntax}")
    for syntax in (EXPLICIT, IMPLICIT, DEFLATED, RLE, JPEG_2000):
        write_enhanced_ct(dataclasses.replace(spec, transfer_syntax=syntax), seeds / f"enhanced {syntax}" / "0.dcm")
    write_ct(dataclasses.replace(spec, edit=look_up), seeds / "modality lut")
    write_ct(dataclasses.replace(spec, edit=as_floats), seeds / "float pixels")
    write_ct(
        dataclasses.replace(spec, bits_stored=12, slope=0.5, transfer_syntax=JPEG_LS), seeds / "12 bits of jpeg-ls"
    )
    write_ct(dataclasses.replace(spec, modality="PT", slope=(1.5, 2.5, 3.5)), seeds / "slopes")
    written = write_ct(dataclasses.replace(spec, transfer_syntax=IMPLICIT), seeds / "no preamble")
    for path in written.paths:
        pydicom.dcmwrite(path, Dataset(pydicom.dcmread(path)), implicit_vr=True, little_endian=True)


def look_up(ds: Dataset, _number: int) -> None:
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType, table.LUTData = [256, 0, 16], "HU", list(range(256))
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    ds.ModalityLUTSequence = [table]


def as_floats(ds: Dataset, _number: int) -> None:
    ds.FloatPixelData = np.linspace(-1000, 1000, ds.Rows * ds.Columns, dtype="<f4").tobytes()
    ds.BitsAllocated = 32
    for keyword in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        del ds[keyword]


def test_a_thousand_damaged_files_end_in_a_volume_or_a_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = time.monotonic()
    write_seeds(tmp_path)
    outcomes = fuzz(tmp_path, 1000)
    assert [outcome.what for outcome in outcomes if not outcome.mutators] == ["decoded"] * len(read_seeds(tmp_path))
    judge(outcomes, tmp_path, capsys, start)


@pytest.mark.slow
def test_twenty_thousand_damaged_files_end_in_a_volume_or_a_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = time.monotonic()
    write_seeds(tmp_path)
    judge(fuzz(tmp_path, 20_000), tmp_path, capsys, start)


@pytest.mark.slow
def test_damaged_files_of_the_collection_end_in_a_volume_or_a_reason(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = time.monotonic()
    write_real_seeds(shared / "data" / "dicom", tmp_path)
    assert len(read_seeds(tmp_path)) >= 20
    judge(fuzz(tmp_path, 4000), tmp_path, capsys, start)


def write_real_seeds(collection: Path, folder: Path) -> None:
    """Three small files of each of some series, at most four series of a set."""
    series: defaultdict[tuple[str, str], list[Path]] = defaultdict(list)
    for file in list_files(collection):
        row = next(read_header(file)) if file.size_bytes <= 1 << 16 else None
        if row is not None and row.plane is not None:
            series[Path(file.path).relative_to(collection).parts[0], row.plane.series_uid].append(Path(file.path))
    taken: Counter[str] = Counter()
    for (name, _), paths in series.items():
        taken[name] += 1
        if taken[name] <= 4:
            target = folder / "seeds" / f"{name} {taken[name]}"
            target.mkdir(parents=True)
            for path in paths[:3]:
                shutil.copyfile(path, target / path.name)


def probe(folder: Path) -> None:
    """Print how the files of a folder end under the default settings, and the MiB that took."""
    warnings.simplefilter("ignore")
    settings, planes = resolve(), [path.read_bytes() for path in sorted(folder.iterdir())]
    at_start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    what = end_of(planes, folder.with_name("files"), settings)
    print(json.dumps([what, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - at_start) >> 10]))


def end_and_growth(folder: Path) -> tuple[str, int]:
    command = [sys.executable, "-m", "tests.test_fuzz", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    what, growth_mib = json.loads(done.stdout)
    return what, growth_mib


def replaced(content: bytes, values: dict[int, bytes]) -> bytes:
    """The file with other values, each at its first place."""
    for tag, value in values.items():
        content = with_value(content, next(field for field in fields_of(content) if field.tag == tag), value)
    return content


@pytest.mark.parametrize(
    ("syntax", "size", "end"),
    [
        (EXPLICIT, 65535, "series truncated-pixels"),
        (EXPLICIT, 20_000, "series truncated-pixels"),
        (RLE, 20_000, "pixels truncated-pixels"),
        *((syntax, 20_000, "pixels decode-failed") for syntax in (JPEG_LOSSLESS, JPEG_SV1, JPEG_LS, JPEG_2000)),
    ],
)
def test_sizes_that_a_file_cannot_hold_are_refused_before_memory_is_taken(
    syntax: str, size: int, end: str, tmp_path: Path
) -> None:
    declared = size.to_bytes(2, "little")
    for path in write_ct(CtSpec(shape=(32, 40, 3), transfer_syntax=syntax), tmp_path / "planes").paths:
        path.write_bytes(replaced(path.read_bytes(), {0x00280010: declared, 0x00280011: declared}))
    what, growth_mib = end_and_growth(tmp_path / "planes")
    assert (what, growth_mib < 100) == (end, True), growth_mib


@pytest.mark.parametrize("syntax", [JPEG_LOSSLESS, JPEG_LS, JPEG_2000])
def test_a_codestream_that_claims_a_huge_picture_in_few_bytes_is_refused(syntax: str, tmp_path: Path) -> None:
    declared = {tag: (20_000).to_bytes(2, "little") for tag in (0x00280010, 0x00280011)}
    code = ">LL" if syntax == JPEG_2000 else ">HH"
    old, new = struct.pack(code, *((40, 32) if syntax == JPEG_2000 else (32, 40))), struct.pack(code, 20_000, 20_000)
    for path in write_ct(CtSpec(shape=(32, 40, 3), transfer_syntax=syntax), tmp_path / "planes").paths:
        content = replaced(path.read_bytes(), declared)
        pixels = next(field.at for field in fields_of(content) if field.tag == PIXELS)
        assert old in content[pixels:]
        path.write_bytes(content[:pixels] + content[pixels:].replace(old, new))
    what, growth_mib = end_and_growth(tmp_path / "planes")
    assert (what, growth_mib < 100) == ("pixels too-large", True), growth_mib


def test_thirty_thousand_frames_in_ten_kilobytes_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "planes" / "0.dcm"
    write_enhanced_ct(CtSpec(shape=(32, 40, 3)), path)
    declared = {0x00280008: b"30000", 0x00280010: b"\xff\xff", 0x00280011: b"\xff\xff"}
    path.write_bytes(replaced(path.read_bytes(), declared))
    assert path.stat().st_size < 11_000
    what, growth_mib = end_and_growth(path.parent)
    assert (what, growth_mib < 100) == ("series truncated-pixels", True), growth_mib


def test_a_small_file_that_inflates_without_end_takes_bounded_memory(tmp_path: Path) -> None:
    """Three times 2 MB that stand for 2 GiB: no more is inflated than a header may have or a plane needs."""
    for path in write_ct(CtSpec(shape=(32, 40, 3), transfer_syntax=DEFLATED), tmp_path / "planes").paths:
        head, body = inflated_parts(path.read_bytes())
        at = body.index(struct.pack("<HH2s", 0x7FE0, 0x10, b"OW")) + 8
        start = deflated(body[:at] + struct.pack("<L", 1 << 31), zlib.Z_FULL_FLUSH)
        path.write_bytes(head + start + deflated(bytes(1 << 20), zlib.Z_FULL_FLUSH) * 2048 + deflated(b""))
    what, growth_mib = end_and_growth(tmp_path / "planes")
    assert (what, growth_mib < 300) == ("decoded", True), growth_mib


@pytest.mark.parametrize("kind", ["measured", "ended", "endless"])
@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, DEFLATED])
@pytest.mark.parametrize("tag", [0x00081140, 0x00283000, 0x52009229])
def test_sequences_nested_a_thousandfold_end_in_a_reason(kind: str, syntax: str, tag: int, tmp_path: Path) -> None:
    path = write_ct(CtSpec(shape=(32, 40, 3), transfer_syntax=syntax), tmp_path).paths[0]
    head, body = inflated_parts(path.read_bytes())
    body = nested(1000, tag, explicit=syntax != IMPLICIT, kind=kind) + body
    (row, *_) = rows_of(path, head + (deflated(body) if syntax == DEFLATED else body))
    if kind == "measured":  # passed over by their lengths, or parsed no deeper than the functional groups go
        assert row.plane is not None or row.skipped is not None
    else:
        assert row.skipped is not None
        assert row.skipped.code is Code.DAMAGED_HEADER


@pytest.mark.parametrize("keys", ["hmac", "raw"])
def test_identifiers_that_look_like_paths_lead_nowhere(
    keys: str, pipeline: Callable[..., Finished], tmp_path: Path
) -> None:
    studies, out = tmp_path / "in", tmp_path / "deep" / "down" / "out"
    names = (b"../../x", b"/tmp/x", b"..", b"a\\..\\..\\x", b"con:\0|x?*\n\r", b"9" * 300)
    tags = (0x00080060, 0x0008103E, 0x00100010, 0x00100020, 0x0020000D, 0x0020000E, 0x00200052)
    for number, name in enumerate(names):
        for path in write_ct(CtSpec(shape=(32, 40, 3)), studies / str(number)).paths:
            values = {**dict.fromkeys(tags, name), 0x00080018: name + path.stem.encode()}
            path.write_bytes(replaced(path.read_bytes(), values))
    before = set(tmp_path.rglob("*"))
    setting = f"identity.keys={keys}"
    done = pipeline(studies, "--out", out, "--model", "none", "--no-spark", "--set", setting, cwd=tmp_path)
    new = set(tmp_path.rglob("*")) - before - {out, out.parent, out.parent.parent}
    assert done.code == 0, done.err
    assert all(path.is_relative_to(out) for path in new)
    assert sum(path.name.endswith(".nii.gz") for path in new) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9._-]{1,255}", path.name) for path in new if "index" not in path.parts)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        probe(Path(sys.argv[1]))
    else:
        work(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
