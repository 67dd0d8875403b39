"""The viewer: who may ask it for what, by plain HTTP; and what a real browser shows."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from deltalake import DeltaTable

from imaging_pipeline.results.index import open_index
from imaging_pipeline.results.reviews import latest_reviews
from imaging_pipeline.stores import LocalStore
from imaging_pipeline.viewer import library
from imaging_pipeline.viewer.guard import Guard
from imaging_pipeline.viewer.server import open_server
from imaging_pipeline.viewer.shown import Shown
from tests import browser
from tests.results_made import MODEL, made_results, result_of

KEY = f"{0:016x}"
REVIEW = {"key": KEY, "model": MODEL, "verdict": "accept", "comment": "good"}
SCRIPT = "<script>document.title='taken over'</script>"
missing = browser.missing() or ("" if library.SCRIPT.is_file() else "NiiVue is not here: make viewer")


@dataclass(frozen=True)
class Served:
    """A viewer that answers."""

    out: LocalStore
    guard: Guard

    def ask(
        self, path: str, method: str = "GET", body: object = None, **headers: str
    ) -> tuple[int, bytes, dict[str, str]]:
        """One request with the cookie, unless other headers are given; underscores stand for hyphens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.guard.port, timeout=10)
        own = {"Cookie": self.guard.cookie.partition(";")[0]}
        if method == "POST":
            own |= {"Origin": f"http://127.0.0.1:{self.guard.port}", "Content-Type": "application/json"}
        told = {**own, **{name.replace("_", "-"): value for name, value in headers.items()}}
        connection.request(
            method, path, None if body is None else json.dumps(body), {k: v for k, v in told.items() if v}
        )
        answer = connection.getresponse()
        return answer.status, answer.read(), dict(answer.headers)


def _serve(out: LocalStore, script: bytes) -> Iterator[Served]:
    server, guard = open_server(Shown(out, "Dr. Test"), script)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Served(out, guard)
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    out = made_results(tmp_path_factory.mktemp("served"), 6, description=SCRIPT, images=True)
    yield from _serve(out, library.SCRIPT.read_bytes() if library.SCRIPT.is_file() else b"")


def test_the_address_with_its_token_gives_a_cookie_that_no_script_and_no_other_site_gets(served: Served) -> None:
    status, _, headers = served.ask(f"/?token={served.guard.token}", Cookie="")
    assert status == 200
    assert {"HttpOnly", "SameSite=Strict"} <= set(headers["Set-Cookie"].split("; "))
    assert served.ask("/")[0] == 200
    for cookie in ("", "viewer=1", f"viewer-{served.guard.port}=guess"):
        assert served.ask("/api/series", Cookie=cookie)[0] == 403
    assert served.ask("/?token=guess", Cookie="")[0] == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},  # a name that somebody lets point to this machine
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:1"},  # another server of this machine
        {"Origin": "null"},
        {"Origin": ""},  # a review without an origin is no browser's
    ],
)
def test_a_review_that_another_site_sends_is_refused(served: Served, headers: dict[str, str]) -> None:
    assert served.ask("/api/reviews", "POST", REVIEW, **headers)[0] == 403
    assert not latest_reviews(served.out)


def test_a_form_of_another_kind_and_a_huge_body_are_refused(served: Served) -> None:
    assert served.ask("/api/reviews", "POST", REVIEW, Content_Type="text/plain")[0] == 415
    assert served.ask("/api/reviews", "POST", {**REVIEW, "comment": "x" * 70_000})[0] == 413
    assert served.ask("/api/series", Sec_Fetch_Site="cross-site")[0] == 403


def test_files_are_found_by_series_alone_and_no_path_leads_out_of_results(served: Served) -> None:
    status, content, headers = served.ask(f"/files/{KEY}/{MODEL}/mask")
    assert (status, content[:2]) == (200, b"\x1f\x8b")
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    for path in (
        "/../identity.key",
        "/viewer.js/../../guard.py",
        "/files/../../identity.key",
        "/files/..%2f..%2fidentity.key/x/mask",
        f"/files/{KEY}/{MODEL}/..%2f..%2f..%2frun.json",
        f"/files/{KEY}/{MODEL}/key",
        "//etc/passwd",
    ):
        assert served.ask(path)[0] == 404


