"""What every series of a run has in common."""

from dataclasses import dataclass
from pathlib import Path

from imaging_pipeline.host import host_name, now, versions
from imaging_pipeline.records import SeriesIdentity, SeriesResult, Status
from imaging_pipeline.results import layout
from imaging_pipeline.results.receipt import fingerprint
from imaging_pipeline.segment.bundle import Bundle
from imaging_pipeline.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What every series of a run has in common.

    Attributes:
        out: RESULTS.
        run_id: Names the run.
        settings: Resolved settings.
        bundle: The model; None makes volumes only.
    """

    out: Path
    run_id: str
    settings: Settings
    bundle: Bundle | None

    @property
    def model_name(self) -> str:
        """Name of the model in receipts and index."""
        return layout.VOLUMES_ONLY if self.bundle is None else self.bundle.name

    def fingerprint(self, identity: SeriesIdentity) -> str:
        """Digest of all that can change this series' result."""
        return fingerprint(identity, "" if self.bundle is None else self.bundle.digest, self.settings)

    def result(self, identity: SeriesIdentity, status: Status) -> SeriesResult:
        """A result with everything filled in that does not depend on the work."""
        return SeriesResult(
            identity=identity,
            status=status,
            model_name=self.model_name,
            model_version="" if self.bundle is None else self.bundle.version,
            model_digest="" if self.bundle is None else self.bundle.digest,
            settings_digest=self.settings.voxel_digest(),
            fingerprint=self.fingerprint(identity),
            host=host_name(),
            run_id=self.run_id,
            started_at=now(),
            versions=versions(),
        )
