"""A worker starts without what MONAI takes along for training, plots and tables."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT

WORKER = """
import json, sys
from imaging_pipeline.workers.child import _load

loaded = []
for with_network in (False, True, True):
    _load(with_network=with_network)
    loaded.append(sorted({"monai", "ignite", "matplotlib", "pandas", "sklearn"} & set(sys.modules)))
import monai.networks.nets, monai.transforms, pandas, sklearn.metrics, matplotlib.pyplot, ignite.engine
loaded.append(pandas.DataFrame({"a": [1]}).shape)
print(json.dumps(loaded))
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
