"""The sections of the settings, each with its defaults and their reasons."""

import os
import re
import sysconfig
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.stores.settings import FileMode

CODE = Path(__file__).resolve().parent.parent
"""What Python imports the package from: the checkout, site-packages, or a zip."""


def _root() -> Path:
    """A checkout has conf/ beside the package, a wheel puts it under share/; neither is left in what a zip brings."""
    named = os.environ.get("IMAGING_PIPELINE_HOME")
    installed = [Path(base) / "share" / "imaging_pipeline" for base in (sysconfig.get_path("data"), CODE)]
    places = [CODE, *installed]
    return Path(os.path.abspath(named or next((place for place in places if (place / "conf").is_dir()), CODE)))


ROOT = _root()
"""The folder of conf/ and models/: the checkout, or what IMAGING_PIPELINE_HOME names where the code is elsewhere."""

LOCAL = "local[*]"
"""The master where nobody names one."""


class Section(BaseModel):
    """Frozen, and of known keys alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _off_is_a_word(value: Any) -> Any:
    """YAML reads `off` as false."""
    return "off" if value is False else value


def _dealt_whole(value: float) -> float:
    """Spark counts whole tasks a GPU: more than half of one is a whole one."""
    if value > 0.5 and value != int(value):
        raise ValueError("a whole number of GPUs, or at most 0.5 of one")
    return value


def _without_secrets(conf: dict[str, str]) -> dict[str, str]:
    """Settings are saved with every run, and so would secrets be."""
    for key in conf:
        if re.search(r"secret|password|token|access[.-]?key|private[.-]?key", key, re.IGNORECASE):
            raise PipelineError(
                Code.SETTINGS_INVALID,
                f"spark.conf holds {key}, which looks like a secret, and settings are saved with every run",
                "put it into spark-defaults.conf of SPARK_CONF_DIR, readable by its owner alone",
            )
    return conf


def _with_what_they_refer_to(formats: tuple[str, ...]) -> tuple[str, ...]:
    if "sr" in formats and "seg" not in formats:
        raise ValueError("an sr refers to the segments of a seg: name both, as in nifti,seg,sr")
    return formats


def _user_cache() -> Path:
    """Where this user's caches lie: a home of their own is not everybody's, in containers for one."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    home = os.path.expanduser("~/.cache")
    fallback = Path(home if os.path.isabs(home) else tempfile.gettempdir())
    return (Path(named) if os.path.isabs(named) else fallback) / "imaging_pipeline"


class IntakeSettings(Section):
    """Which files and series are looked at."""

    min_slices: int = Field(3, ge=2, description="fewer planes than this are no volume")
    settle_seconds: float = Field(0.0, ge=0, description="a series with a younger file is left for the next run")
    max_voxels: int = Field(2**31, ge=1, description="larger volumes are refused before memory is taken")
    transport: Literal["path", "content"] = Field(
        "path", description="executors open listed paths, or Spark hands them the bytes"
    )
    header_cache: bool = Field(
        True,
        description="keep headers, encrypted, in RESULTS: files that have not changed are not opened again",
    )
    files_per_partition: int = Field(1000, ge=1, description="header tasks of about this many files")


class GeometrySettings(Section):
    """When a stack of planes counts as one regular grid."""

    spacing_tolerance: float = Field(
        0.02, gt=0, lt=0.5, description="largest distance of a slice from the regular grid, in voxels"
    )
    missing_slices: Literal["reject", "interpolate"] = Field("reject", description="gaps of whole slices")
    variable_spacing: Literal["reject", "interpolate"] = Field("reject", description="uneven distances of slices")
    duplicate_positions: Literal["reject", "first"] = Field(
        "reject", description="copies of a position that nothing tells apart; first keeps the lowest Instance Number"
    )
    time_series: Literal["split", "reject"] = Field("split", description="several volumes under one series")
    derived: Literal["accept", "reject"] = Field("accept", description="reformats and computed images (Image Type)")
    max_filled_share: float = Field(0.25, gt=0, le=1, description="share of slices that interpolation may fill in")


class SelectionSettings(Section):
    """Which volumes are taken."""

    file: Path | None = Field(None, description="YAML of rules in place of the model's own selection.yaml")


class OutputSettings(Section):
    """What is written."""

    save_image: bool = Field(False, description="write the decoded volume beside the mask")
    save_probabilities: bool = Field(False, description="write class probabilities beside the mask, in float16")
    preview: bool = Field(True, description="write a small picture of three planes beside the mask, for the report")
    formats: Annotated[
        tuple[Literal["nifti", "seg", "rtstruct", "sr"], ...], AfterValidator(_with_what_they_refer_to)
    ] = Field(
        ("nifti",), description="forms of the mask: NIfTI always; seg, rtstruct and sr for DICOM objects beside it"
    )
    seg_type: Literal["binary", "labelmap"] = Field(
        "binary", description="kind of DICOM SEG; labelmap is small and fast, and few viewers read it yet"
    )
    gzip_level: int = Field(1, ge=0, le=9, description="level 1 is four times as fast as 9 at 15 % more bytes")
    file_mode: FileMode = Field(
        "umask",
        description="who may read RESULTS in a folder: private (0600, 0700), group (0640, 0750), or as the umask says",
    )

    @property
    def dicom_formats(self) -> dict[str, str]:
        """The DICOM outputs that are asked for, each with the settings that change it."""
        made_by = {"seg": self.seg_type, "rtstruct": "", "sr": self.seg_type}
        return {name: how for name, how in made_by.items() if name in self.formats}


