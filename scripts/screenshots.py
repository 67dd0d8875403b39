"""Pictures of report and viewer for the documentation, from a run over the sample study: docs/images.

    python -m scripts.screenshots [RESULTS]

Needs Chromium and its driver (Debian: chromium, chromium-driver), and `make viewer`.
"""

import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

from imaging_pipeline.results.page import write_report
from imaging_pipeline.run import main as run
from imaging_pipeline.stores import LocalStore
from imaging_pipeline.viewer.library import read_script
from imaging_pipeline.viewer.server import open_server
from imaging_pipeline.viewer.shown import Shown
from tests.browser import chromium

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"


def main(results: str = "") -> None:
    """Make all pictures."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        if not results:
            results = folder
            run([str(ROOT / "sample_data" / "studies"), "--out", folder, "--save-image", "--no-spark", "--quiet"])
        out = LocalStore(root=Path(results))
        shutil.copy(next(out.root.glob("sub-*/**/*_acq-2x*_preview.png")), IMAGES / "montage.png")
        write_report(out, 10_000)
        _report(out.root / "report.html")
        _viewer(out)


def _report(page: Path) -> None:
    with chromium(1400, 1080) as driver:
        driver.get(page.as_uri())
        driver.find_element("css selector", ".key").click()
        time.sleep(1)
        driver.save_screenshot(str(IMAGES / "report.png"))


def _viewer(out: LocalStore) -> None:
    server, guard = open_server(Shown(out, "reviewer"), read_script())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with chromium(1400, 900) as driver:
        driver.get(guard.url)
        time.sleep(6)
        driver.save_screenshot(str(IMAGES / "viewer.png"))
    server.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
