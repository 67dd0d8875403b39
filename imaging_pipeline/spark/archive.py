"""Classes of Spark, loaded and checked once a machine: JVMs on it start with an archive of them.

This is the JDK's class data sharing (JEP 350, dynamic archives). A session writes the archive when its JVM ends, which
costs it some five seconds; later ones start in about two thirds of the time. A JVM that finds an archive of other
classes goes without; one that finds half an archive crashes, so that it is looked at first.
"""

import hashlib
import os
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Literal

import pyspark

Keep = Literal["auto", "always", "off"]

QUIET = "-Xlog:disable -Xlog:all=warning:stderr"
"""What JVMs say of classes that cannot be shared goes to Spark's log, not to the screen."""

_ROOM_BYTES = 1 << 30
"""Free space that a cache needs before some 160 MB are written to it."""

_MOST_TRIES = 2
"""Where JVMs are killed before they end, no archive comes of them."""

_PATIENCE_SECONDS = 30.0


def class_archive(java: str, cache: Path, keep: Keep = "auto") -> tuple[str, str]:
    """Options for the driver's JVM and for those of executors on this machine.

    Args:
        java: Path of the Java runtime; empty: the JVM runs already.
        cache: Folder of this user's cache; what cannot be written to is left alone.
        keep: `auto` writes none into a cache that does not outlive this machine's temporary files, nor after two JVMs
            that left none.
    """
    if keep == "off" or not java or " " in str(cache):  # options are cut at spaces
        return "", ""
    try:
        folder = cache / "spark"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        archive = folder / f"{_tag(java)}.jsa"
        is_written = not archive.exists() and _adopt(archive)
        if archive.exists():
            if _is_of_us(archive) and _is_sound(java, archive):
                use = f"-XX:SharedArchiveFile={archive} -Xshare:auto {QUIET}"
                return use, use
            archive.unlink()
        if is_written or not _has_room(folder) or (keep == "auto" and not _is_worth_a_try(archive)):
            return "", ""
        return f"-XX:ArchiveClassesAtExit={_part(archive)} {QUIET}", ""
    except OSError:
        return "", ""


def _tag(java: str) -> str:
    """Tells Java runtimes and copies of Spark apart; an archive fits one pair of them alone."""
    jars = Path(pyspark.__file__).parent / "jars"
    runtime = Path(java).resolve()
    parts = (runtime, runtime.stat().st_mtime_ns, jars, jars.stat().st_mtime_ns, os.environ.get("SPARK_HOME", ""))
    return f"{pyspark.__version__}-{hashlib.sha256(' '.join(map(str, parts)).encode()).hexdigest()[:12]}"


def _is_of_us(archive: Path) -> bool:
    """Classes are code: only this user, or root, may have put them there, into a folder that no other may write to."""
    found, folder = archive.stat(), archive.parent.stat()
    return {found.st_uid, folder.st_uid} <= {os.getuid(), 0} and not folder.st_mode & 0o022


def _is_sound(java: str, archive: Path) -> bool:
    """Whether a JVM with Spark's class path takes the archive, all of its checksums included; a quarter of a second."""
    home = Path(os.environ.get("SPARK_HOME") or Path(pyspark.__file__).parent)
    conf = os.environ.get("SPARK_CONF_DIR") or home / "conf"
    first = next((home / "jars").glob("slf4j-api-*.jar"), home / "jars")  # Spark's launcher puts it before the others
    command = [java, "-cp", f"{conf}:{first}:{home / 'jars'}/*", f"-XX:SharedArchiveFile={archive}", "-Xshare:on"]
    command += ["-XX:+UseSerialGC", "-XX:+UnlockDiagnosticVMOptions", "-XX:+VerifySharedSpaces"]
    command += ["-XX:-CreateCoredumpOnCrash", f"-XX:ErrorFile={os.devnull}", "-version"]
    try:
        tried = subprocess.run(command, capture_output=True, timeout=_PATIENCE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return False
    return tried.returncode == 0


def _has_room(folder: Path) -> bool:
    room = os.statvfs(folder)
    return os.access(folder, os.W_OK) and room.f_bavail * room.f_frsize >= _ROOM_BYTES


def _is_worth_a_try(archive: Path) -> bool:
    """Whether the next run is likely to find what this one writes; counts the tries."""
    if archive.resolve().is_relative_to(Path(tempfile.gettempdir()).resolve()):
        return False
    tries = archive.with_suffix(".tries")
    n_tried = tries.stat().st_size if tries.exists() else 0
    if n_tried < _MOST_TRIES:
        tries.write_bytes(b"." * (n_tried + 1))
    return n_tried < _MOST_TRIES


def _part(archive: Path) -> Path:
    return archive.with_name(f"{archive.stem}.{os.getpid()}.part")


def _adopt(archive: Path) -> bool:
    """Take over an archive that a JVM has finished: it is written while that ends, behind the command that began it.

    Returns:
        Whether a JVM is there that will write one, or does.
    """
    parts = list(archive.parent.glob(f"{archive.stem}.*.part"))
    commands = _commands()
    for part in parts:
        if str(part) not in commands:
            with suppress(OSError):
                part.replace(archive)
    return f"-XX:ArchiveClassesAtExit={archive.with_name(archive.stem)}." in commands


def _commands() -> str:
    """Command lines of all processes that can be seen."""
    lines = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            lines.append(file.read_bytes().decode(errors="replace"))
    return "\n".join(lines)
