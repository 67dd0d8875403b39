"""The Spark session: what it is told on one machine and on clusters, under spark-submit, and beside another one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyspark
import pytest
import yaml

from imaging_pipeline.java import check_java
from imaging_pipeline.round import Exit
from imaging_pipeline.settings import Settings, resolve
from imaging_pipeline.spark import session
from imaging_pipeline.spark.archive import class_archive
from imaging_pipeline.spark.executors import executor_room
from tests.conftest import ROOT, Finished

Pipeline = Callable[..., Finished]
PROFILES = sorted(path for path in (*(ROOT / "conf").glob("*.yaml"), ROOT / "conf" / "k8s" / "k8s.yaml"))


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.stem)
def test_every_profile_gives_what_long_tasks_need(profile: Path) -> None:
    settings = resolve(profile)
    properties = {**session._properties(settings, {}, None), **settings.spark.conf}
    assert properties["spark.speculation"] == "false"
    assert properties["spark.sql.adaptive.enabled"] == "false"
    assert properties["spark.locality.wait"] == "0"
    assert properties["spark.python.worker.faulthandler.enabled"] == "true"
    assert properties["spark.sql.execution.pyspark.udf.tracebackWithLocals.enabled"] == "false"
    assert int(properties["spark.task.maxFailures"]) > 1
    assert properties.get("spark.python.worker.killOnIdleTimeout", "false") == "false"
    assert "spark.executor.pyspark.memory" not in properties, "CUDA maps more than it uses"
    if profile.stem != "default":
        cores = int(properties["spark.executor.cores"])
        assert executor_room(settings, cores, properties).n_tasks > 1
        assert int(properties["spark.network.timeout"].removesuffix("s")) > 120


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.stem)
def test_every_value_of_a_profile_stands_beside_its_reason(profile: Path) -> None:
    known = (ROOT / "conf" / "cluster.yaml").read_text()
    for line in profile.read_text().splitlines():
        if profile.stem != "default" and "spark." in line and ": " in line and not line.lstrip().startswith("#"):
            key = line.split(":")[0].strip()
            told = "#" in line or f"{key}: " in known or key.endswith(("namespace", "podTemplateFile", "instances"))
            assert told, line


def test_the_pod_template_names_the_container_that_spark_fills_in() -> None:
    pod = yaml.safe_load((ROOT / "conf" / "k8s" / "executor-pod.yaml").read_text())
    assert pod["kind"] == "Pod"
    [container] = pod["spec"]["containers"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["spec"]["volumes"]
    }


def test_what_spark_submit_was_given_stands_and_local_masters_still_retry() -> None:
    given = {"spark.master": "local[2]", "spark.app.name": "nightly", "spark.ui.enabled": "true"}
    properties = session._properties(resolve(), given, None)
    assert properties["spark.master"] == "local[2,3]"
    assert "spark.ui.enabled" not in properties
    assert "spark.app.name" not in properties
    named = resolve(options={"spark.master": "local[1]"})
    assert session._properties(named, given, None)["spark.master"] == "local[1,3]"
    assert session._properties(Settings(), {}, None)["spark.master"] == "local[*,3]"


@pytest.mark.parametrize(
    ("arguments", "env", "says"),
    [
        ((), {"SPARK_REMOTE": "sc://host:15002"}, "sc://host:15002"),
        (("--master", "sc://other"), {}, "sc://other"),
        (("--set", "spark.conf={spark.remote: sc://third}"), {}, "sc://third"),
        ((), {"SPARK_API_MODE": "connect"}, "spark.api.mode=connect"),
    ],
)
def test_spark_connect_is_refused_in_one_line(
    arguments: tuple[str, ...], env: dict[str, str], says: str, pipeline: Pipeline, sample: Path, tmp_path: Path
) -> None:
    done = pipeline(sample, "--out", tmp_path / "out", *arguments, env=env)
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    assert says in done.err
    assert "unset SPARK_REMOTE" in done.err


BESIDE = """
import sys
from pyspark.sql import SparkSession
from imaging_pipeline.run import main
mine = SparkSession.builder.master("local[1]").config("spark.ui.enabled", False).getOrCreate()
before = mine.conf.get("spark.sql.adaptive.enabled")
code = main(sys.argv[1:])
assert mine.conf.get("spark.sql.adaptive.enabled") == before
assert mine.range(3).count() == 3
print("STILL OPEN", code)
"""


@pytest.mark.spark
@pytest.mark.slow
def test_a_session_that_is_open_is_used_and_left_open(sample: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", BESIDE, str(sample), "--out", str(tmp_path / "out"), "--model", "none"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYSPARK_PYTHON": sys.executable}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert "STILL OPEN 0" in done.stdout, done.stdout + done.stderr
    assert "2 done" in done.stdout


@pytest.fixture(scope="module")
def zipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as --py-files takes it, and the launcher, away from the checkout."""
    folder = tmp_path_factory.mktemp("zipped")
    with zipfile.ZipFile(folder / "imaging_pipeline.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in (ROOT / "imaging_pipeline").rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                archive.write(file, file.relative_to(ROOT))
    shutil.copy(ROOT / "conf" / "submit.py", folder)
    return folder


@pytest.fixture
def submit(zipped: Path) -> Callable[..., Finished]:
    """Runs spark-submit of the installed pyspark on the zip, without the checkout in sight."""

    def call(*arguments: object, options: tuple[str, ...] = (), env: dict[str, str] | None = None) -> Finished:
        command = [str(Path(pyspark.__file__).parent / "bin" / "spark-submit"), *options]
        command += ["--py-files", str(zipped / "imaging_pipeline.zip"), str(zipped / "submit.py")]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment |= {
            "PYSPARK_PYTHON": sys.executable,
            "SPARK_WORKER_DIR": str(zipped / "work"),
            "SPARK_SUBMIT_OPTS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",  # as our own sessions start
            **(env or {}),
        }
        done = subprocess.run(
            [*command, *map(str, arguments)], capture_output=True, text=True, env=environment, cwd=zipped, check=False
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    return call


@pytest.mark.spark
@pytest.mark.slow
def test_spark_submit_runs_the_package_from_a_zip_on_its_own_master(
    submit: Callable[..., Finished], sample: Path, tmp_path: Path
) -> None:
    options = ("--master", "local-cluster[1,1,1024]")
    home = {"IMAGING_PIPELINE_HOME": str(ROOT)}
    done = submit(sample, "--out", tmp_path / "out", options=options, env=home)
    assert done.code == 0, done.out + done.err
    assert "2 done" in done.out
    assert "ERROR" not in done.err
    assert len(list((tmp_path / "out").rglob("*_dseg.nii.gz"))) == 2


@pytest.mark.spark
@pytest.mark.slow
def test_a_zip_without_models_says_how_to_name_their_folder(
    submit: Callable[..., Finished], sample: Path, tmp_path: Path
) -> None:
    done = submit(sample, "--out", tmp_path / "out")
    assert done.code == 2, done.out + done.err
    [line] = [line for line in done.out.splitlines() if "model-not-found" in line]  # spark-submit joins the streams
    assert "set IMAGING_PIPELINE_HOME to a folder with conf/ and models/" in line
    done = submit(sample, "--out", tmp_path / "out", "--model", "none", options=("--master", "local[2]"))
    assert done.code == 0, done.out + done.err
    assert "2 done" in done.out


def java_that(tmp_path: Path, code: int) -> str:
    """A stand-in for a Java runtime that takes every archive, or none."""
    java = tmp_path / "java"
    java.write_text(f"#!/bin/sh\nexit {code}\n")
    java.chmod(0o755)
    os.utime(java, (1, 1))
    return str(java)


def test_the_first_jvm_leaves_an_archive_of_classes_and_the_next_ones_start_with_it(tmp_path: Path) -> None:
    java, cache = java_that(tmp_path, 0), tmp_path / "cache"
    driver, executor = class_archive(java, cache, "always")
    writes = re.match(r"-XX:ArchiveClassesAtExit=(\S+\.part) ", driver)
    assert writes
    assert executor == "", "only the driver's JVM ends on its own"
    part = Path(writes[1])
    assert part.parent == cache / "spark"
    part.write_bytes(b"half")
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", writes[0].strip()]) as writer:
        while str(part) not in Path(f"/proc/{writer.pid}/cmdline").read_text():  # it begins as a copy of this process
            time.sleep(0.01)
        options = class_archive(java, cache, "always")
        writer.kill()
    assert options == ("", ""), "one JVM at a time writes it"
    for options in class_archive(java, cache, "always"):
        assert options.startswith(f"-XX:SharedArchiveFile={cache}/spark/{pyspark.__version__}-")
    assert not part.exists()
    assert class_archive(java, cache, "off") == ("", "")
    os.utime(java, (2, 2))
    assert "ArchiveClassesAtExit" in class_archive(java, cache, "always")[0], "another Java runtime has its own"


def test_an_archive_that_no_jvm_takes_is_written_anew(tmp_path: Path) -> None:
    java, cache = java_that(tmp_path, 0), tmp_path / "cache"
    part = class_archive(java, cache, "always")[0].split()[0].partition("=")[2]
    Path(part).write_bytes(b"all of it")
    assert "SharedArchiveFile" in class_archive(java, cache, "always")[0]
    assert "ArchiveClassesAtExit" in class_archive(java_that(tmp_path, 1), cache, "always")[0]
    assert not list(cache.glob("spark/*.jsa"))


def test_an_archive_that_another_user_may_have_put_there_is_not_used(tmp_path: Path) -> None:
    java, cache = java_that(tmp_path, 0), tmp_path / "cache"
    part = class_archive(java, cache, "always")[0].split()[0].partition("=")[2]
    Path(part).write_bytes(b"all of it")
    (cache / "spark").chmod(0o777)
    assert "SharedArchiveFile" not in class_archive(java, cache, "always")[0]
    assert not list(cache.glob("spark/*.jsa"))


def test_by_itself_a_session_tries_twice_and_not_in_a_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    java = java_that(tmp_path, 0)
    assert class_archive(java, tmp_path / "cache") == ("", "")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "elsewhere"))
    tries = [class_archive(java, tmp_path / "cache")[0] for _ in range(3)]
    assert [bool(options) for options in tries] == [True, True, False]


