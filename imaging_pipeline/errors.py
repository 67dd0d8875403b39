"""Every reason code of the project, and the one exception that carries them."""

from enum import StrEnum


class Code(StrEnum):
    """Stable reason codes: they stand in the index, in receipts and in the summary.

    The comment behind a code says what happened; the hint of the error that carries it says what to do.
    """

    # a file that is no DICOM instance
    NOT_DICOM = "not-dicom"  # neither a DICM preamble nor a data set that starts like DICOM
    EMPTY_FILE = "empty-file"  # zero bytes
    UNREADABLE_FILE = "unreadable-file"  # the file system refuses to open or read it
    DAMAGED_HEADER = "damaged-header"  # DICOM, but the header breaks off or cannot be parsed
    DICOMDIR = "dicomdir"  # a media directory, not an instance
    DUPLICATE_INSTANCE = "duplicate-instance"  # a second copy of a SOP Instance UID

    # a series that is no volume
    NOT_AN_IMAGE = "not-an-image"  # segmentation, structure set, report, presentation state, ...
    SECONDARY_CAPTURE = "secondary-capture"  # screenshots and scanned documents
    LOCALIZER = "localizer"  # scout or survey
    NOT_MONOCHROME = "not-monochrome"  # colour pixels
    MISSING_GEOMETRY = "missing-geometry"  # position, orientation or pixel spacing absent or damaged
    TOO_FEW_SLICES = "too-few-slices"
    DUPLICATE_POSITIONS = "duplicate-positions"  # several slices at one place that nothing tells apart
    TIME_SERIES = "time-series"  # several volumes at one place: time points, echoes, b-values
    MOSAIC = "mosaic"  # all slices of a volume tiled into one picture
    DERIVED = "derived"  # reformatted or computed from another series
    DAMAGED_DECIMALS = "damaged-decimals"  # numbers of the geometry that are longer than allowed, or no numbers
    NOT_SETTLED = "not-settled"  # files are still being written
    MISSING_SLICES = "missing-slices"  # gaps of a whole multiple of the slice distance
    VARIABLE_SPACING = "variable-spacing"  # distances between slices that no single number describes
    TOO_LARGE = "too-large"  # more voxels or bytes than the settings allow
    NOT_SELECTED = "not-selected"  # a volume, but not one that this model takes

    # what a volume may have and still be right
    GANTRY_TILT = "gantry-tilt"  # slices step aside as they step on: the affine is sheared
    NON_SQUARE_PIXELS = "non-square-pixels"
    MULTI_FRAME = "multi-frame"  # slices are frames of an Enhanced instance
    SPLIT_STACK = "split-stack"  # one series held several volumes; this is one of them
    MISSING_UID = "missing-uid"  # grouped without a Series Instance UID

    # a series that should have worked
    UNSUPPORTED_TRANSFER_SYNTAX = "unsupported-transfer-syntax"
    DECODE_FAILED = "decode-failed"
    TRUNCATED_PIXELS = "truncated-pixels"  # the file ends before its pixels do
    PRECISION_LOSS = "precision-loss"  # compressed to fewer bits than the header promises
    INPUT_VANISHED = "input-vanished"  # a file that was listed is gone or unreadable
    OUT_OF_MEMORY = "out-of-memory"
    GRID_MISMATCH = "grid-mismatch"  # the model's output cannot be put on the native voxels
    WRITE_FAILED = "write-failed"
    WORKER_CRASH = "worker-crash"  # the process that worked on it died
    INTERNAL_ERROR = "internal-error"  # a fault of ours: please report it

    # a run that cannot start
    USAGE = "usage"
    SETTINGS_INVALID = "settings-invalid"
    STUDIES_NOT_FOUND = "studies-not-found"
    OUT_NOT_WRITABLE = "out-not-writable"
    JAVA_MISSING = "java-missing"
    SPARK_FAILED = "spark-failed"
    DEVICE_NOT_FOUND = "device-not-found"
    MODEL_NOT_FOUND = "model-not-found"
    MODEL_INVALID = "model-invalid"  # a bundle that is incomplete, or whose parts do not fit together
    MODEL_UNTRUSTED = "model-untrusted"  # outside of the folders that settings trust
    MODEL_DIGEST_MISMATCH = "model-digest-mismatch"  # a file of the bundle is not the one that its manifest lists
    MODEL_MULTI_CHANNEL = "model-multi-channel"  # it needs several aligned series as input
    WEIGHTS_UNSAFE = "weights-unsafe"  # weights that hold code, or are no weights at all
    WEIGHTS_MISMATCH = "weights-mismatch"  # keys, shapes or channels do not fit the network
    EXTRA_MISSING = "extra-missing"  # an optional package is needed and not installed
    INDEX_DAMAGED = "index-damaged"
    INDEX_BUSY = "index-busy"  # another run commits to the same index

    @property
    def is_failure(self) -> bool:
        """Whether a series that intake refuses for it should have worked: damage, rather than another kind of data."""
        return self is Code.TRUNCATED_PIXELS


class PipelineError(Exception):
    """An error that a user can act on.

    Attributes:
        code: The stable reason code.
        message: What happened, with the numbers.
        hint: What to do about it.
    """

    def __init__(self, code: Code, message: str, hint: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[type["PipelineError"], tuple[Code, str, str]]:
        return (type(self), (self.code, self.message, self.hint))
