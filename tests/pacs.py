"""A real PACS (Orthanc) on free ports of the loopback interface, and objects and results to send to it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MultiFrameGrayscaleByteSecondaryCaptureImageStorage, generate_uid

from imaging_pipeline.identity import open_keys
from imaging_pipeline.records import SeriesIdentity, SeriesResult, Status
from imaging_pipeline.results.layout import open_results
from imaging_pipeline.results.receipt import write_receipt
from imaging_pipeline.settings import IdentitySettings
from imaging_pipeline.stores import Store
from tests.s3 import _die_with_parent as die_with_parent
from tests.s3 import _free_ports as free_ports

AE_TITLE = "ARCHIVE"
START_SECONDS = 60
DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


@dataclass
class Orthanc:
    """A PACS that can be stopped and started again.

    Attributes:
        folder: Holds its database and log.
        port: Of DICOM.
        http_port: Of REST and DICOMweb.
        commitment_port: Where it brings its promises to keep objects.
        more: Further options of its configuration.
    """

    folder: Path
    port: int
    http_port: int
    commitment_port: int
    more: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def node(self) -> str:
        return f"{AE_TITLE}@127.0.0.1:{self.port}"

    @property
    def web(self) -> str:
        return f"http://127.0.0.1:{self.http_port}/dicom-web/studies"

    def start(self) -> None:
        config = self.folder / "orthanc.json"
        config.write_text(json.dumps(self._config()))
        with (self.folder / "log").open("ab") as log:
            command = [str(shutil.which("Orthanc")), str(config)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=die_with_parent)
        until = time.monotonic() + START_SECONDS
        while self.process.poll() is None and time.monotonic() < until:
            try:
                self.get("/system")
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise RuntimeError((self.folder / "log").read_text()[-2000:])

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait()
            self.process = None

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=30) as answer:
            return json.load(answer)

    def clear(self) -> None:
        for study in self.get("/studies"):
            url = f"http://127.0.0.1:{self.http_port}/studies/{study}"
            urllib.request.urlopen(urllib.request.Request(url, method="DELETE"), timeout=30).close()

    def instances(self) -> dict[str, dict[str, Any]]:
        """SOP Instance UID to what it says of every instance, with the study that holds it."""
        found = {}
        for study in self.get("/studies?expand"):
            for instance in self.get(f"/studies/{study['ID']}/instances"):
                told = {**instance["MainDicomTags"], "study": study["MainDicomTags"]["StudyInstanceUID"]}
                told["patient"], told["id"] = study["PatientMainDicomTags"]["PatientID"], instance["ID"]
                assert told["SOPInstanceUID"] not in found
                found[told["SOPInstanceUID"]] = told
        return found

    def _config(self) -> dict[str, Any]:
        return {
            "StorageDirectory": str(self.folder / "db"),
            "IndexDirectory": str(self.folder / "db"),
            "Plugins": [str(DICOMWEB)],
            "HttpPort": self.http_port,
            "DicomPort": self.port,
            "DicomAet": AE_TITLE,
            "DicomCheckCalledAet": True,
            "DicomAlwaysAllowStore": True,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomModalities": {"us": ["IMAGING_PIPELINE", "127.0.0.1", self.commitment_port]},
            **self.more,
        }


@contextmanager
def orthanc_in(folder: Path, **more: Any) -> Iterator[Orthanc]:
    """Start Orthanc, and kill it at the end."""
    if shutil.which("Orthanc") is None or not DICOMWEB.exists():
        pytest.skip("no Orthanc with its DICOMweb plugin here: apt-get install orthanc orthanc-dicomweb")
    folder.mkdir(parents=True, exist_ok=True)
    port, http_port, commitment_port = free_ports(3)
    server = Orthanc(folder, port, http_port, commitment_port, more)
    server.start()
    try:
        yield server
    finally:
        server.stop(signal.SIGKILL)


@dataclass(frozen=True)
class Sample:
    """Results with DICOM objects among their outputs.

    Attributes:
        uids: SOP Instance UIDs of the objects, in the order of their paths.
        study_uid: Of all.
    """

    uids: tuple[str, ...]
    study_uid: str


def secondary_capture(study_uid: str, n_frames: int = 3, side: int = 16) -> Dataset:
    """A minimal instance of frames, as it would lie beside a patient's images."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = MultiFrameGrayscaleByteSecondaryCaptureImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    data.StudyInstanceUID, data.SeriesInstanceUID = study_uid, generate_uid()
    data.PatientID, data.PatientName, data.Modality = "P-17", "Doe^Jane", "OT"
    data.StudyDate = data.StudyTime = data.AccessionNumber = data.PatientBirthDate = data.StudyID = ""
    data.Rows = data.Columns = side
    data.NumberOfFrames, data.SamplesPerPixel = n_frames, 1
    data.PhotometricInterpretation, data.BitsAllocated, data.BitsStored, data.HighBit = "MONOCHROME2", 8, 8, 7
    data.PixelRepresentation = 0
    rng = np.random.default_rng(int(UID(data.SOPInstanceUID)[-6:].replace(".", "")))
    data.PixelData = rng.integers(0, 255, (n_frames, side, side), dtype=np.uint8).tobytes()
    return data


def encoded(data: Dataset) -> bytes:
    from io import BytesIO

    stream = BytesIO()
    data.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def write_results(out: Store, n_series: int, *, objects_each: int = 1, side: int = 16) -> Sample:
    """Receipts of finished series whose outputs are a mask and DICOM objects."""
    open_results(out)
    seal_key = open_keys(out, IdentitySettings()).seal_key
    study_uid, uids = generate_uid(), []
    for number in range(n_series):
        key = f"{number:016x}"
        digests = {f"sub-a/{key}_dseg.nii.gz": out.publish(f"sub-a/{key}_dseg.nii.gz", b"a mask")}
        for part in range(objects_each):
            data = secondary_capture(study_uid, side=side)
            path = f"sub-a/{key}_{part}_seg.dcm"
            digests[path] = out.publish(path, encoded(data))
            uids.append(str(data.SOPInstanceUID))
        write_receipt(out, result_of(key, study_uid, digests), seal_key)
    return Sample(tuple(uids), study_uid)


def result_of(key: str, study_uid: str, digests: dict[str, str], status: Status = Status.DONE) -> SeriesResult:
    identity = SeriesIdentity(
        series_key=key,
        stack=0,
        subject_key="a",
        session_key="b",
        study_uid=study_uid,
        series_uid=generate_uid(),
        series_number=1,
        modality="CT",
        series_description="",
        n_slices=3,
        inputs_digest="0",
    )
    return SeriesResult(identity=identity, status=status, model_name="m", output_digests=digests)


def frames_of(server: Orthanc, uids: Sequence[str]) -> set[int]:
    found = server.instances()
    return {len(server.get(f"/instances/{found[uid]['id']}/frames")) for uid in uids}


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=2).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
