"""Settings of a run: defaults < conf/default.yaml < --config FILE < --set and named options, frozen once resolved."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from imaging_pipeline import __version__
from imaging_pipeline.errors import Code, PipelineError

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_CONFIG = ROOT / "conf" / "default.yaml"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _off_is_a_word(value: Any) -> Any:
    """YAML reads `off` as false."""
    return "off" if value is False else value


def _user_cache() -> Path:
    """Where this user's caches lie: a home of their own is not everybody's, in containers for one."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    home = os.path.expanduser("~/.cache")
    fallback = Path(home if os.path.isabs(home) else tempfile.gettempdir())
    return (Path(named) if os.path.isabs(named) else fallback) / "imaging_pipeline"


class IntakeSettings(_Section):
    """Which files and series are looked at."""

    min_slices: int = Field(3, ge=2, description="fewer planes than this are no volume")
    settle_seconds: float = Field(0.0, ge=0, description="a series with a younger file is left for the next run")
    max_voxels: int = Field(2**31, ge=1, description="larger volumes are refused before memory is taken")
    transport: Literal["path", "content"] = Field(
        "path", description="executors open listed paths, or Spark hands them the bytes"
    )
    files_per_partition: int = Field(400, ge=1, description="header tasks of about this many files")


class GeometrySettings(_Section):
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


class SelectionSettings(_Section):
    """Which volumes are taken."""

    file: Path | None = Field(None, description="YAML of rules in place of the model's own selection.yaml")


class OutputSettings(_Section):
    """What is written."""

    save_image: bool = Field(False, description="write the decoded volume beside the mask")
    save_probabilities: bool = Field(False, description="write class probabilities beside the mask, in float16")
    gzip_level: int = Field(1, ge=0, le=9, description="level 1 is four times as fast as 9 at 15 % more bytes")


class IdentitySettings(_Section):
    """What of a patient's identity may leave the input."""

    secret_file: Path | None = Field(None, description="key for subject and session names; default: made per RESULTS")
    keys: Literal["hmac", "raw"] = Field("hmac", description="raw writes Patient ID and Study Instance UID in paths")
    series_description: Literal["vocabulary", "full", "none"] = Field(
        "vocabulary", description="free text is cut to known protocol words, kept whole, or left out"
    )


class ModelSettings(_Section):
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


class SegmentSettings(_Section):
    """How the network is run; what it computes is the bundle's business."""

    amp: Annotated[Literal["auto", "off", "bf16", "fp16"], BeforeValidator(_off_is_a_word)] = Field(
        "auto", description="mixed precision; auto: on CUDA only"
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
    window_starts: Literal["bundle", "even"] = Field(
        "bundle", description="even: spread windows evenly instead of moving the last one in, as many of them"
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

    def air_for(self, bundle: float | Literal["clip"] | None) -> float | Literal["clip"] | None:
        """What counts as air for a bundle that says so itself, or does not (None)."""
        if self.air == "auto":
            return bundle
        return None if self.air == "off" else self.air


class IndexSettings(_Section):
    """The table of all series."""

    format: Literal["delta", "parquet"] = "delta"
    commit_seconds: float = Field(5.0, gt=0, description="receipts are committed in batches this far apart")


class SparkSettings(_Section):
    """The Spark session."""

    master: str = Field("local[*]", description="local[N], local-cluster[n,cores,MiB], spark://..., yarn, k8s://...")
    max_failures: int = Field(3, ge=1, description="tries of one partition before the job gives up")
    bins_per_slot: int = Field(4, ge=1, description="partitions of series for each task slot")
    conf: dict[str, str] = Field(default_factory=dict, description="further Spark properties, passed on as they are")


class Settings(_Section):
    """All settings of a run."""

    model: str = Field("none", description="name of a bundle under models.trusted_dirs, its path, or none")
    device: str = Field(
        "auto",
        pattern=r"^(auto|(cpu|cuda|cuda:\d+)(,(cpu|cuda|cuda:\d+))*)$",
        description="auto, cpu, cuda or cuda:N; several by commas share the windows, the first holds the volumes",
    )
    spark_enabled: bool = Field(True, description="false runs the same code in this process, without Java")
    force: bool = Field(False, description="compute again what is already done")
    intake: IntakeSettings = IntakeSettings()
    geometry: GeometrySettings = GeometrySettings()
    selection: SelectionSettings = SelectionSettings()
    output: OutputSettings = OutputSettings()
    identity: IdentitySettings = IdentitySettings()
    models: ModelSettings = ModelSettings()
    segment: SegmentSettings = SegmentSettings()
    index: IndexSettings = IndexSettings()
    spark: SparkSettings = SparkSettings()

    def voxel_digest(self) -> str:
        """SHA-256 over the settings (and the package version) that can change a voxel."""
        relevant = {
            "version": __version__,
            "geometry": self.geometry.model_dump(mode="json"),
            "amp": self.segment.amp,
            "tta": self.segment.tta,
            "restore": self.segment.restore,
            "window_starts": self.segment.window_starts,
            "air": self.segment.air,
            "backend": self.models.backend,
            "ensemble": self.models.ensemble,
        }
        return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()


def resolve(
    config: Path | None = None, assignments: Iterable[str] = (), options: Mapping[str, Any] | None = None
) -> Settings:
    """Settings of a run from every source, the later ones winning.

    Args:
        config: File named by `--config`.
        assignments: `--set` texts such as `index.format=parquet`; the value is read as YAML.
        options: Dotted keys and values of named options.

    Raises:
        PipelineError: `settings-invalid` for a file that cannot be read, an unknown key or a bad value.
    """
    merged: dict[str, Any] = {}
    for file in (DEFAULT_CONFIG if DEFAULT_CONFIG.is_file() else None, config):
        if file is not None:
            _merge(merged, _read_yaml(file))
    for text in assignments:
        key, value = _parse_assignment(text)
        _merge(merged, _nest(key, value))
    for key, value in (options or {}).items():
        _merge(merged, _nest(key, value))
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        raise PipelineError(
            Code.SETTINGS_INVALID, "; ".join(_explain(item) for item in error.errors()), "correct or remove the setting"
        ) from None


def available_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PipelineError(
            Code.SETTINGS_INVALID, f"cannot read {path}: {error.strerror}", "name an existing YAML file"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PipelineError(
            Code.SETTINGS_INVALID, f"{path} is not YAML: {' '.join(str(error).split())}", "mend the file"
        ) from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise PipelineError(Code.SETTINGS_INVALID, f"{path} holds no mapping", "write it as `key: value` lines")
    return content


def _parse_assignment(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise PipelineError(
            Code.SETTINGS_INVALID, f"--set {text!r} is no key=value", "write --set index.format=parquet"
        )
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        return key, value


def _nest(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    return value


def _merge(into: dict[str, Any], new: Mapping[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def _explain(item: Any) -> str:
    """One sentence for one pydantic error: path of the field, bad value, allowed values."""
    path = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        known = ", ".join(sorted(_known_keys(item["loc"][:-1])))
        return f"unknown setting {path}; known here: {known}"
    return f"{path} = {item['input']!r}: {item['msg']}"


def _known_keys(parents: tuple[Any, ...]) -> Iterable[str]:
    section: Any = Settings
    for part in parents:
        section = section.model_fields[part].annotation
    return list(section.model_fields)
