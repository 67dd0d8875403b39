"""The network of the plans, by the package that nnU-Net builds it with."""

from typing import Any

import torch

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.segment.nnunet.plans import Plans

_MISFITS = (TypeError, ValueError, AssertionError, KeyError, IndexError, AttributeError, RuntimeError)


def build_network(plans: Plans) -> torch.nn.Module:
    """An untrained network: (N, 1, Z, Y, X) → (N, C, Z, Y, X) logits.

    Raises:
        PipelineError: `extra-missing` without dynamic_network_architectures, `model-invalid` for a network that it
            does not have or cannot build.
    """
    try:
        from dynamic_network_architectures.architectures import unet
    except ImportError as error:
        raise PipelineError(
            Code.EXTRA_MISSING,
            f"nnU-Net's networks need dynamic_network_architectures: {error}",
            "pip install 'imaging-pipeline[nnunet]'",
        ) from None
    wanted = plans.architecture
    try:
        arguments = dict(wanted.arguments)
        for name in wanted.classes:
            if arguments[name] is not None:
                arguments[name] = _module_class(arguments[name], torch.nn, unet)
        arguments["deep_supervision"] = False
        network = _module_class(wanted.network, unet)(input_channels=1, num_classes=plans.n_outputs, **arguments)
    except _MISFITS as error:
        raise PipelineError(
            Code.MODEL_INVALID,
            f"the network {wanted.network} of {plans.name} cannot be built: {type(error).__name__}: {error}",
            "PlainConvUNet, ResidualEncoderUNet and ResidualUNet run here; update dynamic_network_architectures",
        ) from None
    return network


def _module_class(path: str, *packages: Any) -> type[torch.nn.Module]:
    """A class by the last part of its path: plans may name networks and layers, and nothing else."""
    name = str(path).rsplit(".", 1)[-1]
    found = next((getattr(package, name) for package in packages if hasattr(package, name)), None)
    if not isinstance(found, type) or not issubclass(found, torch.nn.Module):
        raise TypeError(f"{path} is no known network or layer")
    return found
