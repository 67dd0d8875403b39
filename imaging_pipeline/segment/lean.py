"""MONAI without the packages that it would take along, where they are installed, for training, plots and tables.

Most of its import is theirs, and every worker pays it: 4.0 s and about 1.2 s on a core where all are installed.
"""

import importlib
import sys

_UNUSED = ("ignite", "matplotlib", "pandas", "scipy.signal", "sklearn")
"""Packages that MONAI can do without, and neither its networks, inferers nor transforms of volumes ask for."""


def import_monai() -> None:
    """Import MONAI before anything else does; whoever imports one of the packages afterwards gets it."""
    if "monai" in sys.modules:
        return
    hidden = [name for name in _UNUSED if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: not to be found
    try:
        importlib.import_module("monai")
    finally:
        for name in hidden:
            sys.modules.pop(name, None)
