"""Who watches a run from outside sees what it does: by Prometheus while it works and after, and in its logs."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from imaging_pipeline.errors import Code, FlagCode, PipelineError
from imaging_pipeline.events import ALWAYS, SOMETIMES, JsonLines, about, event
from imaging_pipeline.intake.found import PackedSkip, PackedTask, packed_task
from imaging_pipeline.intake.shelf import Shelf
from imaging_pipeline.job import Job
from imaging_pipeline.logs import EVENTS, LogFile, log_to
from imaging_pipeline.monitoring import Observer, observing
from imaging_pipeline.monitoring.carried import samples_in
from imaging_pipeline.monitoring.endpoint import serving
from imaging_pipeline.monitoring.reference import reference
from imaging_pipeline.records import Flag, Status
from imaging_pipeline.results import layout
from imaging_pipeline.results.receipt import read_receipts
from imaging_pipeline.round import Exit
from imaging_pipeline.settings import MetricsSettings, Settings, resolve
from imaging_pipeline.stores import LocalStore
from imaging_pipeline.tally import Tally
from sample_data.phantom import CtSpec, write_ct
from tests import nvml_stand_in, prometheus
from tests.conftest import ROOT
from tests.test_results import result
from tests.test_schedule import task_of

SPEC = CtSpec(shape=(16, 12, 5), spacing_mm=(2.0, 2.0, 4.0), patient_name="NAMEMARK^Jane", patient_id="IDMARK")
N_SERIES = 12
PATIENCE_SECONDS = 120
LABELS = set("status code stage le kind flag device backend exit_code fate version model model_sha256".split())


@dataclass(frozen=True)
class Watched:
    """A run that watched, and the Prometheus that scraped it; both have ended but for what Prometheus remembers."""

    out: Path
    copy: Path
    prometheus: prometheus.Prometheus
    began: float
    said: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        files = sorted((self.out / "logs").glob("*.jsonl"))
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def damage(folder: Path) -> None:
    """A series whose pixels cannot be decoded."""
    spec = replace(SPEC, shape=(40, 40, 5), series_number=77, transfer_syntax="1.2.840.10008.1.2.4.90")
    path = write_ct(spec, folder).paths[3]
    content = bytearray(path.read_bytes())
    at = content.index(b"\xff\x4f\xff\x51")
    content[at : at + 60] = bytes(60)
    path.write_bytes(content)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Two series, then ten more and one that fails, all while Prometheus looks on."""
    folder, port = tmp_path_factory.mktemp("watched"), prometheus.free_port()
    studies, out, copy = folder / "NAMEMARK", folder / "out", folder / "node" / "imaging.prom"
    copy.parent.mkdir()
    nvml_stand_in.write_to(folder)
    for number in range(2):
        write_ct(replace(SPEC, seed=number), studies / str(number))
    options = (f"metrics.port={port}", f"metrics.textfile={copy}", "metrics.write_seconds=1", "logs.format=json")
    command = [sys.executable, "-m", "imaging_pipeline.run", str(studies), "--out", str(out), "--no-spark"]
    command += ["--model", "none", "--watch", "0.5", *(word for option in options for word in ("--set", option))]
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    began = time.time()
    with prometheus.running(folder, port) as server:
        run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=folder)
        try:
            wait_for(lambda: server.value(_processed("done")) == 2)
            damage(folder / "more" / "bad")
            for number in range(2, N_SERIES):
                write_ct(replace(SPEC, seed=number), folder / "more" / str(number))
            (folder / "more").rename(studies / "more")
            wait_for(lambda: server.value(_processed("done")) == N_SERIES and server.value(_processed("failed")) == 1)
            wait_for(lambda: server.value("imaging_pipeline_last_run_exit_code") == Exit.SOME_FAILED)
            run.send_signal(signal.SIGTERM)
            said, _ = run.communicate(timeout=PATIENCE_SECONDS)
        finally:
            run.kill()
        yield Watched(out, copy, server, began, said)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.1)


