"""Settings of what is sent to a PACS, and of what receives from one."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.pacs.destination import DicomNode, is_loopback, parse_address, parse_destination


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _ae_title(text: str) -> str:
    """Application Entity (AE), PS3.5 table 6.2-1: 1 to 16 printable characters of ASCII, no backslash."""
    if not 0 < len(text.strip()) <= 16 or not text.isascii() or not text.isprintable() or "\\" in text:
        raise ValueError("an AE title has 1 to 16 characters of ASCII and no backslash")
    return text.strip()


AeTitle = Annotated[str, AfterValidator(_ae_title)]


class SendSettings(_Section):
    """Where DICOM outputs are sent. There is no place for tokens or passwords: files are named that hold them."""

    destination: str = Field("", description="CALLED@host:port, or https://.../studies; empty: nothing is sent")
    calling_ae: AeTitle = Field("IMAGING_PIPELINE", description="what we call ourselves")
    tls: bool = Field(False, description="C-STORE over TLS; https is so anyway")
    ca_file: Path | None = Field(None, description="PEM of who signs for the destination; default: the system's")
    certificate_file: Path | None = Field(None, description="PEM of our own certificate, where it asks for one")
    key_file: Path | None = Field(None, description="PEM of its key, where the certificate's file has none")
    check_host_name: bool = Field(True, description="the destination's certificate must name its host")
    token_file: Path | None = Field(None, description="bearer token of STOW-RS; read anew for each batch")
    timeout_seconds: float = Field(60.0, gt=0, description="for a connection, and for each answer")
    tries: int = Field(4, ge=1, description="of a destination that does not answer, once there is nothing else to do")
    pause_seconds: float = Field(1.0, gt=0, description="before the second try; twice as long before each further one")
    commitment: bool = Field(False, description="ask a C-STORE destination to promise that it keeps the objects")
    commitment_listen: str = Field(
        "", description="ADDRESS:PORT where it may bring the answer; empty: on the connection that asked"
    )
    commitment_seconds: float = Field(60.0, gt=0, description="how long an answer is waited for")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        node = parse_destination(self.destination) if self.destination else None
        is_dicom = isinstance(node, DicomNode)
        if self.commitment_listen:
            parse_address(self.commitment_listen)
        if self.key_file and not self.certificate_file:
            raise _invalid("send.key_file without a certificate", "name send.certificate_file too")
        if is_dicom and not self.tls and (self.ca_file or self.certificate_file):
            message = f"{node} would be sent to without TLS, though certificates are named"
            raise _invalid(message, "set send.tls=true, or leave send.ca_file and send.certificate_file away")
        if is_dicom and self.token_file:
            raise _invalid(f"send.token_file is for STOW-RS, and {node} is C-STORE", "leave it away")
        if node is not None and not is_dicom and self.commitment:
            raise _invalid(f"{node} knows no storage commitment: that is for C-STORE", "leave send.commitment away")
        return self


class ReceiveSettings(_Section):
    """Who may send to us, and how much."""

    address: str = Field("127.0.0.1", description="where to listen; 0.0.0.0: on every address of this machine")
    port: int = Field(11112, ge=0, le=65535, description="0: any that is free")
    ae_title: AeTitle = Field("IMAGING_PIPELINE", description="associations that call somebody else are rejected")
    allow: tuple[AeTitle, ...] = Field((), description="calling AE titles; empty: anybody, on loopback alone")
    max_associations: int = Field(10, ge=1, description="at the same time; each holds one instance in memory")
    reserve_mb: int = Field(
        256, ge=0, description="nothing is taken that would leave less free on the disk; 0: all of it"
    )
    timeout_seconds: float = Field(60.0, gt=0, description="a silent association is ended after it")

    @model_validator(mode="after")
    def _is_guarded(self) -> Self:
        if not self.allow and not is_loopback(self.address):
            message = f"anybody who reaches {self.address} could send"
            raise _invalid(message, "name the calling AE titles by --allow or receive.allow")
        return self


def _invalid(message: str, hint: str) -> PipelineError:
    return PipelineError(Code.SETTINGS_INVALID, message, hint)
