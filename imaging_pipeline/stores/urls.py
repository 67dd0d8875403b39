"""Stores by their URLs: which library opens one, what it is told, and what its errors come to."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import fsspec

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.stores.settings import StorageSettings

_ALIASES = {"s3a": "s3", "s3n": "s3", "abfss": "abfs", "az": "abfs", "gcs": "gs"}
_EXTRAS = {"s3": "s3", "abfs": "azure", "gs": "gcs"}
_PROTOCOLS = (*_EXTRAS, "hdfs")
ATOMIC = frozenset((*_EXTRAS, "memory"))
"""Stores where a file appears when it is finished, not when it is opened."""

_CONNECTIONS = 32
_OPEN_FILESYSTEMS = 8


def is_url(text: str) -> bool:
    """Whether a place is named by a URL."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def canonical(text: str) -> str:
    """The URL of a store as this package writes it: `s3a://` and others by one name, no slash at its end.

    Raises:
        PipelineError: `usage`.
    """
    protocol, _, rest = text.partition("://")
    protocol = _ALIASES.get(protocol.lower(), protocol.lower())
    rest = rest.rstrip("/")
    if protocol not in _PROTOCOLS:
        known = ", ".join(f"{name}://" for name in (*_PROTOCOLS, *_ALIASES))
        raise PipelineError(Code.USAGE, f"{protocol}:// is no store that can be opened", f"known: {known}")
    if ":" in rest.partition("/")[0].rpartition("@")[0]:
        hint = "leave them away: credentials come from the environment, profile files or the machine's role"
        raise PipelineError(Code.USAGE, f"a {protocol}:// URL with a user name and password in it", hint)
    if not rest:
        raise PipelineError(Code.USAGE, f"{text} names no bucket", f"write {protocol}://BUCKET/PREFIX")
    return f"{protocol}://{rest}"


def protocol_of(url: str) -> str:
    """The part before `://`."""
    return url.partition("://")[0]


def filesystem(url: str, storage: StorageSettings) -> Any:
    """The fsspec file system of a URL, one for all threads of a process.

    Raises:
        PipelineError: `extra-missing`.
        OSError: It cannot be opened.
    """
    with store_errors(protocol_of(url)):
        return _opened("/".join(url.split("/", 3)[:3]), storage, os.getpid())


@contextmanager
def store_errors(protocol: str) -> Iterator[None]:
    """Whatever the client of a store raises as an OSError with a message of one line, or as `extra-missing`.

    Clients raise what the libraries below them raise, each its own kind: what is no OSError is one here.
    """
    try:
        yield
    except PipelineError:
        raise
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, _message(error)) from None
    except PermissionError as error:
        raise PermissionError(errno.EACCES, _message(error)) from None
    except ImportError as error:
        raise _missing(protocol, error) from None
    except Exception as error:
        if protocol == "hdfs" and "libjvm" in str(error) + str(error.__cause__):
            raise _missing(protocol, error) from None
        number = getattr(error, "errno", None)
        raise OSError(number if isinstance(number, int) else errno.EIO, _message(error)) from None


@lru_cache(maxsize=_OPEN_FILESYSTEMS)
def _opened(root: str, storage: StorageSettings, _process: int) -> Any:
    protocol = protocol_of(root)
    kind = fsspec.get_filesystem_class(protocol)
    options = {**_options(protocol, storage), **kind._get_kwargs_from_urls(root)}
    # fsspec's own cache keeps one for each thread, with connections of its own
    return kind(**options, use_listings_cache=False, skip_instance_cache=True)


def _options(protocol: str, storage: StorageSettings) -> dict[str, Any]:
    """What fsspec's implementation is told; what is empty is left to it."""
    if protocol == "s3":
        s3 = storage.s3
        config = {"max_pool_connections": _CONNECTIONS}
        style = {} if s3.addressing == "auto" else {"s3": {"addressing_style": s3.addressing}}
        client = {"region_name": s3.region} if s3.region else {}
        given = {"endpoint_url": s3.endpoint_url, "profile": s3.profile, "anon": s3.anonymous}
        return {**_set(given), "client_kwargs": client, "config_kwargs": {**config, **style}}
    if protocol == "abfs":
        return {**_set({"account_name": storage.azure.account_name}), "anon": storage.azure.anonymous}
    if protocol == "gs":
        return _set({"project": storage.gcs.project, "token": "anon" if storage.gcs.anonymous else ""})
    if protocol == "hdfs":
        return _set({"user": storage.hdfs.user, "kerb_ticket": storage.hdfs.kerberos_ticket})
    return {}


def _set(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value}


def _message(error: Exception) -> str:
    """One line, without the query of a URL: some stores sign there."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return re.sub(r"\?\S+", "", " ".join(text.split()))[:300]


def _missing(protocol: str, error: Exception) -> PipelineError:
    if protocol in _EXTRAS:
        message = f"{protocol}:// needs a package that is not installed: {_message(error)}"
        return PipelineError(Code.EXTRA_MISSING, message, f"pip install 'imaging-pipeline[{_EXTRAS[protocol]}]'")
    hint = "install Hadoop's client and set JAVA_HOME, HADOOP_HOME and CLASSPATH (hadoop classpath --glob)"
    return PipelineError(Code.EXTRA_MISSING, f"{protocol}:// needs libhdfs: {_message(error)[:120]}", hint)
