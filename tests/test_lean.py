"""A worker starts without what MONAI takes along for training, plots and tables, and without torch's compiler."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from imaging_pipeline.segment.backends import probe
from imaging_pipeline.segment.backends.load import load_network
from imaging_pipeline.segment.bundle import describe
from imaging_pipeline.segment.config import parse_config
from imaging_pipeline.settings import Settings
from tests.conftest import ROOT

WORKER = """
import json, sys
from imaging_pipeline.workers.child import _load

loaded = []
for with_network in (False, True, True):
    _load(with_network=with_network)
    loaded.append(sorted({"monai", "ignite", "matplotlib", "pandas", "scipy.signal", "sklearn"} & set(sys.modules)))
import monai.networks.nets, monai.transforms, pandas, scipy.signal, sklearn.metrics, matplotlib.pyplot, ignite.engine
loaded.append(pandas.DataFrame({"a": [1]}).shape)
print(json.dumps(loaded))
"""

OPENING = """
import sys
from imaging_pipeline.segment.bundle import describe
from imaging_pipeline.workers.child import _load

_load(with_network=True)
from imaging_pipeline.segment.engine import Engine
from imaging_pipeline.settings import resolve

settings = resolve(options={"device": "cpu"})
Engine(describe("hippocampus_mr", settings.models), settings)
print(sorted({"torch._dynamo", "scipy.signal"} & set(sys.modules)))
"""

AFTERWARDS = """
import pandas
from imaging_pipeline.segment.lean import import_monai

import_monai()
from monai.data import CSVDataset

print(len(CSVDataset(pandas.DataFrame({"a": [1, 2]}))))
"""


def said_by(program: str) -> str:
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.slow
def test_a_worker_takes_monai_alone_and_a_bundle_may_still_import_the_others() -> None:
    nothing, network, again, frame = json.loads(said_by(WORKER))
    assert (nothing, network, again, frame) == ([], ["monai"], ["monai"], [1, 1])


@pytest.mark.slow
def test_what_is_loaded_already_is_monais_as_ever() -> None:
    assert said_by(AFTERWARDS) == "2\n"


@pytest.mark.slow
def test_opening_a_model_of_small_windows_takes_no_compiler() -> None:
    assert said_by(OPENING) == "[]\n"


def test_a_window_that_is_computed_tells_what_one_without_values_does(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, cpu = describe("hippocampus_mr", settings.models), torch.device("cpu")
    config = parse_config(bundle, cpu)
    network = load_network(bundle.weights[0].path, cpu, config.build, "torch")
    computed = probe.probe(network, config.inferer, bundle, cpu)
    monkeypatch.setattr(probe, "_SMALL_WINDOW", 0)
    hooks = [part._forward_hooks for part in network.module.modules()]
    assert probe.probe(network, config.inferer, bundle, cpu) == computed
    assert computed is not None
    assert computed.n_channels == 3
    assert not any(hooks), "it leaves nothing behind on the network"
