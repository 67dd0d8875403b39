"""The images: what their recipes say, and what their entrypoint does without a container engine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyspark
import pytest
from dockerfile_parse import DockerfileParser

from imaging_pipeline import __version__
from tests.conftest import ROOT, Finished

RECIPES = ["Dockerfile", "Dockerfile.gpu"]
ENTRYPOINT = ROOT / "deploy" / "entrypoint.sh"
each_recipe = pytest.mark.parametrize("recipe", RECIPES)


def parsed(recipe: str) -> DockerfileParser:
    return DockerfileParser(fileobj=(ROOT / recipe).open("rb"))


def image_environment(recipe: str) -> dict[str, str]:
    """What ENV of the last stage says."""
    return {key: value for key, value in parsed(recipe).envs.items() if key != "PATH"}


@each_recipe
def test_hadolint_has_nothing_to_say(recipe: str) -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run(
        [hadolint, "--failure-threshold", "style", recipe], capture_output=True, cwd=ROOT, check=False
    )
    assert (done.returncode, done.stdout.decode()) == (0, "")


@each_recipe
def test_an_image_is_nobody_in_particular_and_writes_below_tmp_alone(recipe: str) -> None:
    steps = {step["instruction"]: step["value"] for step in parsed(recipe).structure}
    assert steps["USER"] == "185:185"
    assert json.loads(steps["ENTRYPOINT"]) == ["/usr/bin/tini", "--", "/opt/entrypoint.sh"], "exec form: signals arrive"
    assert json.loads(steps["CMD"]) == ["run", "--help"]
    environment = image_environment(recipe)
    written = {"HOME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR", "MPLCONFIGDIR"}
    assert {name for name, value in environment.items() if value.startswith("/tmp")} == written
    assert steps["WORKDIR"] == "/tmp", "Spark leaves folders where it is started"
    labels = parsed(recipe).labels
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0 AND CC-BY-SA-4.0"


def test_both_images_differ_in_their_base_alone() -> None:
    ours = [image_environment(recipe) for recipe in RECIPES]
    assert {key: value for key, value in ours[1].items() if not key.startswith("NVIDIA_")} == ours[0]
    last = [(ROOT / recipe).read_text().split("COPY --from=build /opt/venv")[1].splitlines() for recipe in RECIPES]
    assert [line for line in last[1] if "NVIDIA_" not in line] == last[0]


@each_recipe
def test_what_a_recipe_copies_is_there_and_sent_to_the_engine(recipe: str) -> None:
    admitted = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = set()
    for step in parsed(recipe).structure:
        if step["instruction"] == "COPY" and "--from" not in step["value"]:
            copied |= {word for word in step["value"].split()[:-1] if not word.startswith("--")}
    assert copied == admitted, "no more and no less than the image needs"
    assert all((ROOT / name).exists() for name in copied)


@pytest.fixture
def spark_home(tmp_path: Path) -> Path:
    """Spark's folder as the image lays it out."""
    home, installed = tmp_path / "spark", Path(pyspark.__file__).parent
    (home / "conf").mkdir(parents=True)
    for name in ("bin", "sbin", "jars", "python"):
        (home / name).symlink_to(installed / name)
    return home


@pytest.fixture
def container(spark_home: Path, tmp_path: Path) -> Callable[..., Finished]:
    """Runs the entrypoint with the image's environment; `within` is what it is started by."""

    def call(*arguments: object, within: tuple[str, ...] = (), env: dict[str, str] | None = None) -> Finished:
        command = [*within, str(ENTRYPOINT), *map(str, arguments)]
        environment = in_image(spark_home, tmp_path) | (env or {})
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
        return Finished(done.returncode, done.stdout, done.stderr)

    return call


