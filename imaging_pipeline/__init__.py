"""From DICOM studies to NIfTI masks on the scanner's own voxels, with an index that explains every series."""

import os

__version__ = "0.1.0"

# Arrow and delta-rs look here once, when they are loaded: by their own allocators they keep all that they ever took
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
os.environ.setdefault("_RJEM_MALLOC_CONF", "dirty_decay_ms:0,muzzy_decay_ms:0,narenas:1,tcache:false")
