"""Values as JSON files of RESULTS."""

import json
from typing import Any

from imaging_pipeline.stores import Store


def publish_json(out: Store, path: str, content: Any) -> str:
    """Write a value as indented JSON atomically; SHA-256 of the file.

    Raises:
        PipelineError: `write-failed`.
    """
    return out.publish(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
