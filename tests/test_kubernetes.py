"""conf/k8s: what kustomize makes of it is what Kubernetes, the Spark operator and this package take."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pyspark
import pytest
import yaml

from imaging_pipeline import run
from imaging_pipeline.arguments import settings_of
from imaging_pipeline.settings import Settings
from imaging_pipeline.spark import session
from imaging_pipeline.spark.executors import executor_room
from tests import kubernetes
from tests.conftest import ROOT
from tests.kubernetes import OVERLAYS, Manifest, application, of_kind, pods, refusals, render

pytestmark = pytest.mark.skipif(not kubernetes.has_kustomize(), reason="no kubectl with kustomize")
each_overlay = pytest.mark.parametrize("overlay", OVERLAYS)
SECRETS = {"s3-credentials", "stow-token"}  # made by whoever runs it, as the guide says


def told(manifests: list[Manifest], folder: Path) -> tuple[Any, Settings]:
    """Arguments and settings of the job, with the ConfigMap where the pod has it."""
    spec = application(manifests)
    arguments = run.command_line().parse_args(spec["arguments"])
    [config] = [item for item in of_kind(manifests, "ConfigMap") if "settings.yaml" in item["data"]]
    (folder / "settings.yaml").write_text(config["data"]["settings.yaml"])
    assert arguments.config == Path("/etc/imaging-pipeline/settings.yaml")
    here = argparse.Namespace(**{**vars(arguments), "config": folder / "settings.yaml"})
    return arguments, settings_of(here, run._options(here))


@each_overlay
def test_kubernetes_and_the_operator_would_take_every_manifest(overlay: str) -> None:
    manifests = render(overlay)
    assert {name: found for item in manifests if (found := refusals(item)) for name in [item["kind"]]} == {}
    kinds = [item["kind"] for item in manifests]
    wanted = "ScheduledSparkApplication" if overlay == "nightly" else "SparkApplication"
    assert [kind for kind in kinds if kind.endswith("SparkApplication")] == [wanted]
    assert {item["metadata"].get("namespace") for item in manifests if item["kind"] != "Namespace"} == {"imaging"}


@pytest.mark.parametrize(
    ("kind", "spoil", "says"),
    [
        ("SparkApplication", lambda it: it["spec"].update(sparkconf={}), "not valid"),
        ("SparkApplication", lambda it: it["spec"]["driver"].update(cores="2"), "not valid"),
        ("SparkApplication", lambda it: it["spec"]["sparkConf"].update({"spark.ui.enabled": False}), "not valid"),
        ("SparkApplication", lambda it: it["spec"]["executor"].update(memory="2 GB"), "not valid"),
        ("SparkApplication", lambda it: it["spec"].pop("mainApplicationFile"), "not valid"),
        (
            "SparkApplication",
            lambda it: it["spec"]["driver"]["template"]["spec"]["containers"][0].update(volumeMount=[]),
            "volumeMount",
        ),
        (
            "SparkApplication",
            lambda it: it["spec"]["executor"]["template"]["spec"].update(terminationGracePeriodSeconds="60s"),
            "60s",
        ),
        ("NetworkPolicy", lambda it: it["spec"].update(podSelectors={}), "podSelectors"),
        ("Role", lambda it: it["rules"][0].update(verbs="get"), "get"),
        ("PersistentVolumeClaim", lambda it: it["spec"].update(accessModes="ReadWriteMany"), "ReadWriteMany"),
    ],
)
def test_a_wrong_key_or_type_is_refused(kind: str, spoil: Callable[[Manifest], object], says: str) -> None:
    manifest = copy.deepcopy(of_kind(render("cpu"), kind)[0])
    assert refusals(manifest) == []
    spoil(manifest)
    [found, *_] = refusals(manifest)
    assert says in found


@each_overlay
def test_pods_keep_to_the_restricted_profile_that_the_namespace_demands(overlay: str) -> None:
    manifests = render(overlay)
    [namespace] = of_kind(manifests, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for pod in pods(application(manifests)).values():
        context = pod["spec"]["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] == 185
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        [container] = pod["spec"]["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        kinds = {key for volume in pod["spec"]["volumes"] for key in volume if key != "name"}
        assert kinds <= {"configMap", "emptyDir", "persistentVolumeClaim", "secret"}
        assert not pod["spec"].keys() & {"hostNetwork", "hostPID", "hostIPC"}


@each_overlay
def test_what_a_manifest_names_is_there(overlay: str) -> None:
    """ConfigMaps by their hashed names, claims, service accounts, the file that spark-submit runs."""
    manifests = render(overlay)
    there = {(item["kind"], item["metadata"]["name"]) for item in manifests}
    spec = application(manifests)
    for role, pod in pods(spec).items():
        assert ("ServiceAccount", spec[role]["serviceAccount"]) in there
        [container] = pod["spec"]["containers"]
        assert container["name"] == f"spark-kubernetes-{role}"
        assert {mount["name"] for mount in container["volumeMounts"]} == {it["name"] for it in pod["spec"]["volumes"]}
        for volume in pod["spec"]["volumes"]:
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in there
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in there
            assert volume.get("secret", {}).get("secretName", "stow-token") in SECRETS
        for source in container.get("envFrom", []):
            if "configMapRef" in source:
                assert ("ConfigMap", source["configMapRef"]["name"]) in there
            else:
                assert source["secretRef"]["name"] in SECRETS
    main = PurePosixPath(spec["mainApplicationFile"].removeprefix("local://"))
    assert (ROOT / main.relative_to("/opt/imaging_pipeline")).is_file()
    for binding in of_kind(manifests, "RoleBinding"):
        assert ("Role", binding["roleRef"]["name"]) in there
        assert all((subject["kind"], subject["name"]) in there for subject in binding["subjects"])


@each_overlay
def test_arguments_and_settings_are_those_of_the_command(overlay: str, tmp_path: Path) -> None:
    manifests = render(overlay)
    arguments, settings = told(manifests, tmp_path)
    spec = application(manifests)
    for role, pod in pods(spec).items():
        [container] = pod["spec"]["containers"]
        mounts = {item["mountPath"]: item for item in container["volumeMounts"]}
        assert "/tmp" in mounts
        assert str(arguments.config.parent) in mounts
        assert str(settings.models.cache_dir).startswith("/tmp/")
        for path, is_read_only in ((arguments.studies, True), (arguments.out, False)):
            if not path.startswith("s3://"):
                assert mounts[path].get("readOnly", False) is is_read_only, (role, path)
        token = settings.send.token_file
        if token is not None and role == "driver":
            assert str(token.parent) in mounts
    assert arguments.studies.startswith("s3://") is (overlay == "s3")
    assert bool(settings.send.destination) is (overlay == "nightly")


@each_overlay
def test_sparks_properties_agree_with_the_settings_and_the_package(overlay: str, tmp_path: Path) -> None:
    manifests = render(overlay)
    _, settings = told(manifests, tmp_path)
    spec = application(manifests)
    given = {**spec["sparkConf"], "spark.master": "k8s://https://kubernetes.default.svc"}
    made = session._properties(settings, given, None)
    gpus = "spark.executor.resource.gpu."
    asked = {key: value for key, value in given.items() if key.startswith(gpus)}
    alone = session._properties(settings, {"spark.master": given["spark.master"]}, None)
    script = f"{gpus}discoveryScript"
    assert {key for key in alone if key.startswith(gpus)} == asked.keys()
    assert {key: alone[key] for key in asked if key != script} == {k: v for k, v in asked.items() if k != script}
    if asked:
        inside = PurePosixPath(asked[script]).relative_to("/opt/imaging_pipeline")
        assert settings.spark.discovery_script == ROOT / inside
        assert spec["executor"]["template"]["spec"]["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert bool(asked) is (overlay == "gpu")
    assert not settings.spark.conf, "properties stand in sparkConf: those of settings would override the operator's"
    assert made["spark.speculation"] == "false"
    assert executor_room(settings, spec["executor"]["cores"], given).n_tasks >= 1
    assert spec["sparkVersion"] == pyspark.__version__


def test_every_property_of_spark_has_its_reason() -> None:
    """Beside it, or in conf/cluster.yaml or conf/k8s/k8s.yaml."""
    known = "".join((ROOT / "conf" / name).read_text() for name in ("cluster.yaml", "k8s/k8s.yaml"))
    lines = (kubernetes.K8S / "base" / "application.yaml").read_text().splitlines()
    properties = [line for line in lines if line.lstrip().startswith("spark.")]
    assert len(properties) == len(application(render("cpu"))["sparkConf"])
    assert [line for line in properties if "#" not in line and f"{line.split(':')[0].strip()}: " not in known] == []


@each_overlay
def test_nothing_is_open_in_the_network_but_what_is_named(overlay: str) -> None:
    manifests = render(overlay)
    policies = {item["metadata"]["name"]: item["spec"] for item in of_kind(manifests, "NetworkPolicy")}
    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    conf = application(manifests)["sparkConf"]
    between = {str(port["port"]) for rule in policies["spark"]["ingress"] for port in rule["ports"]}
    assert between == {conf["spark.driver.port"], conf["spark.blockManager.port"]}
    assert [name for name, spec in policies.items() if spec.get("ingress")] == ["spark"]
    labels = {role: application(manifests)[role]["labels"] for role in ("driver", "executor")}
    for name, policy in policies.items():
        wanted = policy["podSelector"].get("matchLabels", {})
        reached = [role for role, has in labels.items() if wanted.items() <= has.items()]
        assert reached == (["driver"] if name.startswith("driver-to") else ["driver", "executor"]), name
    assert ("store" in policies, "driver-to-pacs" in policies) == (overlay == "s3", overlay == "nightly")


def test_images_bear_the_version_of_the_package() -> None:
    from imaging_pipeline import __version__

    tags = {overlay: application(render(overlay))["image"].split(":")[1] for overlay in OVERLAYS}
    assert tags == {overlay: __version__ + "-cuda" * (overlay == "gpu") for overlay in OVERLAYS}


def test_every_file_of_the_folder_is_used() -> None:
    folder = ROOT / "conf" / "k8s"
    named = {"k8s.yaml", "executor-pod.yaml"}  # without an operator; test_session.py looks at them
    for path in folder.rglob("kustomization.yaml"):
        content = yaml.safe_load(path.read_text())
        generated = [
            file for item in content.get("configMapGenerator", []) for file in item.get("files", item.get("envs"))
        ]
        listed = [*content.get("resources", []), *content.get("configurations", []), *generated, path.name]
        named |= {str((path.parent / item).resolve().relative_to(folder)) for item in listed}
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} <= named