def test_a_path_in_an_index_that_somebody_changed_does_not_lead_out_of_results_either(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    out = made_results(tmp_path / "results", 1)
    for path in ("../secret", str(tmp_path / "secret")):
        open_index(out, "delta").commit([replace(result_of(0, ""), mask_path=path)])
        assert Shown(out, "x").file(KEY, MODEL, "mask") is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"verdict": "maybe"}, "accept or reject"),
        ({"key": "unknown"}, "no such series is done"),
        ({"key": f"{3:016x}"}, "no such series is done"),
        ({"comment": 7}, "text of at most 2000"),
        ({"model": ["x"]}, "no such series is done"),
    ],
)
def test_a_review_that_makes_no_sense_is_refused_with_a_reason(
    served: Served, change: dict[str, object], words: str
) -> None:
    status, content, _ = served.ask("/api/reviews", "POST", {**REVIEW, **change})
    assert status == 400
    assert words in json.loads(content)["error"]


def test_without_the_library_for_drawing_the_command_names_what_fetches_it(tmp_path: Path, monkeypatch, capsys) -> None:
    from imaging_pipeline import view

    monkeypatch.setattr(library, "SCRIPT", tmp_path / "none.js")
    assert view.main([str(tmp_path)]) == 2
    assert "make viewer" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(bool(missing), reason=missing or "all is here")
def test_image_and_mask_are_drawn_next_goes_on_and_a_review_is_in_the_delta_table(served: Served) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    with browser.chromium(1200, 800) as driver:
        driver.get(served.guard.url)
        drawn = "return (document.getElementById('canvas') || {dataset: {}}).dataset.drawn || ''"
        WebDriverWait(driver, 40).until(lambda d: d.execute_script(drawn).endswith(" 2"))
        first = driver.execute_script(drawn)
        assert driver.title == "Viewer of results"
        assert SCRIPT in driver.find_element("id", "title").text

        def pixels() -> dict[str, int]:
            """Of the canvas, just after a drawing of it: bright ones, and those tinted green and magenta."""
            return driver.execute_async_script(
                "const done = arguments[0], c = document.getElementById('canvas');"
                "const slider = document.getElementById('opacity');"
                "slider.dispatchEvent(new Event('input'));"
                "const gl = c.getContext('webgl2'), p = new Uint8Array(c.width * c.height * 4);"
                "gl.readPixels(0, 0, c.width, c.height, gl.RGBA, gl.UNSIGNED_BYTE, p);"
                "const n = {bright: 0, green: 0, magenta: 0};"
                "for (let i = 0; i < p.length; i += 4) { const [r, g, b] = [p[i], p[i + 1], p[i + 2]];"
                "n.bright += r > 60; n.green += g > r + 60 && g > b + 60; n.magenta += r > g + 60 && b > g + 60; }"
                "done(n);"
            )

        seen = pixels()
        assert seen["bright"] > 5000
        assert seen["green"] > 100
        assert seen["magenta"] > 300
        driver.find_element("css selector", "#labels input").click()  # the core is hidden
        assert pixels()["green"] < seen["green"] / 4
        driver.find_element("id", "comment").send_keys("well <b>drawn</b>")
        driver.find_element("id", "accept").click()
        WebDriverWait(driver, 20).until(lambda d: d.find_element("id", "saved").text == "saved: accept")
        assert driver.find_element("id", "review").text == "accepted by Dr. Test: well <b>drawn</b>"
        driver.find_element("id", "next").click()
        WebDriverWait(driver, 20).until(
            lambda d: d.execute_script(drawn).endswith(" 2") and d.execute_script(drawn) != first
        )
    [row] = DeltaTable(str(served.out.root / "reviews")).to_pyarrow_table().to_pylist()
    told = (row["series_key"], row["model_name"], row["verdict"], row["comment"], row["reviewer"])
    assert told == (first.split()[0], MODEL, "accept", "well <b>drawn</b>", "Dr. Test")
    assert row["reviewed_at"].year >= 2026
