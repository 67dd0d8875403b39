"""Names that do not identify: keyed digests for subjects, studies and series, and descriptions cut to known words."""

import hashlib
import hmac
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.settings import IdentitySettings

SECRET_NAME = "identity.key"
_KEY_DIGITS = 16

_WORDS = frozenset(
    """
    2d 3d 4d abd abdomen abdominal ac acetabulum adc adrenal ankle aorta apical arm arterial axial bh bladder blade bold
    bone brain breast breath bravo brust c calibration cardiac carotid cervical chest cine coil contrast cor coronal
    coronary ct cta ctac delay delayed derived diff diffusion dixon dual dwi dynamic early echo elbow enhanced ep epi
    expiration face fast fat ffe field fine fl flair flash flow fmri foot frfse fse fspgr ge gd gre gradient hand hard
    head heart high hip hippocampus hr hrct image inspiration inv ir iso kernel kidney knee kv l large late lateral left
    leg liver loc localizer lordotic low lower lumbar lung m map mdixon medium mip mm mp2rage mpr mprage mr mra mri mrcp
    nativ native navigator neck neuro new nm non noncontrast oblique opposed orbit original out pancreas parotid pd
    pelvis perf perfusion pet petct phase pilot planar plain portal post postcontrast pre prostate pt r rec recon
    reconstruction research right routine sag sagittal scan scout se sella sense series sharp shoulder short sinus skull
    smooth soft space spair spc spgr spin spine spiral spleen spoiled standard std stir study sub survey swi t1 t1w t2 t2w
    te tfe thick thin thorax thoracic thyroid ti tilt time tirm tof topogram tr tra transverse trigger tse turbo uni
    uterus vein vena venous vessel vibe view vol volume w water whole wholebody wrist
    """.split()
)
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


def open_keys(results: Path, settings: IdentitySettings, *, create: bool = True) -> Keys:
    """Keys of a RESULTS folder, its secret made (mode 0600) on first use.

    Args:
        results: The output folder.
        settings: Names another secret, so that keys agree between folders.
        create: False leaves the folder alone: a secret that is not there yet is made for this process only.

    Raises:
        PipelineError: `settings-invalid` where a named secret cannot be read or is shorter than 16 bytes.
    """
    path = settings.secret_file or results / SECRET_NAME
    if settings.secret_file is None and not path.exists():
        secret = secrets.token_hex(32).encode()
        return Keys(_publish(path, secret) if create else secret, settings.keys)
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        raise PipelineError(
            Code.SETTINGS_INVALID, f"cannot read the secret {path}: {error.strerror}", "grant read access to it"
        ) from None
    if len(secret) < 16:
        raise PipelineError(
            Code.SETTINGS_INVALID, f"the secret {path} has {len(secret)} bytes, 16 are needed", "write a longer one"
        )
    return Keys(secret, settings.keys)


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
    return token.lower() in _WORDS or (len(token) <= 4 and any(character.isdigit() for character in token))


def _alphanumeric(text: str) -> str:
    """A BIDS label: letters and digits only; a digest tells apart what this would make equal."""
    label = re.sub(r"[^A-Za-z0-9]", "", text)[:40]
    return label if label == text else f"{label}x{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _publish(path: Path, secret: bytes) -> bytes:
    """Write a new secret unless somebody was quicker; the secret that counts."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(descriptor, secret + b"\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return path.read_bytes().strip()
    finally:
        temporary.unlink()
    return secret
