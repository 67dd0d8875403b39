"""One volume through one model: to the model grid, through the network, back to the native voxels."""

import time
from dataclasses import dataclass

import numpy as np
import torch

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.segment.bundle import Bundle
from imaging_pipeline.segment.device import peak_device_mb, pick_device, prepare, reset_peak
from imaging_pipeline.segment.model import Model, open_model
from imaging_pipeline.settings import Settings
from imaging_pipeline.volume.types import Volume

_TRIAL_SHAPE = (48, 64, 40)


@dataclass(frozen=True, slots=True, kw_only=True)
class Segmentation:
    """A mask and what it took to make.

    Attributes:
        mask: Label numbers on the volume's own grid, uint8 or uint16.
        stage_seconds: Wall seconds of preprocess, network and postprocess.
        peak_device_mb: Largest device memory; 0 on CPU.
    """

    mask: Volume
    stage_seconds: dict[str, float]
    peak_device_mb: float


class Engine:
    """A bundle on a device, ready for volumes; cheap to make where the process has the model already."""

    def __init__(self, bundle: Bundle, settings: Settings, cores: int | None = None) -> None:
        """Open the bundle.

        Args:
            bundle: The model.
            settings: Device, precision, threads.
            cores: CPU cores that this task owns; None: all of the process.

        Raises:
            PipelineError: `device-not-found`, or what `open_model` raises.
        """
        self._settings = settings.segment
        self.device = pick_device(settings.device)
        prepare(self.device, settings.segment, cores)
        self._model: Model = open_model(bundle, self.device, mirror=settings.segment.tta)

    @property
    def mirror_axes(self) -> tuple[int, ...]:
        """Axes of the model grid that are mirrored; empty without test-time mirroring."""
        return self._model.mirror_axes

    @property
    def foreign(self) -> tuple[str, ...]:
        """Transforms of the bundle that run as MONAI's own objects."""
        return self._model.foreign

    def segment(self, volume: Volume) -> Segmentation:
        """Segment one volume.

        Raises:
            PipelineError: `out-of-memory`, or `grid-mismatch` where the bundle does not return to the native grid.
        """
        reset_peak(self.device)
        marks = [time.perf_counter()]
        try:
            prepared = self._model.prepare(volume)
            marks.append(time.perf_counter())
            scores = self._model.predict(prepared, self._settings)
            marks.append(time.perf_counter())
            mask = volume.with_array(self._model.restore(scores, prepared, volume))
            marks.append(time.perf_counter())
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise _out_of_memory(volume, self.device, error) from None
        except RuntimeError as error:
            if "can't allocate memory" in str(error) or "out of memory" in str(error):
                raise _out_of_memory(volume, self.device, error) from None
            raise
        stages = zip(("preprocess", "network", "postprocess"), marks, marks[1:], strict=False)
        return Segmentation(
            mask=mask,
            stage_seconds={name: end - start for name, start, end in stages},
            peak_device_mb=peak_device_mb(self.device),
        )

    def try_out(self) -> str:
        """Segment a small volume of noise; what came of it, in one line.

        Raises:
            PipelineError: What `segment` raises.
        """
        array = np.random.default_rng(0).normal(100, 30, _TRIAL_SHAPE).astype(np.float32)
        done = self.segment(Volume(array=array, affine=np.eye(4)))
        size = " x ".join(map(str, done.mask.shape))
        return f"{size} voxels of noise to {done.mask.array.dtype} labels in {sum(done.stage_seconds.values()):.2f} s"


def _out_of_memory(volume: Volume, device: torch.device, error: Exception) -> PipelineError:
    return PipelineError(
        Code.OUT_OF_MEMORY,
        f"a volume of {' x '.join(map(str, volume.shape))} voxels does not fit on {device}: {str(error)[:200]}",
        "give the task more memory, or use --device cpu",
    )