class IdentitySettings(Section):
    """What of a patient's identity may leave the input."""

    secret_file: Path | None = Field(None, description="key for subject and session names; default: made per RESULTS")
    keys: Literal["hmac", "raw"] = Field("hmac", description="raw writes Patient ID and Study Instance UID in paths")
    series_description: Literal["vocabulary", "full", "none"] = Field(
        "vocabulary", description="free text is cut to known protocol words, kept whole, or left out"
    )
    error_details: bool = Field(
        False, description="texts of unforeseen errors and warnings in logs and receipts: they may quote the DICOM"
    )


class ModelSettings(Section):
    """Where models come from, and which of their weights are opened."""

    trusted_dirs: tuple[Path, ...] = Field((ROOT / "models",), description="only bundles under these are opened")
    require_manifest: bool = Field(False, description="refuse bundles without a MANIFEST.sha256")
    backend: Literal["auto", "torch", "torchscript", "export", "onnxruntime", "openvino"] = Field(
        "auto",
        description="auto takes the first form that is there: .pt, .ts, .pt2, .onnx, .xml; on the CPU a .pt runs by "
        "what a short trial found the fastest. onnxruntime and openvino run a .pt too where there is no file of theirs",
    )
    cache_dir: Path = Field(default_factory=_user_cache, description="keeps which backend trials found the fastest")
    ensemble: bool = Field(False, description="average the networks of every fold, models/fold_*")


class SegmentSettings(Section):
    """How the network is run; what it computes is the bundle's business."""

    amp: Annotated[Literal["auto", "off", "bf16", "fp16"], BeforeValidator(_off_is_a_word)] = Field(
        "auto",
        description="mixed precision; auto: on CUDA only. bf16 on a CPU pays where it has AMX: a .pt runs by torch or "
        "OpenVINO, whichever a trial found faster there",
    )
    window_batch: int = Field(
        0, ge=0, description="windows a batch and device; 0: 2 on CPU (oneDNN needs two; openvino 1), 4 on CUDA"
    )
    acceleration: Annotated[Literal["auto", "off", "compile", "tensorrt", "graph"], BeforeValidator(_off_is_a_word)] = (
        Field("auto", description="how the network is made faster for its window; auto: CUDA graphs on CUDA, else off")
    )
    shard: bool = Field(
        False, description="of several devices each holds a part of the layers, not the whole network: for large ones"
    )
    threads: int = Field(0, ge=0, description="CPU threads of one task; 0: the cores that the task owns")
    restore: Literal["bundle", "labels"] = Field(
        "bundle", description="labels: decide on the model grid and bring labels back by nearest neighbour"
    )
    window_starts: Literal["bundle", "even", "body"] = Field(
        "bundle",
        description="even: spread windows evenly instead of moving the last one in, as many of them; body: crop to the "
        "body, where air is known: fewer windows, which lie elsewhere than MONAI's",
    )
    air: Annotated[float | Literal["auto", "clip", "off"], BeforeValidator(_off_is_a_word)] = Field(
        "auto",
        description="windows that show air alone are left out: voxels at or below this number in the modality's "
        "units, or what the bundle's intensity rule clips; auto: what the bundle's metadata says; off: none",
    )
    memory_limit_mb: int = Field(0, ge=0, description="memory for one volume beyond itself; 0: what is free")
    share_batches: bool = Field(True, description="fill batches with windows of the next series")
    sharing_limit_mb: int = Field(512, ge=0, description="prepared volumes that wait for a shared batch")
    tta: bool = Field(False, description="average over mirror images, about the axes that the model's card allows")
    agreement: bool = Field(
        True, description="count how far the networks and mirror images that are averaged agree, label by label"
    )

    def air_for(self, bundle: float | Literal["clip"] | None) -> float | Literal["clip"] | None:
        """What counts as air for a bundle that says so itself, or does not (None)."""
        if self.air == "auto":
            return bundle
        return None if self.air == "off" else self.air


class IndexSettings(Section):
    """The table of all series."""

    format: Literal["delta", "parquet"] = Field("delta", description="kind of table; parquet is one file")
    commit_seconds: float = Field(
        5.0, gt=0, description="receipts are committed in batches this far apart, further where commits take long"
    )
    compact_commits: int = Field(
        10, ge=0, description="commits that leave a small file each before these are made one; 0: at the end of a run"
    )
    keep_hours: int = Field(
        24, ge=0, description="files that are no longer in the index stay so long for those who read an older version"
    )