def _processed(status: str) -> str:
    return f'sum(imaging_pipeline_series_processed_total{{status="{status}"}})'


def test_every_alert_works_on_what_a_real_run_tells(watched: Watched) -> None:
    rules = watched.prometheus.ask("rules")["groups"][0]["rules"]
    assert len(rules) == 10
    assert {rule["name"]: rule.get("lastError", "") for rule in rules if rule["health"] != "ok"} == {}
    seconds = time.time() - watched.began
    for rule in rules:
        names = set(re.findall(r"\b(?:imaging_pipeline_\w+|up)\b", re.sub(r'"[^"]*"', "", rule["query"])))
        silent = {name for name in names if not watched.prometheus.history(name, seconds)}
        assert names, rule
        assert not silent, f"{rule['name']} goes by what no run tells"


def test_every_panel_of_the_dashboard_shows_something_of_a_real_run(watched: Watched) -> None:
    dashboard = json.loads((prometheus.CONF / "dashboard.json").read_text())
    seconds = time.time() - watched.began
    filled = {"$job": "imaging_pipeline", "$instance": ".*", "$window": "10s", "$__interval": "10s"}
    asked = [(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel["targets"]]
    asked += [("annotation", item["expr"]) for item in dashboard["annotations"]["list"]]
    empty = []
    for title, expression in asked:
        for name, value in filled.items():
            expression = expression.replace(name, value)
        if not watched.prometheus.history(expression, seconds):
            empty.append((title, expression))
    assert empty == []
    assert dashboard["__inputs"][0]["name"] == "DS_PROMETHEUS"
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_what_prometheus_saw_is_what_was_done(watched: Watched) -> None:
    seconds = time.time() - watched.began
    (failed,) = watched.prometheus.history(
        'imaging_pipeline_series_processed_total{status="failed",code="decode-failed"}', seconds
    )
    assert failed["values"][-1][1] == "1"
    (queue,) = watched.prometheus.history("imaging_pipeline_queue_series", seconds)
    assert max(float(value) for _, value in queue["values"]) > 2
    busy = watched.prometheus.history("imaging_pipeline_device_utilization_ratio", seconds)
    assert {series["metric"]["device"]: series["values"][0][1] for series in busy} == {"0": "0", "1": "0.5"}
    assert "metrics at http://127.0.0.1:" in watched.said


def test_the_file_that_a_run_leaves_says_how_it_ended_and_nothing_of_patients_or_places(watched: Watched) -> None:
    text = (watched.out / "metrics.prom").read_text()
    samples = samples_in(text)
    done = samples["imaging_pipeline_series_processed_total", frozenset({("status", "done"), ("code", "")})]
    runs = {
        dict(labels)["exit_code"]: value for (name, labels), value in samples.items() if name.endswith("runs_total")
    }
    assert done == N_SERIES
    assert runs == {"0": 1.0, "4": 1.0}
    assert samples["imaging_pipeline_last_run_exit_code", frozenset()] == Exit.SOME_FAILED
    assert samples["imaging_pipeline_queue_series", frozenset()] == 0
    assert samples["imaging_pipeline_results_free_bytes", frozenset()] > 0
    assert samples_in(watched.copy.read_text()).keys() == samples.keys()
    assert {label for _, labels in samples for label, _ in labels} <= LABELS
    assert len(samples) < 400
    keys = {receipt.identity.series_key for receipt in read_receipts(LocalStore(root=watched.out))}
    logs = json.dumps([line | {"imaging.series_key": ""} for line in watched.lines])
    assert not [mark for mark in ("MARK", str(watched.out.parent), *keys) if mark in text]
    assert not [mark for mark in ("MARK", *keys) if mark in logs]
    checked = subprocess.run([prometheus.program("promtool"), "check", "metrics"], input=text, text=True, check=False)
    assert checked.returncode == 0


def test_node_exporter_hands_the_file_on(watched: Watched) -> None:
    port = prometheus.free_port()
    command = [prometheus.program("prometheus-node-exporter"), "--collector.disable-defaults", "--collector.textfile"]
    command += [f"--collector.textfile.directory={watched.copy.parent}", f"--web.listen-address=127.0.0.1:{port}"]
    exporter = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    told: list[str] = []
    try:
        wait_for(lambda: told.append(prometheus.text_at(f"http://127.0.0.1:{port}/metrics")) or told[-1] != "")
    finally:
        exporter.terminate()
        exporter.wait()
    assert "node_textfile_scrape_error 0" in told[-1]
    assert f"imaging_pipeline_last_run_exit_code {Exit.SOME_FAILED}" in told[-1]


def test_rules_and_example_pass_promtool_and_name_their_place_in_the_runbook() -> None:
    promtool = prometheus.program("promtool")
    for check in (("check", "config", "prometheus.yml"), ("test", "rules", "alerts_test.yaml")):
        done = subprocess.run([promtool, *check], cwd=prometheus.CONF, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    (group,) = yaml.safe_load((prometheus.CONF / "alerts.yaml").read_text())["groups"]
    tested = (prometheus.CONF / "alerts_test.yaml").read_text()
    runbook = ROOT / "docs" / "runbook.md"
    anchors = {line.strip("# \n").lower() for line in runbook.open() if line[0] == "#"} if runbook.exists() else None
    for rule in group["rules"]:
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"
        assert f"alertname: {rule['alert']}\n        exp_alerts" in tested, f"{rule['alert']} is never seen to fire"
        assert anchors is None or rule["alert"].lower() in anchors, f"the runbook has no {rule['alert']}"


def test_every_line_of_the_log_is_json_of_known_fields_from_driver_and_worker(watched: Watched) -> None:
    lines = watched.lines
    assert all(set(ALWAYS) <= set(line) <= {*ALWAYS, *SOMETIMES} for line in lines)
    assert len({line["process.pid"] for line in lines}) >= 2, "driver and worker"
    assert len({line["imaging.run_id"] for line in lines if line["message"].startswith("run ended")}) == 2
    assert sum(line.get("imaging.status") == "done" for line in lines) == N_SERIES
    (stage,) = [line for line in lines if line["message"] == "a stage failed"]
    assert (stage["imaging.stage"], stage["imaging.code"]) == ("decode", "decode-failed")
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["@timestamp"]) for line in lines)


