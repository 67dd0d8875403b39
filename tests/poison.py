"""Series that no process survives: a decoder stand-in that crashes, grows or hangs at series of certain numbers."""

from __future__ import annotations

import os
from pathlib import Path

SEGFAULT, GROWS, HANGS, EXITS = 901, 902, 903, 904

_SITE = """
import os, sys

if "imaging_pipeline.workers.child" in " ".join(sys.orig_argv):
    import ctypes
    from imaging_pipeline import case

    real = case.decode

    def decode(task, source):
        number = task.identity.series_number
        if number == {SEGFAULT}:
            ctypes.string_at(0)
        if number == {GROWS}:
            held = []
            while True:
                held.append(bytearray(b"x") * (16 << 20))
        if number == {HANGS}:
            ctypes.PyDLL(None).sleep(3600)  # with the interpreter's lock, as a codec might
        if number == {EXITS}:
            os._exit(3)
        return real(task, source)

    case.decode = decode
"""


def environment(folder: Path) -> dict[str, str]:
    """Environment of a command whose workers have the stand-in.

    Args:
        folder: Where it is written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {"SEGFAULT": SEGFAULT, "GROWS": GROWS, "HANGS": HANGS, "EXITS": EXITS}
    text = _SITE
    for name, number in numbers.items():
        text = text.replace(f"{{{name}}}", str(number))
    (folder / "sitecustomize.py").write_text(text)
    root = Path(__file__).resolve().parents[1]
    return {"PYTHONPATH": os.pathsep.join([str(folder), str(root)])}
