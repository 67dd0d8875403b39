"""Looks for the Java runtime that Spark needs, before Spark does."""

import os
import re
import shutil
import subprocess

from imaging_pipeline.errors import Code, PipelineError

OLDEST_JAVA = 17

_HINT = f"install a Java {OLDEST_JAVA}+ runtime (Debian: apt-get install openjdk-17-jre-headless), or use --no-spark"


def check_java() -> str:
    """Path of a Java runtime that is new enough: JAVA_HOME first, then PATH, as Spark looks for it.

    Raises:
        PipelineError: `java-missing`.
    """
    home = os.environ.get("JAVA_HOME")
    java = os.path.join(home, "bin", "java") if home else shutil.which("java")
    where = f"JAVA_HOME={home}" if home else "PATH"
    if java is None or not os.access(java, os.X_OK):
        raise PipelineError(Code.JAVA_MISSING, f"no Java runtime in {where}; Spark needs one", _HINT)
    answer = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    found = re.search(r'version "(\d+)', answer.stderr + answer.stdout)
    if answer.returncode or found is None or int(found.group(1)) < OLDEST_JAVA:
        version = found.group(1) if found else f"exit code {answer.returncode}"
        raise PipelineError(Code.JAVA_MISSING, f"{java} is Java {version}; Spark needs {OLDEST_JAVA} or newer", _HINT)
    return java
