"""Class and arguments of the network, as newer and older plans write them."""

from dataclasses import dataclass
from typing import Any

_BLOCKS = {"PlainConvUNet": "n_conv_per_stage", "ResidualEncoderUNet": "n_blocks_per_stage"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """How to build a network.

    Attributes:
        network: Name of a class of dynamic_network_architectures.
        arguments: For it, but channels in and out.
        classes: Arguments that name a class by its path.
    """

    network: str
    arguments: dict[str, Any]
    classes: tuple[str, ...]


def read_architecture(config: dict[str, Any]) -> Architecture:
    """From a configuration of plans.json.

    Raises:
        KeyError, TypeError, ValueError: Malformed.
    """
    if "architecture" not in config:
        return _older(config)
    written = config["architecture"]
    return Architecture(
        network=str(written["network_class_name"]),
        arguments=dict(written["arch_kwargs"]),
        classes=tuple(written["_kw_requires_import"]),
    )


def _older(config: dict[str, Any]) -> Architecture:
    """Plans up to nnU-Net 2.3 name the U-Net and leave much to convention."""
    network = config["UNet_class_name"]
    convolutions = config["n_conv_per_stage_encoder"]
    largest, base = config["unet_max_num_features"], config["UNet_base_num_features"]
    arguments = {
        "n_stages": len(convolutions),
        "features_per_stage": [min(base * 2**stage, largest) for stage in range(len(convolutions))],
        "conv_op": "torch.nn.Conv3d",
        "kernel_sizes": config["conv_kernel_sizes"],
        "strides": config["pool_op_kernel_sizes"],
        _BLOCKS[network]: convolutions,
        "n_conv_per_stage_decoder": config["n_conv_per_stage_decoder"],
        "conv_bias": True,
        "norm_op": "torch.nn.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    return Architecture(network=network, arguments=arguments, classes=("conv_op", "norm_op", "dropout_op", "nonlin"))
