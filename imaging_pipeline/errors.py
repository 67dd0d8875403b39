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
    ARCHIVE_BOMB = "archive-bomb"  # an archive that unpacks to more than the settings allow
    DAMAGED_HEADER = "damaged-header"  # DICOM, but the header breaks off or cannot be parsed
    DICOMDIR = "dicomdir"  # a media directory, not an instance
    DUPLICATE_INSTANCE = "duplicate-instance"  # a second copy of a SOP Instance UID

    # a series that is no volume
    NOT_AN_IMAGE = "not-an-image"  # segmentation, structure set, report, presentation state, ...
    SECONDARY_CAPTURE = "secondary-capture"  # screenshots and scanned documents
    LOCALIZER = "localizer"  # scout or survey
    NOT_MONOCHROME = "not-monochrome"  # colour pixels
    MISSING_GEOMETRY = "missing-geometry"  # position, orientation or pixel spacing absent or damaged
    TOO_FEW_SLICES = "too-few-slices"  # fewer planes than a volume needs
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
    NON_SQUARE_PIXELS = "non-square-pixels"  # rows and columns have different distances
    MULTI_FRAME = "multi-frame"  # slices are frames of an Enhanced instance
    SPLIT_STACK = "split-stack"  # one series held several volumes; this is one of them
    MISSING_UID = "missing-uid"  # grouped without a Series Instance UID

    # a DICOM output of a series that is done without it
    NO_FRAME_OF_REFERENCE = "no-frame-of-reference"  # nothing says which patient space the positions belong to
    NOTHING_FOUND = "nothing-found"  # no label in the mask, and hence nothing that the object could hold
    SEG_TOO_LARGE = "seg-too-large"  # beyond what one DICOM object can hold
    NOT_ENCODABLE = "not-encodable"  # attributes of the source that no valid object can be made of

    # a series that should have worked
    UNSUPPORTED_TRANSFER_SYNTAX = "unsupported-transfer-syntax"  # no installed decoder takes this compression
    DECODE_FAILED = "decode-failed"  # the pixels cannot be decoded, or are others than the header says
    TRUNCATED_PIXELS = "truncated-pixels"  # the file ends before its pixels do
    PRECISION_LOSS = "precision-loss"  # compressed to fewer bits than the header promises
    INPUT_VANISHED = "input-vanished"  # a file that was listed is gone or unreadable
    OUT_OF_MEMORY = "out-of-memory"  # memory ran out while the series was read or written
    GRID_MISMATCH = "grid-mismatch"  # the model's output cannot be put on the native voxels
    WRITE_FAILED = "write-failed"  # an output cannot be written
    WORKER_CRASH = "worker-crash"  # the process that worked on it died
    INTERNAL_ERROR = "internal-error"  # a fault of ours: please report it

    # an output that has not reached its destination; the series is done all the same
    SEND_UNREACHABLE = "send-unreachable"  # the destination does not answer, or not any more
    SEND_REFUSED = "send-refused"  # it takes nothing from us: AE titles, certificate, token, address
    SEND_REJECTED = "send-rejected"  # it does not take this object
    SEND_NOT_COMMITTED = "send-not-committed"  # it has the object and has not promised to keep it
    SEND_UNREADABLE = "send-unreadable"  # the output is gone, or not what its receipt says

    # a run that cannot start
    USAGE = "usage"  # arguments that cannot be followed, or an interruption
    SETTINGS_INVALID = "settings-invalid"  # a settings file, key or value, rules, or the identity secret
    STUDIES_NOT_FOUND = "studies-not-found"  # STUDIES is no folder or prefix that can be read
    OUT_NOT_WRITABLE = "out-not-writable"  # RESULTS cannot be written
    OUT_FULL = "out-full"  # no space, or no quota, is left where results are written
    RESULTS_BUSY = "results-busy"  # another run works on the same RESULTS
    STORE_UNREACHABLE = "store-unreachable"  # a store that was there does not answer any more
    JAVA_MISSING = "java-missing"  # no Java 17 or newer
    SPARK_FAILED = "spark-failed"  # the Spark session did not start, or reading headers failed
    DEVICE_NOT_FOUND = "device-not-found"  # a device was asked for that is not there or that nobody deals
    MODEL_NOT_FOUND = "model-not-found"  # no bundle of that name or path
    MODEL_INVALID = "model-invalid"  # a bundle that is incomplete, or whose parts do not fit together
    MODEL_UNTRUSTED = "model-untrusted"  # outside of the folders that settings trust
    MODEL_DIGEST_MISMATCH = "model-digest-mismatch"  # a file of the bundle is not the one that its manifest lists
    MODEL_MULTI_CHANNEL = "model-multi-channel"  # it needs several aligned series as input
    WEIGHTS_UNSAFE = "weights-unsafe"  # weights that hold code, or are no weights at all
    WEIGHTS_MISMATCH = "weights-mismatch"  # keys, shapes or channels do not fit the network
    EXTRA_MISSING = "extra-missing"  # an optional package is needed and not installed
    INDEX_DAMAGED = "index-damaged"  # the index, or another table of RESULTS, cannot be read
    INDEX_BUSY = "index-busy"  # another run commits to the same index
    RESULTS_NOT_FOUND = "results-not-found"  # no RESULTS, or one without an index
    QUERY_INVALID = "query-invalid"  # SQL that cannot be answered from the tables of a RESULTS
    NOTHING_TO_COMPARE = "nothing-to-compare"  # no series that both sides have a mask of

    # what verify finds in a RESULTS
    RECEIPT_DAMAGED = "receipt-damaged"  # a receipt that cannot be read
    RECEIPT_EDITED = "receipt-edited"  # a receipt whose seal does not fit
    OUTPUT_MISSING = "output-missing"  # a file that a receipt names is not there
    OUTPUT_CHANGED = "output-changed"  # a file is not the one that its receipt names
    OUTPUT_UNLISTED = "output-unlisted"  # a file of a series that no receipt names
    ROW_MISSING = "row-missing"  # a receipt without a row of the index
    ROW_EXTRA = "row-extra"  # a row of the index without a receipt, or a second one
    ROW_DIFFERENT = "row-different"  # a row that says something else than its receipt
    RUN_EDITED = "run-edited"  # run.json, whose settings rerun and send go by, was changed
    AUDIT_BROKEN = "audit-broken"  # lines of the audit log that were changed, removed or put in

    @property
    def is_failure(self) -> bool:
        """Whether a series that intake refuses for it should have worked: damage, rather than another kind of data."""
        return self is Code.TRUNCATED_PIXELS

    @property
    def ends_run(self) -> bool:
        """Whether no other series could do better: where results go, nothing can be written."""
        return self in (Code.OUT_FULL, Code.OUT_NOT_WRITABLE)


class FlagCode(StrEnum):
    """Why somebody should look at a series that is done: stable words in the index, in receipts and in the summary."""

    GEOMETRY = "geometry"  # the volume was repaired
    EMPTY_MASK = "empty-mask"  # no label has a voxel
    LABEL_MISSING = "label-missing"  # some labels have no voxel
    CUT_OFF = "cut-off"  # a label touches a face of the volume
    IMPLAUSIBLE_VOLUME = "implausible-volume"  # outside of what the model's table calls plausible
    ASYMMETRY = "asymmetry"  # left and right of a pair differ much
    FRAGMENTED = "fragmented"  # many parts, or much of a label outside its largest one
    LOW_MEMBER_AGREEMENT = "low-member-agreement"  # networks or mirror images that were averaged say different things


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
