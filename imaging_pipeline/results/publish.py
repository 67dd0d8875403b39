"""Files that are either whole or not there: temporary name, fsync, rename, fsync of the folder."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from imaging_pipeline.errors import Code, PipelineError

TEMPORARY_PREFIX = ".tmp-"


def publish(path: Path, content: bytes | Iterable[bytes]) -> str:
    """Write a file atomically; its SHA-256.

    Args:
        path: Where.
        content: What, whole or in parts.

    Raises:
        PipelineError: `write-failed` where the file system refuses.
    """
    temporary, digest, n_bytes = temporary_of(path), hashlib.sha256(), 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            for part in [content] if isinstance(content, bytes) else content:
                stream.write(part)
                digest.update(part)
                n_bytes += len(part)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise cannot_write(path, n_bytes, error) from None
    return digest.hexdigest()


def publish_written(temporary: Path, path: Path) -> str:
    """Give a file that has been written under its `temporary_of` name its own; its SHA-256.

    Raises:
        PipelineError: `write-failed` where the file system refuses.
    """
    try:
        with temporary.open("r+b") as stream:
            os.fsync(stream.fileno())
        digest = digest_of(temporary)
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, 0, error) from None
    return digest or ""


def temporary_of(path: Path) -> Path:
    """Name of a file while it is being written."""
    return path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{path.name}")


def cannot_write(path: Path, n_bytes: int, error: OSError) -> PipelineError:
    """A file system that refuses, in one sentence."""
    return PipelineError(
        Code.WRITE_FAILED,
        f"cannot write {path.name} ({n_bytes} bytes): {error.strerror}",
        "free space or mend the permissions of --out, then run again: what is done stays done",
    )


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
