"""What delta-rs, which has clients of stores of its own, is told so that it finds what fsspec finds."""

from typing import Any
from urllib.parse import urlsplit

from fsspec.asyn import sync

from imaging_pipeline.stores.settings import S3Settings, StorageSettings


def delta_options(protocol: str, storage: StorageSettings, filesystem: Any) -> dict[str, str]:
    """Options of delta-rs for a store, the credentials of the moment among them: they are not to be written down.

    Args:
        protocol: Of the store.
        storage: Where it is.
        filesystem: fsspec's, connected by them.
    """
    if protocol == "s3":
        return _s3(storage.s3, filesystem)
    if protocol == "abfs":
        return _set({"azure_storage_account_name": storage.azure.account_name})
    return {}


def _s3(settings: S3Settings, filesystem: Any) -> dict[str, str]:
    """delta-rs knows neither profiles nor single sign-on nor configuration files: botocore answers for it."""
    client, credentials = sync(filesystem.loop, _connected, filesystem)
    endpoint, region = client.meta.endpoint_url, (client.meta.region_name or "").replace("aws-global", "us-east-1")
    is_own = not (urlsplit(endpoint).hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn"))
    given = {
        "AWS_ENDPOINT_URL": endpoint * is_own,
        "AWS_ALLOW_HTTP": "true" * endpoint.startswith("http://"),
        "AWS_REGION": settings.region or region or "us-east-1" * is_own,
        "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true" * (settings.addressing == "virtual"),
        "AWS_SKIP_SIGNATURE": "true" * settings.anonymous,
    }
    if credentials is not None and not settings.anonymous:
        given["AWS_ACCESS_KEY_ID"], given["AWS_SECRET_ACCESS_KEY"] = credentials.access_key, credentials.secret_key
        given["AWS_SESSION_TOKEN"] = credentials.token
    # one committer works on an index: without conditions nothing is lost but the notice of a second one
    put = {"conditional_put": "etag"} if settings.conditional_put else {"AWS_S3_ALLOW_UNSAFE_RENAME": "true"}
    return {**_set(given), **put}


async def _connected(filesystem: Any) -> tuple[Any, Any]:
    """The client of botocore, and credentials as they are now: temporary ones are made anew before they end."""
    client = await filesystem.set_session()
    found = await filesystem.session.get_credentials()
    return client, None if found is None else await found.get_frozen_credentials()


def _set(options: dict[str, Any]) -> dict[str, str]:
    return {key: value for key, value in options.items() if value}
