"""report.html, as text and in a real browser."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from imaging_pipeline.results.page import write_report
from tests import browser
from tests.results_made import made_results

needs_browser = pytest.mark.skipif(bool(browser.missing()), reason=browser.missing() or "a browser is here")
SCRIPT = "<script>document.title='taken over'</script>"


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = made_results(tmp_path_factory.mktemp("thousand"), 1000, description=SCRIPT)
    assert write_report(out, 10_000) == 1000
    return out.root / "report.html"


@pytest.fixture(scope="module")
def chromium() -> Iterator:
    with browser.chromium() as driver:
        yield driver


def test_a_description_that_is_a_script_is_text_on_the_page_and_patients_are_not_on_it(thousand: Path) -> None:
    page = thousand.read_text()
    assert SCRIPT not in page
    assert "taken over" in page
    for identifying in ("5ub", "1.2.3"):
        assert identifying not in re.sub(r'"(preview|mask|image)": "[^"]*"', "", page)  # paths are links


def test_the_page_asks_for_nothing_from_anywhere(thousand: Path) -> None:
    page = thousand.read_text()
    assert "default-src &#39;none&#39;" in page
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", page)


def test_pictures_can_be_put_into_the_page_itself(tmp_path: Path) -> None:
    out = made_results(tmp_path, 2)
    write_report(out, 10, embed=True)
    data = json.loads(re.search(r'id="data">(.*?)</script>', (tmp_path / "report.html").read_text()).group(1))
    [(path, picture)] = data["pictures"].items()
    assert base64.b64decode(picture.partition(",")[2]) == (tmp_path / path).read_bytes()


def test_a_page_that_cannot_hold_all_series_holds_those_that_need_a_look_and_says_so(tmp_path: Path) -> None:
    out = made_results(tmp_path, 24)
    write_report(out, 3)
    page = (tmp_path / "report.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', page).group(1))
    assert [row["status"] for row in data["rows"]] == ["failed", "failed", "done"]
    assert data["rows"][2]["flags"][0]["code"] == "label-missing"
    assert "3 of 24 series" in page


def test_without_results_the_command_says_what_to_name(tmp_path: Path, pipeline) -> None:
    done = pipeline(tmp_path, module="report")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "name a RESULTS" in done.err


@pytest.mark.slow
@needs_browser
def test_a_thousand_series_are_there_at_once_and_can_be_sorted_filtered_searched_and_opened(
    thousand, chromium, record_property
) -> None:
    chromium.get(thousand.as_uri())
    run = chromium.execute_script
    paint = chromium.execute_async_script(
        "const done = arguments[0];"
        "new PerformanceObserver(list => done(list.getEntries().at(-1).startTime))"
        ".observe({type: 'paint', buffered: true})"
    )
    record_property("first_paint_ms", paint)
    ready = run("return document.documentElement.dataset.ready")
    print(f"1000 series: first paint after {paint:.0f} ms, table after {ready} ms")
    assert chromium.title == "Results: 1000 series"
    count = lambda: run("return document.getElementById('count').textContent")  # noqa: E731
    assert count() == "1000 of 1000 series"
    assert len(chromium.find_elements("css selector", "#table tbody tr.row")) == 50
    header = chromium.find_element("css selector", "th[data-sort=volume]")
    header.find_element("tag name", "button").click()
    assert header.get_attribute("aria-sort") == "descending"
    cells = [float(cell.text) for cell in chromium.find_elements("css selector", "#table tbody tr td:nth-child(7)")]
    assert cells == sorted(cells, reverse=True)
    assert cells[0] > cells[-1]
    run("const s = document.getElementById('flag'); s.value = 'label-missing'; s.dispatchEvent(new Event('input'))")
    assert count() == "83 of 1000 series"
    run(
        "const s = document.getElementById('search'); s.value = '0000000000000005'; s.dispatchEvent(new Event('input'))"
    )
    assert count() == "1 of 1000 series"
    chromium.find_element("css selector", ".key").send_keys("\n")  # by keyboard
    told = chromium.find_element("css selector", "tr.detail").text
    assert "label-missing: not found: rim" in told
    assert "members agree 0.50" in told
    assert "1 \N{MULTIPLICATION SIGN} 1 \N{MULTIPLICATION SIGN} 1.5 mm" in told
    assert SCRIPT in chromium.find_element("css selector", "#table tbody tr td:nth-child(3)").text
    picture = (
        "const i = document.querySelector('tr.detail img'); i.loading = 'eager';"
        "return i.decode().then(() => i.naturalWidth)"
    )
    assert run(picture) > 300
    assert not [line for line in chromium.get_log("browser") if line["level"] == "SEVERE"]