@pytest.mark.spark
@pytest.mark.slow
def test_half_an_archive_keeps_no_session_from_starting(tmp_path: Path, pipeline: Callable[..., Finished]) -> None:
    """A JVM crashes on it."""
    java, cache, studies = check_java(), tmp_path / "cache", tmp_path / "studies"
    studies.mkdir()
    (studies / "notes.txt").write_text("not DICOM\n")
    writes = class_archive(java, cache, "always")[0].split()[0]
    home = Path(pyspark.__file__).parent
    (first,) = (home / "jars").glob("slf4j-api-*.jar")
    classes = f"{home}/conf:{first}:{home}/jars/*"
    launcher = "org.apache.spark.launcher.Main"  # of its help come a few of Spark's classes
    subprocess.run([java, "-cp", classes, "-XX:+UseSerialGC", writes, launcher], capture_output=True, check=False)
    assert "SharedArchiveFile" in class_archive(java, cache, "always")[0], "a whole one is taken"
    (archive,) = cache.glob("spark/*.jsa")
    archive.chmod(0o600)
    os.truncate(archive, archive.stat().st_size // 2)
    options = ("--model", "none", "--master", "local[1]", "--set", f"models.cache_dir={cache}")
    done = pipeline(studies, "--out", tmp_path / "out", *options, "--set", "spark.class_archive=auto")
    assert done.code == Exit.NOTHING_USABLE, done.out + done.err
    assert "files: 0 DICOM, 1 not-dicom" in done.out
    assert not list(cache.glob("spark/*.jsa")), "half of one is thrown away"


def test_a_cache_that_cannot_be_written_to_is_left_alone(tmp_path: Path) -> None:
    java = java_that(tmp_path, 0)
    (tmp_path / "file").touch()
    assert class_archive(java, tmp_path / "file" / "cache", "always") == ("", "")
    assert class_archive(java, tmp_path / "with space", "always") == ("", ""), "options are cut at spaces"
