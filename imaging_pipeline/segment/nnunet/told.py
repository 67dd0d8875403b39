"""Which configuration a checkpoint was trained in, read without torch and without running anything in it."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

_MAX_PICKLE_BYTES = 64 << 20
"""A checkpoint's pickle holds names and numbers only, under 1 MB; tensors are files of their own beside it."""


def told_configuration(checkpoint: Path) -> str | None:
    """The configuration among the trainer's arguments; None where the file does not tell."""
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            entry = next(info for info in archive.infolist() if info.filename.endswith("/data.pkl"))
            if entry.file_size > _MAX_PICKLE_BYTES:
                return None
            with archive.open(entry) as stream:
                configuration = _InertUnpickler(stream).load()["init_args"]["configuration"]
    except (  # what damaged or foreign files are known to raise
        *(OSError, zipfile.BadZipFile, StopIteration, EOFError, RuntimeError, NotImplementedError),
        *(pickle.UnpicklingError, KeyError, TypeError, ValueError, AttributeError, IndexError, MemoryError),
    ):
        return None
    return configuration if isinstance(configuration, str) else None


class _Inert(dict[Any, Any]):
    """Stands for every object that a pickle names: takes whatever it is given and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def __setstate__(self, _: Any) -> None:
        pass

    def append(self, _: Any) -> None:
        pass

    def extend(self, _: Any) -> None:
        pass


class _InertUnpickler(pickle.Unpickler):
    """Reads dicts, lists, texts and numbers; looks no name up, so nothing of the file can run."""

    def find_class(self, _module: str, _name: str) -> type[_Inert]:
        return _Inert

    def persistent_load(self, _: Any) -> None:
        return None
