"""Where stores are; who may use them is never said here."""

import os
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from imaging_pipeline.errors import Code, PipelineError


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _from_environment(description: str, *names: str) -> Any:
    """Default of a setting that the store's own tools take from the environment: executors may have another one."""
    told = f"{description}; default: {', '.join(names)}"
    return Field(default_factory=lambda: next(filter(None, map(os.environ.get, names)), ""), description=told)


FileMode = Literal["umask", "private", "group"]
"""Who may read what is written to a folder."""


class ArchiveSettings(_Section):
    """How far archives among the input are unpacked: a small file may stand for an endless one."""

    max_member_bytes: int = Field(
        2**32, ge=1, description="a member that unpacks to more is refused; the largest instances are below 4 GiB"
    )
    max_archive_bytes: int = Field(2**38, ge=1, description="a compressed tar that unpacks to more is refused: 256 GiB")
    max_ratio: int = Field(
        200, ge=1, description="unpacked to packed bytes; DICOM gives 2 to 5, empty slices up to 1000, but small ones"
    )
    ratio_from_bytes: int = Field(2**28, ge=0, description="what unpacks to less (256 MiB) may have any ratio")
    max_members: int = Field(10**6, ge=1, description="an archive of more members is refused")


class S3Settings(_Section):
    """Objects behind `s3://`."""

    endpoint_url: str = _from_environment("where S3 is not Amazon's", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    region: str = _from_environment("region", "AWS_REGION", "AWS_DEFAULT_REGION")
    profile: str = Field("", description="of the configuration files of every host; AWS_PROFILE is each process's own")
    anonymous: bool = Field(False, description="read public buckets without credentials")
    addressing: Literal["auto", "path", "virtual"] = Field("auto", description="bucket in the path or the host name")
    conditional_put: bool = Field(
        True, description="false for stores that know no If-None-Match; nothing then notices a second run at one index"
    )


class AzureSettings(_Section):
    """Objects behind `abfs://`."""

    account_name: str = _from_environment("where the URL has none", "AZURE_STORAGE_ACCOUNT_NAME")
    anonymous: bool = Field(False, description="read public containers without credentials")


class GcsSettings(_Section):
    """Objects behind `gs://`."""

    project: str = _from_environment("project", "GOOGLE_CLOUD_PROJECT")
    anonymous: bool = Field(False, description="read public buckets without credentials")


class HdfsSettings(_Section):
    """Files behind `hdfs://`."""

    user: str = Field("", description="user name where the cluster asks for no ticket")
    kerberos_ticket: str = Field("", description="path of a ticket cache on every host")


class StorageSettings(_Section):
    """Where stores are. There is no place for keys, passwords or tokens: these settings are saved with every run.

    Credentials come from where each store's own tools find them: environment, profile files, the machine's role.
    """

    archives: ArchiveSettings = ArchiveSettings()
    s3: S3Settings = Field(default_factory=S3Settings)
    azure: AzureSettings = Field(default_factory=AzureSettings)
    gcs: GcsSettings = Field(default_factory=GcsSettings)
    hdfs: HdfsSettings = Field(default_factory=HdfsSettings)

    @model_validator(mode="after")
    def _without_secrets(self) -> Self:
        if "@" in self.s3.endpoint_url:
            raise PipelineError(
                Code.SETTINGS_INVALID,
                "storage.s3.endpoint_url holds a user name or password",
                "name the host alone: credentials come from the environment, profile files or the machine's role",
            )
        return self
