"""Networks out of weight files: a state dict, TorchScript, torch.export, ONNX or OpenVINO, behind one function."""

from imaging_pipeline.segment.backends.load import available_backends, load_network
from imaging_pipeline.segment.backends.network import Build, Network

__all__ = ["Build", "Network", "available_backends", "load_network"]
