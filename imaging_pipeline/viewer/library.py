"""NiiVue, which draws the volumes: fetched once by npm, pinned, and not part of this repository.

`make viewer`, or `python -m imaging_pipeline.viewer.library`, fetches it.
"""

import hashlib
import subprocess
import sys
import tarfile
import tempfile
from base64 import b64encode
from pathlib import Path

from imaging_pipeline.errors import Code, PipelineError

NAME, VERSION = "@niivue/niivue", "0.69.0"
INTEGRITY = "sha512-YMjQvJgD1W2b7DuoxkwlC4VxbrgIePRJ5qyQzXKxi2v2MBVg285P/CIQyg46oDDGDIcaNlbd+MhtO/edMbXJkA=="
"""Of the package's archive, as a lock file of npm has it."""

FOLDER = Path(__file__).parent / "vendor" / f"niivue-{VERSION}"
SCRIPT = FOLDER / "niivue.umd.js"

_MEMBERS = {"package/dist/niivue.umd.js": SCRIPT.name, "package/package.json": "package.json"}
_LICENCE = f"""\
NiiVue {VERSION}, https://github.com/niivue/niivue
Copyright (c) 2021, NiiVue. Licence: BSD-2-Clause, as its package.json beside this file says;
the text of the licence: https://spdx.org/licenses/BSD-2-Clause.html
"""


def read_script() -> bytes:
    """The library as one script.

    Raises:
        PipelineError: `extra-missing` where it has not been fetched.
    """
    try:
        return SCRIPT.read_bytes()
    except OSError:
        raise PipelineError(
            Code.EXTRA_MISSING,
            f"NiiVue {VERSION}, which draws the volumes, is not at {SCRIPT}",
            "make viewer fetches it (needs npm), or python -m imaging_pipeline.viewer.library",
        ) from None


def fetch() -> None:
    """Fetch the library, unless it is here.

    Raises:
        PipelineError: `extra-missing` where npm is missing, cannot fetch it, or brings another archive than expected.
    """
    if SCRIPT.is_file():
        return
    with tempfile.TemporaryDirectory() as folder:
        archive = _packed(Path(folder))
        found = f"sha512-{b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()}"
        if found != INTEGRITY:
            raise PipelineError(
                Code.EXTRA_MISSING, f"{NAME} {VERSION} is {found}, expected {INTEGRITY}", "see where npm fetches from"
            )
        FOLDER.mkdir(parents=True, exist_ok=True)
        (FOLDER / "LICENSE.txt").write_text(_LICENCE)
        with tarfile.open(archive) as members:
            for member, name in _MEMBERS.items():
                stream = members.extractfile(member)
                assert stream is not None
                unfinished = FOLDER / f".{name}"
                unfinished.write_bytes(stream.read())
                unfinished.replace(FOLDER / name)


def _packed(folder: Path) -> Path:
    """The archive as npm fetches it; no script of a package runs."""
    command = ["npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", str(folder), f"{NAME}@{VERSION}"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=300, cwd=folder)
    except FileNotFoundError:
        raise PipelineError(
            Code.EXTRA_MISSING, "npm is not here", "install Node.js; the pipeline itself does not need it"
        ) from None
    except subprocess.SubprocessError as error:
        text = " ".join(str(getattr(error, "stderr", "") or error).split())[:300]
        raise PipelineError(Code.EXTRA_MISSING, f"npm cannot fetch {NAME}: {text}", "see to the network") from None
    return next(folder.glob("*.tgz"))


if __name__ == "__main__":
    from imaging_pipeline.console import say, show_error

    try:
        fetch()
    except PipelineError as problem:
        show_error(problem)
        sys.exit(2)
    say(f"NiiVue {VERSION}: {FOLDER}")
