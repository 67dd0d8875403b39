"""`python -m imaging_pipeline COMMAND ...`; see `commands`."""

import sys

from imaging_pipeline.commands import main

if __name__ == "__main__":
    sys.exit(main())
