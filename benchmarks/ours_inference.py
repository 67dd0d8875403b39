"""`python -m imaging_pipeline.run`, and the seconds until it was imported; its worker imports torch beside reading.

python -m benchmarks.ours_inference FIGURES STUDY --out OUT [options of imaging_pipeline.run]
"""

import json
import os
import sys
import time
from pathlib import Path

from imaging_pipeline.host import peak_rss_mb
from imaging_pipeline.run import main as run

STARTED = "BENCH_STARTED"  # as in peer_inference, which imports what is not needed here


def main() -> int:
    """Run the command and keep what it cannot know itself."""
    import_seconds = time.time() - float(os.environ.get(STARTED, time.time()))
    file, *arguments = sys.argv[1:]
    code = run(arguments)
    Path(file).write_text(json.dumps({"stages": {"import": import_seconds}, "high_water_mb": peak_rss_mb()}))
    return code


if __name__ == "__main__":
    sys.exit(main())
