"""A wheel that runs without the checkout, and a cluster on one machine that loses a worker."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from imaging_pipeline.sections import ROOT as HOME
from tests.conftest import ROOT


def run_script(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(ROOT / "deploy" / name), *map(str, arguments)]
    environment = {**os.environ, "PYTHON": sys.executable}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.slow
def test_a_wheel_holds_the_package_and_conf_and_runs_away_from_the_checkout(tmp_path: Path) -> None:
    done = run_script("check_wheel.sh", "--link", "--folder", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 done" in done.stdout
    assert "3 receipts" in done.stdout
    [wheel] = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    package = {name for name in inside if name.startswith("imaging_pipeline/")}
    suffixes = {".css", ".html", ".js", ".py", ".txt", ".typed"}
    source = {path.relative_to(ROOT).as_posix() for path in (ROOT / "imaging_pipeline").rglob("*") if path.is_file()}
    wanted = {name for name in source if Path(name).suffix in suffixes and "/vendor/" not in name}
    assert package == wanted
    share = "data/share/imaging_pipeline/"
    conf = {name.split(share)[1] for name in inside if share in name}
    assert {"conf/default.yaml", "conf/cluster.yaml", "conf/get-gpus.sh", "conf/submit.py"} <= conf
    assert all((ROOT / name).is_file() for name in conf)
    rest = {name.split("/")[0] for name in inside - package}
    assert {name.split("-")[0] for name in rest} == {"imaging_pipeline"}, "nothing but the package, conf and metadata"
    assert not [name for name in inside if name.endswith((".dcm", ".pt", ".nii.gz"))]


def test_in_a_checkout_the_home_is_the_checkout() -> None:
    assert HOME == ROOT


@pytest.mark.spark
@pytest.mark.slow
def test_a_standalone_cluster_loses_a_worker_and_no_series(tmp_path: Path) -> None:
    done = run_script("rehearse.sh", "--short", "--folder", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout
    assert "index: {'done': 30} of 30 series" in said
    assert "all as written" in said
    logs = {path.name for path in (tmp_path / "logs").iterdir()}
    assert {"master.log", "worker-1.log", "worker-2.log", "worker-3.log", "driver.log", "master.prom", "run"} <= logs
    assert [name for name in logs if name.startswith("executor-")]
    secret = tmp_path / "conf" / "spark-defaults.conf"
    assert secret.stat().st_mode & 0o777 == 0o600
    [word] = [line.split()[1] for line in secret.read_text().splitlines() if "secret" in line]
    others = [path for path in tmp_path.rglob("*") if path.is_file() and path != secret]
    assert [path for path in others if word.encode() in path.read_bytes()] == [], "it stands in no log and no result"


def test_scripts_tell_how_they_are_used() -> None:
    for name in ("rehearse.sh", "check_wheel.sh"):
        done = run_script(name, "--unknown")
        assert (done.returncode, f"deploy/{name} [" in done.stdout) == (2, True)
