"""Which backend was the fastest for a model on this machine, kept between runs."""

import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("torch", "openvino", "onnxruntime")
_MOST = 500
"""Choices that the file holds; the oldest go first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """A JSON file of key → name of a backend; one that cannot be read or written counts as empty.

    Attributes:
        path: The file; its folder is made when the first choice is kept.
    """

    path: Path

    def find(self, key: str) -> str | None:
        """The backend that was chosen; None where there was no trial."""
        name = self._read().get(key)
        return name if isinstance(name, str) else None

    def keep(self, key: str, backend: str) -> None:
        """Write a choice down; other processes see the old file or the new one, never half of it."""
        content = {**{other: name for other, name in self._read().items() if other != key}, key: backend}
        recent = dict(list(content.items())[-_MOST:])
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, draft = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    json.dump(recent, file, indent=1)
                Path(draft).replace(self.path)
            except OSError:
                Path(draft).unlink(missing_ok=True)

    def _read(self) -> dict[str, Any]:
        with suppress(OSError, ValueError, RecursionError):
            content = json.loads(self.path.read_text(encoding="utf-8"))
            return content if isinstance(content, dict) else {}
        return {}


def choice_key(
    model_digest: str, weights: Sequence[str], size: Sequence[int], window_batch: int, dtype: torch.dtype
) -> str:
    """What a choice depends on: weights, window, precision, processor, threads and versions.

    Args:
        model_digest: Of the model's files.
        weights: Names of the weight files that are opened.
        size: (C, I, J, K) of a window.
        window_batch: Windows a batch for torch.
        dtype: What the network mostly computes in.
    """
    parts = {
        "model": model_digest,
        "weights": list(weights),
        "size": list(size),
        "window_batch": window_batch,
        "dtype": str(dtype),
        "threads": torch.get_num_threads(),
        "processor": _processor(),
        "versions": {name: _version(name) for name in _PACKAGES},
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _processor() -> list[str]:
    """Name and features of the processor."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        first = {name.strip(): text.strip() for name, _, text in (line.partition(":") for line in reversed(lines))}
        return [first.get(name, "") for name in ("model name", "CPU part", "flags", "Features")]
    return [platform.machine(), platform.processor()]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
