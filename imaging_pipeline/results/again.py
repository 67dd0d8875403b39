"""Why the result of an earlier run does not count any more."""

from dataclasses import dataclass
from pathlib import PurePosixPath

from imaging_pipeline import __version__
from imaging_pipeline.records import SeriesIdentity, SeriesResult, Status
from imaging_pipeline.results.receipt import Found, fingerprint
from imaging_pipeline.settings import Settings
from imaging_pipeline.stores import Store

FORCED = "forced"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a result must have been made from, and what must have come of it.

    Attributes:
        identity: The series as it lies there now.
        model_digest: SHA-256 of the model; empty for volumes only.
        settings: Of this run.
    """

    identity: SeriesIdentity
    model_digest: str
    settings: Settings


def why_again(out: Store, found: Found, wanted: Wanted) -> str:
    """The first cause, in a few words, why a series is to be computed again; empty where its receipt counts.

    What stands before a bracket is the kind of the cause, the same for all series that it concerns.

    Args:
        out: RESULTS.
        found: The receipt of the series.
        wanted: What it must say.
    """
    receipt = found.receipt
    if receipt is None:
        return "receipt unreadable"
    if receipt.status is not Status.DONE:
        return f"{receipt.status} before ({receipt.reason_code})"
    if not found.is_sealed:
        return "receipt edited" if receipt.seal else "receipt without a seal"
    return _other_sources(receipt, wanted) or _other_outputs(out, receipt, wanted.settings)


def kind_of(cause: str) -> str:
    """A cause without what concerns one series alone."""
    return cause.partition(" (")[0]


def _other_sources(receipt: SeriesResult, wanted: Wanted) -> str:
    if receipt.fingerprint == fingerprint(wanted.identity.inputs_digest, wanted.model_digest, wanted.settings):
        return ""
    if receipt.identity.inputs_digest != wanted.identity.inputs_digest:
        before, now = receipt.identity.n_slices, wanted.identity.n_slices
        return "inputs changed" + f" ({before} slices before, {now} now)" * (before != now)
    if receipt.model_digest != wanted.model_digest:
        return f"model changed (version {receipt.model_version} before)"
    version = receipt.versions.get("imaging_pipeline", "unknown")
    if version != __version__:
        return f"package version changed ({version} before)"
    earlier, these = receipt.voxel_settings, wanted.settings.voxel_settings()
    changed = sorted(key for key in {**earlier, **these} if earlier.get(key) != these.get(key))
    return f"settings changed ({', '.join(changed)})" if changed else "settings changed"


def _other_outputs(out: Store, receipt: SeriesResult, settings: Settings) -> str:
    if settings.output.save_image and not receipt.image_path:
        return "more outputs wanted (image)"
    if settings.output.save_probabilities and not receipt.probabilities_path:
        return "more outputs wanted (probabilities)"
    lacking = [name for name, how in settings.output.dicom_formats.items() if receipt.formats.get(name) != how]
    if lacking:
        return f"more outputs wanted ({', '.join(lacking)})"
    for path, digest in receipt.output_digests.items():
        found = out.digest(path)
        if found != digest:
            return f"output {'missing' if found is None else 'changed'} ({_last_part(path)})"
    return ""


def _last_part(path: str) -> str:
    """What kind of file it is: the part of a BIDS name that holds no key."""
    return PurePosixPath(path).name.rpartition("_")[2]
