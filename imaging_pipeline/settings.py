"""Settings of a run: defaults < conf/default.yaml < --config FILE < --set and named options, frozen once resolved."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from imaging_pipeline import __version__
from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.pacs.settings import ReceiveSettings, SendSettings
from imaging_pipeline.sections import (
    CODE,
    LOCAL,
    ROOT,
    GeometrySettings,
    IdentitySettings,
    IndexSettings,
    IntakeSettings,
    LimitSettings,
    LockSettings,
    LogSettings,
    MetricsSettings,
    ModelSettings,
    OutputSettings,
    QcSettings,
    ReportSettings,
    Section,
    SegmentSettings,
    SelectionSettings,
    SparkSettings,
)
from imaging_pipeline.stores.settings import StorageSettings

__all__ = [
    "CODE",
    "DEFAULT_CONFIG",
    "LOCAL",
    "ROOT",
    "GeometrySettings",
    "IdentitySettings",
    "IndexSettings",
    "IntakeSettings",
    "LimitSettings",
    "LockSettings",
    "LogSettings",
    "MetricsSettings",
    "ModelSettings",
    "OutputSettings",
    "QcSettings",
    "ReportSettings",
    "SegmentSettings",
    "SelectionSettings",
    "Settings",
    "SparkSettings",
    "available_cores",
    "is_submitted",
    "resolve",
]

DEFAULT_CONFIG = ROOT / "conf" / "default.yaml"


class Settings(Section):
    """All settings of a run."""

    model: str = Field("hippocampus_mr", description="name of a bundle under models.trusted_dirs, its path, or none")
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
    report: ReportSettings = ReportSettings()
    qc: QcSettings = QcSettings()
    limits: LimitSettings = LimitSettings()
    lock: LockSettings = LockSettings()
    logs: LogSettings = LogSettings()
    metrics: MetricsSettings = MetricsSettings()
    storage: StorageSettings = Field(default_factory=StorageSettings)
    send: SendSettings = SendSettings()
    receive: ReceiveSettings = ReceiveSettings()
    spark: SparkSettings = SparkSettings()

    def voxel_settings(self) -> dict[str, str]:
        """Dotted names and values, as JSON, of the settings that can change a voxel."""
        relevant = {
            "geometry": set(GeometrySettings.model_fields),
            "segment": {"amp", "tta", "restore", "window_starts", "air"},
            "models": {"backend", "ensemble"},
        }
        sections = self.model_dump(mode="json", include=relevant)
        values = {f"{section}.{name}": sections[section][name] for section in sections for name in sections[section]}
        return {name: json.dumps(value) for name, value in sorted(values.items())}

    def voxel_digest(self) -> str:
        """SHA-256 over the settings (and the package version) that can change a voxel."""
        relevant = {"version": __version__, **self.voxel_settings()}
        return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()

    def digest(self) -> str:
        """SHA-256 over all settings."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def resolve(
    config: Path | None = None,
    assignments: Iterable[str] = (),
    options: Mapping[str, Any] | None = None,
    saved: Mapping[str, Any] | None = None,
) -> Settings:
    """Settings of a run from every source, the later ones winning.

    Args:
        config: File named by `--config`.
        assignments: `--set` texts such as `index.format=parquet`; the value is read as YAML.
        options: Dotted keys and values of named options.
        saved: Settings of an earlier run in place of `conf/default.yaml`.

    Raises:
        PipelineError: `settings-invalid` for a file that cannot be read, an unknown key or a bad value.
    """
    merged: dict[str, Any] = {}
    _merge(merged, saved or {})
    for file in (DEFAULT_CONFIG if DEFAULT_CONFIG.is_file() and saved is None else None, config):
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


def is_submitted() -> bool:
    """Whether spark-submit started this process: the JVM is there, and has a master."""
    return "PYSPARK_GATEWAY_PORT" in os.environ


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
