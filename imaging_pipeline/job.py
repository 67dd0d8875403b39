"""What every series of a run has in common."""

from dataclasses import dataclass, field, replace

from imaging_pipeline.host import host_name, now, versions
from imaging_pipeline.records import SeriesIdentity, SeriesResult, Status
from imaging_pipeline.results import layout
from imaging_pipeline.results.receipt import fingerprint
from imaging_pipeline.segment.bundle import Bundle
from imaging_pipeline.settings import Settings
from imaging_pipeline.stores import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What every series of a run has in common.

    Attributes:
        out: RESULTS.
        run_id: Names the run.
        settings: Resolved settings.
        bundle: The model; None makes volumes only.
        seal_key: Seals receipts; tasks get it with the job, for the secret may be a file of the driver alone.
    """

    out: Store
    run_id: str
    settings: Settings
    bundle: Bundle | None
    seal_key: bytes = field(default=b"", repr=False)

    @property
    def model_name(self) -> str:
        """Name of the model in receipts and index."""
        return layout.VOLUMES_ONLY if self.bundle is None else self.bundle.name

    @property
    def stop_marker(self) -> str:
        """A file, relative to RESULTS, that is there when nothing new is to be begun."""
        return f"{layout.LOGS}/.{self.run_id}.stop"

    @property
    def is_stopping(self) -> bool:
        """Whether series that have not been begun are left for another run."""
        try:
            return self.out.exists(self.stop_marker)
        except OSError:  # a store that does not answer asks for nothing
            return False

    def with_settings(self, settings: Settings) -> "Job":
        """The same job under other settings."""
        return replace(self, settings=settings)

    def fingerprint(self, inputs_digest: str) -> str:
        """Digest of all that can change the result of a series, by that of its inputs."""
        return fingerprint(inputs_digest, "" if self.bundle is None else self.bundle.digest, self.settings)

    def result(self, identity: SeriesIdentity, status: Status) -> SeriesResult:
        """A result with everything filled in that does not depend on the work."""
        return SeriesResult(
            identity=identity,
            status=status,
            model_name=self.model_name,
            model_version="" if self.bundle is None else self.bundle.version,
            model_digest="" if self.bundle is None else self.bundle.digest,
            settings_digest=self.settings.voxel_digest(),
            voxel_settings=self.settings.voxel_settings(),
            fingerprint=self.fingerprint(identity.inputs_digest),
            host=host_name(),
            run_id=self.run_id,
            started_at=now(),
            versions=versions(),
        )