def test_the_index_template_has_every_field_that_is_written_and_no_other() -> None:
    template = json.loads((prometheus.CONF / "index_template.json").read_text())
    fields = dict(_leaves(template["template"]["mappings"]["properties"]))
    assert set(fields) == {*ALWAYS, *SOMETIMES}
    assert all(fields[f"imaging.{name}"] == "keyword" for name in ("run_id", "series_key", "stage", "status", "code"))
    assert resolve(prometheus.CONF / "spark.yaml").spark.conf["spark.ui.enabled"] == "true"
    shipped = yaml.safe_load((prometheus.CONF / "filebeat.yml").read_text())
    assert any("jsonl" in path for path in shipped["filebeat.inputs"][0]["paths"])
    text = (prometheus.CONF / "logstash.conf").read_text()
    assert text.count("{") == text.count("}")
    named = set(re.findall(r"\[((?:imaging|error|log|host|service|process)\.?\w*(?:\]\[\w+)*)\]", text))
    assert {name.replace("][", ".") for name in named} <= set(fields)


def _leaves(properties: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, what in properties.items():
        if "properties" in what:
            yield from _leaves(what["properties"], f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", what["type"]


@pytest.fixture
def logging_as_it_was() -> Iterator[None]:
    root, raises = logging.getLogger(), logging.raiseExceptions
    handlers = root.handlers[:]
    yield
    root.handlers[:], logging.raiseExceptions = handlers, raises
    logging.getLogger(EVENTS).disabled = False
    logging.captureWarnings(False)


def log(error: Exception, message: str) -> None:
    try:
        raise error
    except type(error):
        logging.getLogger("x").exception(message)


@pytest.mark.usefixtures("logging_as_it_was")
def test_a_line_tells_kind_and_place_of_an_error_and_its_text_only_where_that_is_asked_for(tmp_path: Path) -> None:
    quoting = ValueError("NAMEMARK")
    log_to(logging.FileHandler(tmp_path / "log"), form=JsonLines("run 1"))
    with about(series_key="k", stage="write"):
        warnings.warn_explicit("NAMEMARK", UserWarning, "nibabel.py", 3)
        log(quoting, "a fault")
    log(PipelineError(Code.WRITE_FAILED, "no space", ""), "later")
    event("done", seconds=0.0, exit_code=0, status="done", code="")
    log_to(logging.FileHandler(tmp_path / "detailed"), form=JsonLines("run 1", details=True))
    log(quoting, "a fault")
    log_to(logging.FileHandler(tmp_path / "text"))
    event("nobody reads this")
    warned, fault, later, last = map(json.loads, (tmp_path / "log").read_text().splitlines())
    assert (warned["message"], warned["imaging.series_key"]) == ("nibabel.py:3: UserWarning", "k")
    assert (fault["imaging.stage"], fault["error.type"], fault["log.level"]) == ("write", "ValueError", "error")
    assert "test_monitoring.py" in fault["error.stack_trace"]
    assert "NAMEMARK" not in (tmp_path / "log").read_text()
    assert "NAMEMARK" in json.loads((tmp_path / "detailed").read_text().splitlines()[-1])["error.stack_trace"]
    assert (later["imaging.code"], "imaging.stage" in later) == ("write-failed", False)
    assert (last["imaging.seconds"], last["imaging.exit_code"], "imaging.code" in last) == (0.0, 0, False)
    assert "nobody reads this" not in (tmp_path / "text").read_text()


@pytest.mark.usefixtures("logging_as_it_was")
def test_a_log_whose_disk_is_gone_stops_nobody(tmp_path: Path) -> None:
    log_to(LogFile(tmp_path / "gone" / "run.jsonl"), form=JsonLines("run 1"))
    event("done")
    log(ValueError(), "a fault")
    (tmp_path / "gone").mkdir()
    event("back again")
    assert json.loads((tmp_path / "gone" / "run.jsonl").read_text())["message"] == "back again"


def job_in(folder: Path, settings: Settings) -> Job:
    out = LocalStore(root=folder)
    layout.open_results(out)
    return Job(out=out, run_id="r", settings=settings, bundle=None)


def one_night(job: Job, *, n_windows: int = 10, error: BaseException | None = None) -> dict[tuple[str, str], float]:
    """Samples of the file after a run of two series, one of which fails; the label that says most beside each name."""
    tasks = Shelf.of(PackedTask, (packed_task(replace(task_of(n), arrived_at=1e9 + n)) for n in range(3)))
    flag = Flag(code=FlagCode.CUT_OFF, message="", hint="")
    seconds = {"decode": 0.2, "network": 3.0}
    done = result("0000", stage_seconds=seconds, windows_total=n_windows, windows_skipped=4, flags=(flag, flag))
    failed = result("0001", status=Status.FAILED, reason_code="decode-failed", stage_seconds={"decode": 0.1})
    said: list[str] = []
    try:
        with observing(job, said.append, lambda _: 2) as observer:
            observer.looked(tasks, 5, Shelf.of(PackedSkip, ()), 1)
            observer.finished(replace(done, device="cuda:1", backend="torch", peak_device_mb=3.0, shape=(2, 3, 4)))
            observer.finished(failed)
            if error is not None:
                raise error
            observer.ended(Tally(already_done=5), 4)
    except ValueError:
        assert error is not None
    samples = samples_in((job.out.read("metrics.prom")).decode())
    return {
        (name.removeprefix("imaging_pipeline_"), _telling(dict(labels))): x for (name, labels), x in samples.items()
    }


def _telling(labels: dict[str, str]) -> str:
    return labels.get("le") or next((text for _, text in sorted(labels.items()) if text), "")


def test_counters_go_on_from_night_to_night_and_what_is_of_now_is_of_now(tmp_path: Path, settings: Settings) -> None:
    job = job_in(tmp_path, settings)
    first, second = one_night(job), one_night(job)
    for night, samples in enumerate((first, second), 1):
        assert samples["series_processed_total", "done"] == samples["series_processed_total", "decode-failed"] == night
        assert (samples["windows_total", "run"], samples["windows_total", "skipped"]) == (6 * night, 4 * night)
        assert samples["series_resumed_total", ""] == 5 * night
        assert samples["series_flagged_total", "cut-off"] == samples["runs_total", "4"] == night
        assert samples["series_on_device_total", "torch"] == night
        assert samples["input_bytes_total", ""] == 2 * night * task_of(0).size_bytes
        assert samples["series_seconds_count", ""] == samples["series_seconds_bucket", "5.0"] == night
        assert samples["series_seconds_bucket", "2.5"] == 0
        assert (samples["queue_series", ""], samples["oldest_unprocessed_timestamp_seconds", ""]) == (1, 1e9 + 2)
        assert samples["series_found", "given-up"] == 1
    broken = one_night(job, error=ValueError("gone"))
    assert (broken["last_run_exit_code", ""], broken["runs_total", "2"], broken["runs_total", "4"]) == (2, 1, 2)


def test_two_results_of_one_machine_have_names_and_each_goes_on_counting(tmp_path: Path, settings: Settings) -> None:
    named = settings.model_copy(update={"metrics": MetricsSettings(name="ct")})
    job = job_in(tmp_path, named)
    one_night(job)
    assert one_night(job)["runs_total", "4"] == 2
    lines = [line for line in job.out.read("metrics.prom").decode().splitlines() if not line.startswith("#")]
    assert lines
    assert all('results="ct"' in line for line in lines)


def test_a_file_of_another_version_or_of_nobody_starts_counting_anew(tmp_path: Path, settings: Settings) -> None:
    job = job_in(tmp_path, settings)
    one_night(job)
    other = (
        job.out.read("metrics.prom")
        .replace(b'le="2.5"', b'le="3.0"')
        .replace(b"windows_total{kind", b"windows_total{way")
    )
    job.out.publish("metrics.prom", other)
    again = one_night(job)
    assert (again["series_seconds_count", ""], again["windows_total", "run"]) == (1, 6)
    assert again["series_processed_total", "done"] == 2
    for rubbish in (
        b"\xff\xfe",
        b"imaging_pipeline_runs_total{",
        b"",
        b'imaging_pipeline_runs_total{exit_code="4"} NaN\n',
    ):
        job.out.publish("metrics.prom", rubbish)
        assert one_night(job)["runs_total", "4"] == 1


def test_metrics_that_cannot_be_had_cost_nothing_but_themselves(
    tmp_path: Path, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = settings.model_copy(update={"metrics": MetricsSettings(textfile=tmp_path / "none" / "x.prom")})
    assert one_night(job_in(tmp_path / "a", nowhere))["runs_total", "4"] == 1
    assert "metrics cannot be written" in caplog.text

    class Broken(Observer):
        def finished(self, result: object) -> None:
            raise RuntimeError("a fault in here")

    off = settings.model_copy(update={"metrics": MetricsSettings(enabled=False)})
    job = job_in(tmp_path / "b", off)
    with observing(job, print, lambda _: 1) as observer:
        observer._observers.append(Broken())  # type: ignore[attr-defined]
        observer.finished(result())
    assert "an observer of the run failed" in caplog.text
    assert not job.out.exists("metrics.prom")


def test_a_port_that_is_taken_is_said_and_the_run_goes_on() -> None:
    said: list[str] = []
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with serving(CollectorRegistry(), MetricsSettings(port=taken.getsockname()[1]), said.append):
            said.append("the run")
    assert said[0].endswith("Address already in use; the run goes on without")
    assert said[1] == "the run"


def test_the_reference_of_metrics_is_the_code_s(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "how-to" / "monitoring.md").read_text()
    assert reference(LocalStore(root=tmp_path)) in text
