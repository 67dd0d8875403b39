"""The peer: the dcm2niix program, uncompressed NIfTI without a JSON file beside it.

Only the standard library is imported here: the largest resident size that the kernel reports for a child starts at
that of its parent.

    python -m benchmarks.peer_dcm2niix FOLDER OUT ACCOUNT
"""

import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from benchmarks.peer_account import Account


def main() -> None:
    """Convert FOLDER into OUT/volume.nii and leave the figures in ACCOUNT."""
    folder, out, account = map(Path, sys.argv[1:4])
    out.mkdir(parents=True, exist_ok=True)
    argv = (_program(), "-z", "n", "-b", "n", "-f", "volume", "-o", str(out), str(folder))
    with (out / "log.txt").open("wb") as log:
        start = time.perf_counter()
        process = subprocess.Popen(argv, stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
    Account(
        work_seconds=seconds,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        base_mb=0.0,
        peak_mb=usage.ru_maxrss / 1024,
        refusal=_refusal(os.waitstatus_to_exitcode(status), out),
    ).write(account)


def _program() -> str:
    """The program itself, without the package's script that starts it in Python."""
    spec = find_spec("dcm2niix")
    if spec is None or spec.origin is None:
        raise SystemExit("dcm2niix is not installed: pip install -e '.[dev]'")
    return str(Path(spec.origin).parent / "dcm2niix")


def _refusal(code: int, out: Path) -> str:
    made = sorted(path.name for path in out.glob("*.nii"))
    if code == 0 and made == ["volume.nii"]:
        return ""
    lines = (out / "log.txt").read_text(errors="replace").splitlines()
    said = next((line for line in lines if "rror" in line or "nsupported" in line), lines[-1] if lines else "")
    return f"exit code {code}, {len(made)} volumes: {said[:120]}"


if __name__ == "__main__":
    main()