def in_image(spark_home: Path, scratch: Path) -> dict[str, str]:
    """The image's environment with its folders as they are here."""
    java = Path(shutil.which("java") or "/usr/bin/java").resolve()
    here = {"/tmp": str(scratch), "/opt/venv/bin": str(Path(sys.executable).parent), "/opt/imaging_pipeline": str(ROOT)}
    here |= {"/opt/spark": str(spark_home), "/opt/java": str(java.parents[1])}
    made = image_environment("Dockerfile")
    for there, place in here.items():
        made = {
            key: place + value.removeprefix(there) if value.startswith(there) else value for key, value in made.items()
        }
    return made | {"PATH": f"{here['/opt/venv/bin']}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


def test_commands_of_the_package_are_run_and_anything_else_as_it_is(container: Callable[..., Finished]) -> None:
    said = container("verify", "--help")
    assert (said.code, said.out.split()[:4]) == (0, ["usage:", "python", "-m", "imaging_pipeline.verify"])
    assert container("bash", "-c", "echo $HOME; test -d $HOME -a -d $NUMBA_CACHE_DIR").code == 0
    assert container("records").code == 127, "a module of the package that is no command"


def test_an_executor_pod_starts_sparks_executor_as_sparks_own_image_does(
    container: Callable[..., Finished], tmp_path: Path
) -> None:
    java = tmp_path / "java" / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    java.chmod(0o755)
    told = {
        "JAVA_HOME": str(java.parents[1]),
        "SPARK_JAVA_OPT_0": "-Dspark.driver.port=7078",
        "SPARK_JAVA_OPT_1": "-Dname=two words",
        "SPARK_EXECUTOR_MEMORY": "2g",
        "SPARK_DRIVER_URL": "spark://CoarseGrainedScheduler@driver:7078",
        "SPARK_EXECUTOR_ID": "3",
        "SPARK_EXECUTOR_CORES": "4",
        "SPARK_APPLICATION_ID": "spark-1",
        "SPARK_EXECUTOR_POD_IP": "10.0.0.3",
        "SPARK_RESOURCE_PROFILE_ID": "0",
        "SPARK_EXECUTOR_POD_NAME": "exec-3",
        "SPARK_CONF_DIR": "/opt/spark/conf",
    }
    done = container("executor", env=told)
    lines = done.out.splitlines()
    assert lines[:5] == ["-Dspark.driver.port=7078", "-Dname=two words", "-Xms2g", "-Xmx2g", "-cp"], done.err
    assert lines[5].startswith("/opt/spark/conf:")
    assert f"{tmp_path}/spark/jars/*" in lines[5].split(":")
    assert lines[6] == "org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend"
    options = dict(zip(lines[7::2], lines[8::2], strict=True))
    assert options == {
        "--driver-url": told["SPARK_DRIVER_URL"],
        "--executor-id": "3",
        "--cores": "4",
        "--app-id": "spark-1",
        "--hostname": "10.0.0.3",
        "--resourceProfileId": "0",
        "--podName": "exec-3",
    }


READ_ONLY = """
mount -t tmpfs -o mode=1777 tmpfs /mnt
mkdir -m 1777 /mnt/tmp
mount -o remount,bind,ro /
if touch "$1/.written" 2>/dev/null; then echo "$1 can be written to"; exit 99; fi
shift
exec "$@"
"""


def can_make_namespaces() -> bool:
    return os.geteuid() == 0 and subprocess.run(["unshare", "--mount", "true"], check=False).returncode == 0


@pytest.mark.skipif(not can_make_namespaces(), reason="needs root, and mount namespaces")
def test_a_run_needs_no_place_to_write_but_tmp_and_results_and_no_name_for_its_user(
    spark_home: Path, sample: Path, tmp_path: Path
) -> None:
    """The root file system is read-only, and the uid is in no passwd."""
    reads = "--inh-caps=-all,+dac_read_search --ambient-caps=-all,+dac_read_search"  # a checkout may be in root's home
    nobody = f"setpriv --reuid 4321 --regid 4321 --clear-groups {reads}".split()
    environment = in_image(spark_home, Path("/mnt/tmp")) | {"TMPDIR": "/mnt/tmp"}
    inside = f"cd /mnt/tmp && {ENTRYPOINT} run {sample} --out /mnt/tmp/out --no-spark --model none"
    command = ["unshare", "--mount", "--propagation", "private", "bash", "-euc", READ_ONLY, "-", str(ROOT), *nobody]
    done = subprocess.run(
        [*command, "bash", "-c", inside], capture_output=True, text=True, env=environment, cwd="/", check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 done" in done.stdout


STAND_IN = """#!/usr/bin/env bash
# as spark-submit: becomes the JVM, whose child is Python
exec bash -c 'trap "echo JVM; exit 143" TERM; "$PYSPARK_PYTHON" -c "$PROGRAM"; exit $?'
"""
PROGRAM = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
print("at work", flush=True)
time.sleep(60)
"""


def test_sigterm_to_a_driver_pod_goes_to_python_and_its_code_comes_back(spark_home: Path, tmp_path: Path) -> None:
    (spark_home / "bin").unlink()
    (spark_home / "bin").mkdir()
    submit = spark_home / "bin" / "spark-submit"
    submit.write_text(STAND_IN)
    submit.chmod(0o755)
    environment = in_image(spark_home, tmp_path) | {"SPARK_DRIVER_BIND_ADDRESS": "10.0.0.2", "PROGRAM": PROGRAM}
    with subprocess.Popen([ENTRYPOINT, "driver"], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 5
        assert process.stdout.read() == "", "the JVM was let be"
