"""How the plans want an image normalised and resampled."""

from dataclasses import dataclass
from typing import Any

SCHEMES = (
    "CTNormalization", "ZScoreNormalization", "RescaleTo01Normalization", "NoNormalization", "RGBTo01Normalization"
)  # fmt: skip
"""Those that nnU-Net comes with."""

ANISOTROPY = 3.0
"""From this ratio of the largest to the smallest edge of a voxel on, nnU-Net resamples the long axis separately."""

_KNOWN = {
    "image_reader_writer": ("SimpleITKIO", "NibabelIO", "SimpleITKIOWithReorient", "NibabelIOWithReorient"),
    "preprocessor_name": ("DefaultPreprocessor",),
    "label_manager": ("LabelManager",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalisation:
    """What happens to intensities.

    Attributes:
        scheme: One of `SCHEMES`.
        within_mask: ZScoreNormalization: by and in what is not zero, holes filled.
        mean: CTNormalization: of the foreground in the training data; the three below alike.
        std: Standard deviation.
        lower: Percentile 0.5, to clip at.
        upper: Percentile 99.5, to clip at.
    """

    scheme: str
    within_mask: bool
    mean: float
    std: float
    lower: float
    upper: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Resampling:
    """How one grid is brought to another.

    Attributes:
        order: Of the spline, 0 to 5.
        order_z: Likewise along the long axis of anisotropic voxels.
        separate: Whether that axis goes separately; None: where voxels are anisotropic.
        anisotropy: Ratio of edges beyond which they are.
        float16: Whether logits are rounded to float16 once resampled, which settles near ties.
    """

    order: int
    order_z: int
    separate: bool | None
    anisotropy: float
    float16: bool


def check_known(settings: dict[str, Any]) -> None:
    """Refuse classes of nnU-Net that do more than what is done here.

    Raises:
        ValueError: Naming the class.
    """
    for key, known in _KNOWN.items():
        if settings.get(key, known[0]) not in known:
            raise ValueError(f"{key} {settings[key]} does not run here; {', '.join(known)} does")


def read_normalisation(plans: dict[str, Any], config: dict[str, Any]) -> Normalisation:
    """Of the one channel.

    Raises:
        ValueError: A scheme that nnU-Net does not come with.
        KeyError, TypeError, IndexError: Malformed.
    """
    (scheme,) = config["normalization_schemes"]
    if scheme not in SCHEMES:
        raise ValueError(f"normalisation {scheme} does not run here; {', '.join(SCHEMES)} do")
    newer, older = "foreground_intensity_properties_per_channel", "foreground_intensity_properties_by_modality"
    found = (plans[newer] if newer in plans else plans[older])["0"] if scheme == "CTNormalization" else {}
    keys = {"mean": "mean", "std": "std", "lower": "percentile_00_5", "upper": "percentile_99_5"}
    statistics = {name: float(found[key]) if found else 0.0 for name, key in keys.items()}
    return Normalisation(scheme=scheme, within_mask=bool(config["use_mask_for_norm"][0]), **statistics)


def read_resampling(config: dict[str, Any], what: str) -> Resampling | None:
    """Of `data` or `probabilities`; None for no_resampling_hack.

    Raises:
        ValueError: A function or option that does not run here.
        KeyError, TypeError: Malformed.
    """
    function, options = config[f"resampling_fn_{what}"], config.get(f"resampling_fn_{what}_kwargs") or {}
    if function == "no_resampling_hack":
        return None
    if function == "resample_data_or_seg_to_shape":
        defaults: dict[str, Any] = {"order": 3, "order_z": 0, "force_separate_z": False}
    elif function == "resample_torch_fornnunet":
        across = {"nearest-exact": 0, "linear": 1}
        defaults = {"order": 1, "order_z": across[options.get("aniso_axis_mode", "nearest-exact")]}
    else:
        raise ValueError(f"resampling_fn_{what} {function} does not run here")
    options = {**defaults, **options}
    if options.get("is_seg") or options.get("mode", "linear") != "linear" or not 0 <= options["order"] <= 5:
        raise ValueError(f"resampling_fn_{what} {function} with {options} does not run here")
    return Resampling(
        order=int(options["order"]),
        order_z=int(options["order_z"]),
        separate=options.get("force_separate_z"),
        anisotropy=float(options.get("separate_z_anisotropy_threshold", ANISOTROPY)),
        float16=function == "resample_data_or_seg_to_shape",
    )
