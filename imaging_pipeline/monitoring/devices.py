"""NVIDIA GPUs of this machine, by NVML; no metrics where there is no driver or no nvidia-ml-py."""

import importlib
from collections.abc import Iterator
from typing import Any

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from imaging_pipeline.monitoring.metrics import NAMESPACE

_MEANINGS = {
    "device_utilization_ratio": "Share of the last moments in which the GPU was at work, by NVML",
    "device_memory_used_bytes": "Memory in use, by anybody, by NVML",
    "device_memory_size_bytes": "Memory of the GPU, by NVML",
}


class Devices(Collector):
    """GPUs by their number; of the machine of the driver alone."""

    def __init__(self) -> None:
        """Ask for NVML."""
        self._nvml: Any = None
        try:
            nvml = importlib.import_module("pynvml")
            nvml.nvmlInit()
        except Exception:  # its errors are made when it is loaded, and none of them matters
            return
        self._nvml = nvml

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client's `Collector`."""
        where = "Of the driver's machine; absent without a GPU and nvidia-ml-py."
        families = {
            name: GaugeMetricFamily(f"{NAMESPACE}_{name}", f"{meaning}. {where}", labels=["device"])
            for name, meaning in _MEANINGS.items()
        }
        for number in range(self._count()):
            for name, value in self._values(number).items():
                families[name].add_metric([str(number)], value)
        yield from families.values()

    def _count(self) -> int:
        if self._nvml is None:
            return 0
        try:
            return int(self._nvml.nvmlDeviceGetCount())
        except self._nvml.NVMLError:  # the driver is gone
            return 0

    def _values(self, number: int) -> dict[str, float]:
        """Figures of one GPU; none of one that does not tell, a part of one (MIG) for instance."""
        try:
            handle = self._nvml.nvmlDeviceGetHandleByIndex(number)
            memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
            values = {"device_memory_used_bytes": float(memory.used), "device_memory_size_bytes": float(memory.total)}
            busy = self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
        except self._nvml.NVMLError:
            return {}
        return {**values, "device_utilization_ratio": busy}
