"""The values that cross process borders: identifiers, paths and numbers, never pixels."""

from dataclasses import dataclass, field
from enum import StrEnum

from imaging_pipeline.errors import Code, FlagCode

Vector = tuple[float, float, float]

RESULTS_SCHEMA = 2
"""Version of what receipts and tables hold, written with every result: docs/UPGRADING.md tells them apart."""


class Status(StrEnum):
    """What became of a series."""

    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"


class GeometryVerdict(StrEnum):
    """What became of a series' geometry.

    OK: a regular grid as it stands. REPAIRED: a regular grid after something was filled in, left out or assumed, which
    the findings name. REJECTED: no volume.
    """

    OK = "OK"
    REPAIRED = "REPAIRED"
    REJECTED = "REJECTED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something about a series' geometry that a reader of the index should know, with its numbers.

    Attributes:
        code: What kind of thing it is.
        message: What was found, with numbers.
    """

    code: Code
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRef:
    """A file as the listing saw it.

    Attributes:
        path: Local path, or a URL that fsspec opens.
        size_bytes: Length of the file.
        modified_at: Modification time in seconds since the epoch, milliseconds begun left out.
    """

    path: str
    size_bytes: int
    modified_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedFile:
    """A file that holds no instance of a series, and why."""

    path: str
    code: Code
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceHeader:
    """One image plane: a single-frame instance, or one frame of a multi-frame instance.

    Lengths are mm, times ms. `attributes` holds what selection rules ask for beyond the named fields, keyword to text
    (several values joined by a backslash). `None` stands for an attribute that is absent or cannot be read; an
    instance that is no image (a structure set, say) has `rows` and `columns` 0. `overlong` and `damaged` name
    attributes of the geometry whose decimal strings break DICOM's rules but are numbers, or are none.
    """

    path: str
    size_bytes: int
    modified_at: float
    frame: int | None
    n_frames: int
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    study_uid: str
    series_uid: str
    patient_id: str
    modality: str
    image_type: tuple[str, ...]
    series_description: str
    series_number: int | None
    instance_number: int | None
    frame_of_reference_uid: str
    rows: int
    columns: int
    samples_per_pixel: int
    bits_allocated: int
    photometric: str
    position_mm: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    pixel_spacing_mm: tuple[float, ...] | None
    slice_thickness_mm: float | None
    slope: float | None
    intercept: float | None
    acquisition_number: int | None
    echo_time_ms: float | None
    inversion_time_ms: float | None
    trigger_time_ms: float | None
    temporal_position: int | None
    b_value: float | None
    acquisition_time: str
    stack_id: str = ""
    concatenation_uid: str = ""
    is_lossy: bool = False
    has_modality_lut: bool = False
    overlong: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()
    attributes: dict[str, str] = field(default_factory=dict)
    problem_code: Code | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderRow:
    """What one file gave: a plane, or the reason why it gave none. Exactly one of the two is set."""

    plane: SliceHeader | None = None
    skipped: SkippedFile | None = None

    @property
    def path(self) -> str:
        """Where it comes from: the file, or a member of it."""
        item = self.plane or self.skipped
        assert item is not None
        return item.path


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceRef:
    """What decoding needs to know of one plane of a series.

    Attributes:
        path: File that holds the plane.
        frame: Zero-based frame of a multi-frame instance, or None.
        position_mm: Image Position (Patient) (0020,0032), LPS.
        slope: Rescale Slope (0028,1053); 1 where absent.
        intercept: Rescale Intercept (0028,1052); 0 where absent.
        has_modality_lut: Values follow from a Modality LUT Sequence (0028,3000) instead.
        sop_instance_uid: SOP Instance UID (0008,0018), by which DICOM outputs refer to the plane.
    """

    path: str
    frame: int | None
    position_mm: Vector
    slope: float
    intercept: float
    has_modality_lut: bool = False
    sop_instance_uid: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blend:
    """How one slice of a repaired volume is made: between a slice that was read and the next.

    Attributes:
        lower: Index of the slice below.
        weight: Share of the slice above it, 0 to 1; 0 is the slice below itself, untouched.
    """

    lower: int
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesIdentity:
    """Who a series is: what every row of the index says of it, whatever became of it.

    Attributes:
        series_key: Name of the series in this RESULTS: an HMAC of Series Instance UID and stack.
        stack: Number of the stack within its series, 0 where the series is one stack.
        subject_key: HMAC of Patient ID (or the raw ID, by explicit setting).
        session_key: HMAC of Study Instance UID.
        study_uid: Study Instance UID (0020,000D).
        series_uid: Series Instance UID (0020,000E).
        series_number: Series Number (0020,0011).
        modality: Modality (0008,0060).
        series_description: Series Description (0008,103E), cut as `identity.series_description` says.
        n_slices: Planes found for it.
        inputs_digest: SHA-256 over SOP Instance UIDs and file sizes.
    """

    series_key: str
    stack: int
    subject_key: str
    session_key: str
    study_uid: str
    series_uid: str
    series_number: int | None
    modality: str
    series_description: str
    n_slices: int
    inputs_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesTask:
    """A series that is one volume, its planes in order along the normal.

    Attributes:
        identity: Who it is.
        slices: Planes, sorted by position along the slice normal.
        rows: Rows (0028,0010) of every plane.
        columns: Columns (0028,0011) of every plane.
        orientation: Image Orientation (Patient) (0020,0037): row cosines, column cosines, LPS.
        pixel_spacing_mm: Pixel Spacing (0028,0030): distance between rows, distance between columns.
        step_mm: Vector from one slice to the next, LPS; not along the normal for a tilted gantry.
        photometric: Photometric Interpretation (0028,0004).
        size_bytes: Bytes to read.
        blends: One a slice of the volume where slices are filled in; empty where the volume is the slices as read.
        verdict: OK or REPAIRED.
        findings: What is unusual about its geometry.
        recomputed_because: Why an earlier result does not count; empty where there is none.
        arrived_at: Modification time of its newest file, in seconds since the epoch.
    """

    identity: SeriesIdentity
    slices: tuple[SliceRef, ...]
    rows: int
    columns: int
    orientation: tuple[float, ...]
    pixel_spacing_mm: tuple[float, float]
    step_mm: Vector
    photometric: str
    size_bytes: int
    blends: tuple[Blend, ...] = ()
    verdict: GeometryVerdict = GeometryVerdict.OK
    findings: tuple[Finding, ...] = ()
    recomputed_because: str = ""
    arrived_at: float = 0.0

    @property
    def series_key(self) -> str:
        """Name of the series in this RESULTS."""
        return self.identity.series_key

    @property
    def depth(self) -> int:
        """Slices of the volume."""
        return len(self.blends) or len(self.slices)

    @property
    def n_voxels(self) -> int:
        """Voxels of the volume."""
        return self.rows * self.columns * self.depth


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedSeries:
    """A series (or stack of one) that is left out, and why."""

    identity: SeriesIdentity
    code: Code
    message: str
    hint: str
    verdict: GeometryVerdict = GeometryVerdict.REJECTED
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A DICOM output that was asked for and cannot be made of a series that is done, and why.

    Attributes:
        format: seg, rtstruct or sr.
        code: Why it cannot be made.
        message: What was found, with numbers.
        hint: What to do about it.
    """

    format: str
    code: Code
    message: str
    hint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """Why somebody should look at a series that is done; it changes nothing about its being done.

    Attributes:
        code: What kind of thing it is.
        message: What was found, with numbers.
        hint: What to check.
        labels: Names of the labels that it concerns; empty for the whole series.
    """

    code: FlagCode
    message: str
    hint: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesResult:
    """What was done to one series, and why: the content of a receipt and of a row of the index.

    Attributes:
        status: done, skipped or failed.
        reason_code: Why it was skipped or failed; empty for a done series.
        message: What happened, with numbers.
        hint: What to do about it.
        geometry_verdict: Whether the geometry is right as it stands, was repaired, or is no volume's.
        findings: What is unusual about the geometry.
        image_path: Relative to RESULTS; empty where no image was written.
        mask_path: Relative to RESULTS; empty where no mask was written.
        probabilities_path: Relative to RESULTS; empty where none were asked for.
        preview_path: Relative to RESULTS; empty where no picture was made.
        voxel_settings: Settings that can change a voxel: dotted name to value, as JSON.
        measurements_path: Table of measurements, relative to RESULTS; empty where no mask was written.
        flags: Why somebody should look at it.
        formats: DICOM outputs that were asked for (seg, rtstruct, sr), each with the settings that it was made by.
        dicom_paths: Those of them that were made, to their paths relative to RESULTS.
        formats_refused: Those that this series allows no valid object of; its NIfTI is there all the same.
        model_name: The bundle, or volumes where there is none.
        model_version: What its metadata says.
        model_digest: SHA-256 of its files; empty for volumes only.
        settings_digest: SHA-256 of `voxel_settings` and the package version.
        fingerprint: Inputs, model, settings that can change a voxel, and package version in one digest.
        recomputed_because: Why an earlier result did not count any more; empty where there was none.
        shape: Voxels along the written axes (RAS+).
        spacing_mm: Voxel size along the written axes.
        volumes_ml: Label name to volume.
        agreement: Label name to mean pairwise Dice of the networks and mirror images that were averaged; empty for one.
        backend: What ran the network: torch, torchscript, export, onnxruntime or openvino.
        n_networks: Networks whose probabilities were averaged; 1 for a single one.
        mirror_axes: Axes of the model grid about which mirror images were averaged; empty for none.
        windows_total: Windows of the volume; 0 where the model goes over whole volumes.
        windows_skipped: Those that were left out because they show air alone.
        memory_steps: Steps down that the series took for want of memory, in order; empty normally.
        stage_seconds: Stage name to wall seconds.
        peak_rss_mb: Largest resident memory of the process meanwhile, in MiB.
        peak_device_mb: Largest memory taken of the device, in MiB.
        device: What the network ran on.
        host: Where.
        run_id: The run that made it.
        attempt: 1, or the number of the try after the process had died over it.
        started_at: In UTC.
        finished_at: In UTC.
        versions: Package to version; `results_schema` is that of receipts and tables.
        output_digests: Path relative to RESULTS to SHA-256.
        seal: HMAC of the receipt by the secret of RESULTS.
    """

    identity: SeriesIdentity
    status: Status
    reason_code: str = ""
    message: str = ""
    hint: str = ""
    geometry_verdict: GeometryVerdict = GeometryVerdict.OK
    findings: tuple[Finding, ...] = ()
    image_path: str = ""
    mask_path: str = ""
    probabilities_path: str = ""
    preview_path: str = ""
    measurements_path: str = ""
    flags: tuple[Flag, ...] = ()
    formats: dict[str, str] = field(default_factory=dict)
    dicom_paths: dict[str, str] = field(default_factory=dict)
    formats_refused: tuple[Refusal, ...] = ()
    model_name: str = ""
    model_version: str = ""
    model_digest: str = ""
    settings_digest: str = ""
    voxel_settings: dict[str, str] = field(default_factory=dict)
    fingerprint: str = ""
    recomputed_because: str = ""
    shape: tuple[int, ...] = ()
    spacing_mm: tuple[float, ...] = ()
    volumes_ml: dict[str, float] = field(default_factory=dict)
    agreement: dict[str, float] = field(default_factory=dict)
    stage_seconds: dict[str, float] = field(default_factory=dict)
    peak_rss_mb: float = 0.0
    peak_device_mb: float = 0.0
    device: str = ""
    backend: str = ""
    n_networks: int = 0
    mirror_axes: tuple[int, ...] = ()
    windows_total: int = 0
    windows_skipped: int = 0
    memory_steps: tuple[str, ...] = ()
    host: str = ""
    run_id: str = ""
    attempt: int = 1
    started_at: str = ""
    finished_at: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    output_digests: dict[str, str] = field(default_factory=dict)
    seal: str = ""
