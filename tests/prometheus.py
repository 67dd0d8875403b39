"""A real Prometheus that scrapes a run on the loopback interface, with the rules of this repository."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

CONF = ROOT / "conf" / "monitoring"


def program(name: str) -> str:
    """A program of Debian's packages; tests that need it skip where it is not installed."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name}: apt-get install prometheus prometheus-node-exporter")
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def text_at(url: str) -> str:
    """What an address answers; nothing while nobody listens there."""
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


@dataclass(frozen=True)
class Prometheus:
    """One that is running."""

    url: str

    def ask(self, what: str, **parameters: object) -> Any:
        text = f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(text, timeout=30) as answer:
            return json.load(answer)["data"]

    def value(self, expression: str) -> float | None:
        """The one value of an expression at this moment; None where there is none."""
        found = self.ask("query", query=expression)["result"]
        return float(found[0]["value"][1]) if found else None

    def history(self, expression: str, seconds: float) -> list[Any]:
        """What a panel would draw of the last so many seconds."""
        now = time.time()
        return list(self.ask("query_range", query=expression, start=now - seconds, end=now, step=0.25)["result"])


@contextmanager
def running(folder: Path, target: int) -> Iterator[Prometheus]:
    """Scrape a port four times a second, as conf/monitoring/prometheus.yml says otherwise."""
    config = yaml.safe_load((CONF / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "250ms", "evaluation_interval": "500ms"}
    config["rule_files"] = [str(CONF / name) for name in config["rule_files"]]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{target}"]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    options = (f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data", "--log.level=warn")
    command = [program("prometheus"), *options, f"--web.listen-address=127.0.0.1:{port}"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        server = Prometheus(f"http://127.0.0.1:{port}")
        end = time.monotonic() + 60
        while not text_at(f"{server.url}/-/ready"):
            assert process.poll() is None, (folder / "prometheus.log").read_text()
            assert time.monotonic() < end, "it does not start"
            time.sleep(0.1)
        yield server
    finally:
        process.terminate()
        process.wait()
