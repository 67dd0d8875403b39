"""Classes of Spark, loaded and checked once a machine: JVMs on it start with an archive of them.

This is the JDK's class data sharing (JEP 350, dynamic archives). The first session writes the archive when its JVM
ends, which costs it some ten seconds; later ones start in about two thirds of the time. A JVM that finds an archive of
other classes goes without.
"""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

import pyspark

QUIET = "-Xlog:disable -Xlog:all=warning:stderr"
"""What JVMs say of classes that cannot be shared goes to Spark's log, not to the screen."""

_ROOM_BYTES = 1 << 30
"""Free space that a cache needs before some 160 MB are written to it."""


def class_archive(java: str, cache: Path) -> tuple[str, str]:
    """Options for the driver's JVM and for those of executors on this machine.

    Args:
        java: Path of the Java runtime.
        cache: Folder of this user's cache; what cannot be written to is left alone.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        archive = cache / f"spark-{_tag(java)}.jsa"
        is_written = not archive.exists() and _adopt(archive)
        if archive.exists():
            use = f"-XX:SharedArchiveFile={archive} -Xshare:auto {QUIET}"
            return use, use
        room = os.statvfs(cache)
        has_room = os.access(cache, os.W_OK) and room.f_bavail * room.f_frsize >= _ROOM_BYTES
        if is_written or not has_room or " " in str(cache):
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
