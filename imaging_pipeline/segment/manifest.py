"""The files of a bundle that decide about its masks, their digests, and the manifest that vouches for them."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from imaging_pipeline.errors import Code, PipelineError

MANIFEST = Path("MANIFEST.sha256")

_HASH_CHUNK_BYTES = 1 << 20
_FOLDERS = ("configs", "models", "scripts")
_FILES = ("labels.tsv", "selection.yaml", "plans.json", "dataset.json")
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def check_manifest(path: Path) -> dict[str, str] | None:
    """Compare a bundle with its `MANIFEST.sha256` before anything in it is parsed.

    The manifest has the lines of coreutils' `sha256sum`; it must name every file of the bundle that can change a mask.

    Args:
        path: The bundle's folder.

    Returns:
        File, relative to the bundle, to SHA-256; None for a bundle without a manifest.

    Raises:
        PipelineError: `model-digest-mismatch` for a file that is another, gone, or not listed; `model-invalid` for a
            manifest that cannot be read.
    """
    if not (path / MANIFEST).is_file():
        return None
    listed = dict(_read(path))
    for name, expected in listed.items():
        found = digest_of(path / name) if (path / name).is_file() else "no such file"
        if found != expected:
            raise _mismatch(path, f"{name} has SHA-256 {found[:16]}, the manifest says {expected[:16]}")
    unlisted = sorted({file.relative_to(path).as_posix() for file in deciding_files(path)} - set(listed))
    if unlisted:
        raise _mismatch(path, f"{len(unlisted)} files are not in the manifest: {', '.join(unlisted[:3])}")
    return listed


def write_manifest(path: Path) -> int:
    """Write the manifest of a bundle as it stands; the number of files that it names."""
    files = sorted(deciding_files(path))
    lines = [f"{digest_of(file)}  {file.relative_to(path).as_posix()}\n" for file in files]
    (path / MANIFEST).write_text("".join(lines), encoding="utf-8")
    return len(lines)


def deciding_files(path: Path) -> Iterator[Path]:
    """Files of a bundle that can change a mask or which series it takes; the card and the licence cannot."""
    for folder in (path / name for name in _FOLDERS):
        yield from (file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    yield from path.glob("fold_*/checkpoint_*.pth")
    yield from (path / name for name in _FILES if (path / name).is_file())


def digest_of(file: Path) -> str:
    """SHA-256 of a file's content."""
    content = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_HASH_CHUNK_BYTES):
            content.update(chunk)
    return content.hexdigest()


def joint_digest(digests: Mapping[str, str]) -> str:
    """One SHA-256 over names and digests of files."""
    total = hashlib.sha256()
    for name in sorted(digests):
        total.update(f"{name} {digests[name]}\n".encode())
    return total.hexdigest()


def _read(path: Path) -> Iterator[tuple[str, str]]:
    try:
        lines = (path / MANIFEST).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise _invalid(path, str(error)) from None
    for number, line in enumerate(lines, start=1):
        found = _LINE.fullmatch(line)
        if found is None:
            raise _invalid(path, f"line {number} is not `SHA-256, two blanks, file`")
        name = PurePosixPath(found[2])
        if name.is_absolute() or ".." in name.parts:
            raise _invalid(path, f"line {number} names a file outside of the bundle")
        yield name.as_posix(), found[1]


def _mismatch(path: Path, message: str) -> PipelineError:
    return PipelineError(
        Code.MODEL_DIGEST_MISMATCH,
        f"{path}: {message}",
        "fetch the bundle anew; if the change is yours: python -m imaging_pipeline.models seal NAME",
    )


def _invalid(path: Path, message: str) -> PipelineError:
    return PipelineError(
        Code.MODEL_INVALID, f"{path / MANIFEST}: {message}", "write it with python -m imaging_pipeline.models seal NAME"
    )