class ReportSettings(Section):
    """The page for people."""

    enabled: bool = Field(True, description="write report.html at the end of each run")
    max_series: int = Field(10_000, ge=1, description="rows of its table, those first that somebody should look at")


class QcSettings(Section):
    """From where on a result is flagged for somebody to look at; flags change neither masks nor exit codes."""

    missing_labels: bool = Field(
        True, description="flag labels without a voxel; false for models of many labels on partial scans"
    )
    cut_off: bool = Field(True, description="flag labels that touch the volume's border; false for crops")
    asymmetry: float = Field(
        0.5,
        gt=0,
        description="flag pairs whose volumes differ by more than this share of their mean; healthy kidneys, lungs "
        "and hippocampi stay well below a third",
    )
    max_parts: int = Field(
        5, ge=1, description="flag labels of more parts; a speck or two at an edge are common, many are not"
    )
    min_largest_share: float = Field(
        0.9, ge=0, le=1, description="flag labels with less than this share of their voxels in the largest part"
    )
    min_agreement: float = Field(
        0.8,
        ge=0,
        le=1,
        description="flag labels on which members of an ensemble agree less (mean pairwise Dice): good crops of the "
        "default model have 0.89 or more, spoilt ones less than 0.8; thin structures have less by nature. 0: none",
    )


class LimitSettings(Section):
    """What one series may cost, and when a series that ends its process is given up."""

    seconds: float = Field(
        300.0, ge=0, description="a series without a step for longer than this and the next is ended; 0: no limit"
    )
    seconds_per_megavoxel: float = Field(
        36.0, ge=0, description="added a million voxels, times networks and mirror images: an hour for a large CT"
    )
    memory_mb: int = Field(
        0, ge=0, description="of a process that works on the CPU; 0: nearly all of the machine's or the container's"
    )
    crashes: int = Field(2, ge=1, description="a series that has ended its process so often is given up: worker-crash")


class LogSettings(Section):
    """What a run writes down while it works."""

    format: Literal["text", "json"] = Field(
        "text",
        description="json: a line of JSON an event, of driver and workers, in logs/*.jsonl: warnings and faults as in "
        "text, and what became of each series",
    )


class MetricsSettings(Section):
    """What Prometheus can read of a run."""

    enabled: bool = Field(True, description="write metrics.prom into RESULTS while a run works, and at its end")
    write_seconds: float = Field(30.0, gt=0, description="it is written this far apart while a run works")
    textfile: Path | None = Field(
        None, description="write them here too, NAME.prom in the folder that node_exporter's textfile collector reads"
    )
    name: str = Field(
        "",
        pattern=r"^[A-Za-z0-9_.-]{0,64}$",
        description="what this RESULTS is called in them, where a machine has several: value of the label results",
    )
    port: int = Field(0, ge=0, le=65535, description="serve them over HTTP, at /metrics, while a run works; 0: do not")
    bind: str = Field("127.0.0.1", min_length=1, description="address that serves them; it asks nobody who they are")


class LockSettings(Section):
    """One run at a time on a RESULTS."""

    heartbeat_seconds: float = Field(10.0, gt=0, description="a run says so often that it is alive")
    stale_seconds: float = Field(60.0, gt=0, description="a run that has not said so for this long counts as dead")
    wait_seconds: float = Field(0.0, ge=0, description="how long to wait for another run to end; 0: leave at once")


class SparkSettings(Section):
    """The Spark session."""

    master: str = Field(
        "",
        description="local[N], local-cluster[n,cores,MiB], spark://..., yarn, k8s://...; empty: what spark-submit "
        "says, else local[*]",
    )
    max_failures: int = Field(3, ge=1, description="tries of one partition before the job gives up")
    bins_per_slot: int = Field(4, ge=1, description="partitions of series for each task slot")
    class_archive: Annotated[Literal["auto", "always", "off"], BeforeValidator(_off_is_a_word)] = Field(
        "auto",
        description="an archive of Spark's classes (some 160 MB) in this user's cache: JVMs on this machine start in "
        "two thirds of the time once one has written it; auto: not into temporary folders, and no more than two tries",
    )
    executor_gpus: int = Field(0, ge=0, description="GPUs of an executor on a cluster; 0: none")
    task_gpus: Annotated[float, AfterValidator(_dealt_whole)] = Field(
        1.0, ge=0, description="GPUs of one inference task, where there are any: whole ones, or up to 0.5; 0: none"
    )
    task_cpus: int = Field(
        0, ge=0, description="cores of one inference task; 0: one, with a GPU its share of the executor's or machine's"
    )
    largest_volume: tuple[int, int, int] = Field(
        (512, 512, 800), description="memory of a cluster's executors is set aside for volumes of so many voxels"
    )
    discovery_script: Path = Field(ROOT / "conf" / "get-gpus.sh", description="prints the GPUs of a machine as JSON")
    conf: Annotated[dict[str, str], AfterValidator(_without_secrets)] = Field(
        default_factory=dict, description="further Spark properties, passed on as they are; no secrets"
    )
