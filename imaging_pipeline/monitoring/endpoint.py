"""The metrics over HTTP, for a Prometheus that scrapes a run while it works."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server

from imaging_pipeline.sections import MetricsSettings


@contextmanager
def serving(registry: CollectorRegistry, wanted: MetricsSettings, say: Callable[[str], None]) -> Iterator[None]:
    """Serve them until the block ends; an address that is taken is said, and the run goes on without.

    Args:
        registry: What is served.
        wanted: Where.
        say: Takes a line of news.
    """
    try:
        server, thread = start_http_server(wanted.port, addr=wanted.bind, registry=registry)
    except OSError as error:
        say(f"no metrics at {wanted.bind}:{wanted.port}: {error.strerror}; the run goes on without")
        yield
        return
    say(f"metrics at http://{wanted.bind}:{wanted.port}/metrics")
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
