"""Files that are either whole or not there: temporary name, fsync, rename, fsync of the folder."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from imaging_pipeline.errors import Code, PipelineError

TEMPORARY_PREFIX = ".tmp-"


def publish(path: Path, content: bytes) -> str:
    """Write a file atomically; its SHA-256.

    Raises:
        PipelineError: `write-failed` where the file system refuses.
    """
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise PipelineError(
            Code.WRITE_FAILED,
            f"cannot write {path.name} ({len(content)} bytes): {error.strerror}",
            "free space or mend the permissions of --out, then run again: what is done stays done",
        ) from None
    return hashlib.sha256(content).hexdigest()


def publish_json(path: Path, content: Any) -> str:
    """Write a value as indented JSON atomically; its SHA-256."""
    return publish(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def digest_of(path: Path) -> str | None:
    """SHA-256 of a file; None where it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    except OSError:
        return None
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
