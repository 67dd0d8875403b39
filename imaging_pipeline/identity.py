"""Names that do not identify: keyed digests for subjects, studies and series, and descriptions cut to known words."""

import hashlib
import hmac
import re
import secrets
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.settings import IdentitySettings
from imaging_pipeline.stores import Store
from imaging_pipeline.stores.store import unreachable

KEY_FILE = "identity.key"
_KEY_DIGITS = 16

_TOKENS = re.compile(r"[A-Za-zÄÖÜäöüß0-9.*+]+")


@dataclass(frozen=True, slots=True)
class Keys:
    """Names for subjects, studies and series of one RESULTS.

    Attributes:
        secret: Key of the HMAC-SHA256; equal secrets give equal names.
        mode: hmac, or raw for identifiers as they stand in the DICOM.
    """

    secret: bytes
    mode: Literal["hmac", "raw"] = "hmac"

    @property
    def seal_key(self) -> bytes:
        """Key by which receipts and lines of the audit log are sealed."""
        return hmac.new(self.secret, b"seal", hashlib.sha256).digest()

    def subject(self, patient_id: str, study_uid: str) -> str:
        """Key of a patient; without a Patient ID each study is a subject of its own."""
        if self.mode == "raw" and patient_id:
            return _alphanumeric(patient_id)
        return self._digest("subject", patient_id or f"study {study_uid}")

    def session(self, study_uid: str) -> str:
        """Key of a study."""
        if self.mode == "raw" and study_uid:
            return _alphanumeric(study_uid)
        return self._digest("session", study_uid)

    def series(self, series: str, stack: int) -> str:
        """Key of a series, or of one stack of it."""
        return self._digest("series", f"{series} {stack}")

    def _digest(self, kind: str, value: str) -> str:
        message = f"{kind}\0{value}".encode()
        return hmac.new(self.secret, message, hashlib.sha256).hexdigest()[:_KEY_DIGITS]


def open_keys(results: Store, settings: IdentitySettings, *, create: bool = True) -> Keys:
    """Keys of a RESULTS, its secret made on first use (mode 0600 in a folder).

    Args:
        results: RESULTS.
        settings: Names another secret, so that keys agree between several of them.
        create: False leaves RESULTS alone: a secret that is not there yet is made for this process only.

    Raises:
        PipelineError: `settings-invalid` where a secret cannot be read or is shorter than 16 bytes, `write-failed`.
    """
    path = settings.secret_file or f"{results}/{KEY_FILE}"
    try:
        secret = settings.secret_file.read_bytes() if settings.secret_file else _own_secret(results, create=create)
    except OSError as error:
        raise PipelineError(
            Code.SETTINGS_INVALID, f"cannot read the secret {path}: {error.strerror}", "grant read access to it"
        ) from None
    secret = secret.strip()
    if len(secret) < 16:
        raise PipelineError(
            Code.SETTINGS_INVALID, f"the secret {path} has {len(secret)} bytes, 16 are needed", "write a longer one"
        )
    return Keys(secret, settings.keys)


def known_keys(results: Store, settings: IdentitySettings) -> Keys:
    """Keys of a RESULTS that is there already: none are made.

    Raises:
        PipelineError: As `open_keys`, and `settings-invalid` where RESULTS has no secret.
    """
    try:
        is_there = settings.secret_file is not None or results.exists(KEY_FILE)
    except OSError as error:
        raise unreachable(results, error) from None
    if not is_there:
        raise PipelineError(
            Code.SETTINGS_INVALID,
            f"{results} has no {KEY_FILE}",
            "name a RESULTS, and the file by --set identity.secret_file=FILE where its runs were given one",
        )
    return open_keys(results, settings, create=False)


def cut_description(text: str, mode: Literal["vocabulary", "full", "none"]) -> str:
    """A Series Description (0008,103E) without what could identify a person.

    `vocabulary` keeps known protocol words and tokens of at most four characters that hold a digit ("5mm", "B30f"):
    names have no digit, dates and patient numbers are longer.
    """
    if mode != "vocabulary":
        return text if mode == "full" else ""
    kept = [token for token in _TOKENS.findall(text) if _is_harmless(token)]
    return " ".join(kept)


def _is_harmless(token: str) -> bool:
    return token.lower() in _protocol_words() or (len(token) <= 4 and any(character.isdigit() for character in token))


@cache
def _protocol_words() -> frozenset[str]:
    return frozenset(files("imaging_pipeline").joinpath("protocol_words.txt").read_text(encoding="utf-8").split())


def _alphanumeric(text: str) -> str:
    """A BIDS label: letters and digits only; a digest tells apart what this would make equal."""
    label = re.sub(r"[^A-Za-z0-9]", "", text)[:40]
    return label if label == text else f"{label}x{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _own_secret(results: Store, *, create: bool) -> bytes:
    """The secret of a RESULTS: a new one unless somebody was quicker."""
    with suppress(FileNotFoundError):
        return results.read(KEY_FILE)
    secret = secrets.token_hex(32).encode()
    if not create or results.create(KEY_FILE, secret + b"\n"):
        return secret
    return results.read(KEY_FILE)
