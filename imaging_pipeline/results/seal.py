"""Seals: HMACs that tell what was written by whoever knows the secret of RESULTS from what was changed afterwards."""

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

FIELD = "seal"


def canonical(content: Mapping[str, Any]) -> bytes:
    """JSON of one form: keys in order, no spaces, ASCII."""
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def seal(content: Mapping[str, Any], key: bytes) -> str:
    """HMAC-SHA256 over the canonical JSON of an object, its own seal left out."""
    rest = {name: value for name, value in content.items() if name != FIELD}
    return hmac.new(key, canonical(rest), hashlib.sha256).hexdigest()


def is_sealed(content: Any, key: bytes) -> bool:
    """Whether an object carries the seal that belongs to it."""
    given = content.get(FIELD) if isinstance(content, dict) else None
    return isinstance(given, str) and hmac.compare_digest(given.encode(), seal(content, key).encode())
