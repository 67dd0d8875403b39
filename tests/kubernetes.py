"""The manifests of conf/k8s as an API server and the Spark operator would read them, without either."""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from jsonschema import Draft202012Validator

from tests.conftest import ROOT

K8S = ROOT / "conf" / "k8s"
OVERLAYS = sorted(path.name for path in (K8S / "overlays").iterdir())
OPERATOR = "sparkoperator.k8s.io/v1beta2"
VERSION = "1.34"
Manifest = dict[str, Any]


def has_kustomize() -> bool:
    """kubectl brings kustomize; components need 1.21."""
    if shutil.which("kubectl") is None:
        return False
    told = subprocess.run(["kubectl", "version", "--client", "--output=json"], capture_output=True, check=False)
    return told.returncode == 0 and "kustomizeVersion" in json.loads(told.stdout)


@cache
def _rendered(folder: Path) -> str:
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def render(overlay: str) -> list[Manifest]:
    """The manifests of an overlay."""
    return list(yaml.safe_load_all(_rendered(K8S / "overlays" / overlay)))


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    return [item for item in manifests if item["kind"] == kind]


def application(manifests: list[Manifest]) -> Manifest:
    """What the operator submits, once or each night."""
    once, nightly = of_kind(manifests, "SparkApplication"), of_kind(manifests, "ScheduledSparkApplication")
    [spec] = [item["spec"] for item in once] + [item["spec"]["template"] for item in nightly]
    return spec


def pods(spec: Manifest) -> dict[str, Manifest]:
    """Templates of driver and executor as pods of their own."""
    return {
        role: {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": role}, "spec": spec[role]["template"]["spec"]}
        for role in ("driver", "executor")
    }


def refusals(manifest: Manifest) -> list[str]:
    """Why a manifest would not be taken; empty where it would."""
    if manifest["apiVersion"] != OPERATOR:
        return _core_refusals(manifest)
    schema = json.loads((ROOT / "tests" / "schemas" / "sparkoperator-v1beta2.json").read_text())
    found = [error.message for error in Draft202012Validator(schema).iter_errors(manifest)]
    return found or [why for pod in pods(application([manifest])).values() for why in _core_refusals(pod)]


def _core_refusals(manifest: Manifest) -> list[str]:
    try:
        kubernetes_validate.validate(manifest, VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [error.message]
    return []
