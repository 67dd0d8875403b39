"""Class probabilities on the native grid, written slab by slab while they are made."""

from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging_pipeline.stores import Store
from imaging_pipeline.stores.store import cannot_write


class ProbabilityFile:
    """A NumPy file of shape (C, I, J, K), float16, axes as those of the mask; it never lies in memory as a whole.

    NIfTI knows no half precision; `numpy.load(path, mmap_mode="r")` reads a part without the rest.

    Attributes:
        path: Relative to RESULTS.
    """

    def __init__(self, out: Store, path: str, shape: tuple[int, ...]) -> None:
        """Name the file; it is made with the first slab.

        Args:
            out: RESULTS.
            path: Relative to it.
            shape: I, J, K.
        """
        self.path = path
        self._out = out
        self._shape = shape
        self._scratch: Path | None = None
        self._values: NDArray[np.float16] | None = None

    def __call__(self, axis: int, start: int, stop: int, probabilities: Any) -> None:
        """Write a slab.

        Args:
            axis: 0, 1 or 2.
            start: First index along it.
            stop: Index behind the last.
            probabilities: Tensor of shape (C, ...) of the slab.

        Raises:
            PipelineError: `write-failed`.
        """
        place = [slice(None)] * 4
        place[axis + 1] = slice(start, stop)
        try:
            if self._values is None:
                self._scratch = self._out.scratch(self.path)
                shape = (len(probabilities), *self._shape)
                self._values = np.lib.format.open_memmap(self._scratch, "w+", np.float16, shape)
            self._values[tuple(place)] = probabilities.half().cpu().numpy()
        except OSError as error:
            what = PurePosixPath(self.path).name
            raise cannot_write(what, error, "free space on the disk that it is written to") from None

    def publish(self) -> str:
        """Give the file its name; SHA-256.

        Raises:
            PipelineError: `write-failed`.
        """
        self._values = None
        return self._out.publish_scratch(self.path)

    def abandon(self) -> None:
        """Remove what has been written and not published."""
        self._values = None
        if self._scratch is not None:
            self._scratch.unlink(missing_ok=True)
