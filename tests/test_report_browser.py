"""The report in a real browser: hostile text runs nothing, filters work, a sandboxed frame shows it."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import CHROMIUM, Browser
from tests.reported import HOSTILE, hostile_report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; install chromium to test the page in it")
TITLE = f"hostile: Which {HOSTILE[:60]}"
SCROLL = """(async () => {
  for (let y = 0; y < document.body.scrollHeight; y += 400) { scrollTo(0, y); await new Promise((done) => setTimeout(done, 30)); }
})()"""
ACTIVE = """[...document.querySelectorAll("*")].filter((element) => element.tagName === "IMG"
  || [...element.attributes].some((a) => a.name.startsWith("on") || /^\\s*javascript:/i.test(a.value) && a.name === "href")).length"""
SET = """(id, value) => { const field = document.getElementById("filter-" + id); field.value = value;
  field.dispatchEvent(new Event(id === "text" ? "input" : "change")); }"""
COUNT = 'parseInt(document.getElementById("filter-count").textContent)'


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """report.html of the hostile experiment."""
    return hostile_report(tmp_path_factory.mktemp("hostile"))[0]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all tests."""
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def complaints(browser: Browser) -> list[str]:
    """What the console said; Vega warns of a chart without any number."""
    return [text for text in browser.complaints if "WARN" not in text]


def without_policy(report: Path) -> Path:
    page, count = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", report.read_text(encoding="utf-8"))
    assert count == 1
    path = report.with_name("unguarded.html")
    path.write_text(page, encoding="utf-8")
    return path


@pytest.mark.parametrize("guarded", [True, False], ids=["with policy", "escaping alone"])
def test_hostile_text_runs_nothing(browser: Browser, report: Path, guarded: bool) -> None:
    browser.open(report if guarded else without_policy(report))
    browser.evaluate('document.querySelectorAll("details").forEach((details) => { details.open = true; })')
    browser.evaluate(SCROLL)
    assert browser.evaluate("document.title").startswith(TITLE)
    assert browser.evaluate(ACTIVE) == 0


def test_policy_stops_a_script_that_got_in(browser: Browser, report: Path) -> None:
    page, _, rest = report.read_text(encoding="utf-8").rpartition("</body>")
    path = report.with_name("broken_into.html")
    path.write_text(
        f"{page}<script>document.title = 'ran'</script><img src=x onerror=\"document.title = 'ran'\"></body>{rest}"
    )
    browser.open(path)
    assert browser.evaluate("document.title").startswith(TITLE)
    assert any("Content Security Policy" in text for text in browser.complaints)


def test_all_charts_are_drawn_without_complaints(browser: Browser, report: Path) -> None:
    browser.open(report)
    browser.evaluate(SCROLL)
    browser.wait_for(
        'document.querySelectorAll(".chart").length === document.querySelectorAll(".chart[role=group] svg").length'
    )
    assert browser.evaluate('document.querySelectorAll(".chart").length') >= 3
    assert complaints(browser) == []


def test_filters_narrow_the_examples(browser: Browser, report: Path) -> None:
    browser.open(report)
    browser.evaluate(f"window.set = {SET}")
    every = browser.evaluate(COUNT)
    browser.evaluate('set("run", "0"); set("result", "wrong")')
    wrong = browser.evaluate(COUNT)
    browser.evaluate('set("result", "right")')
    assert wrong + browser.evaluate(COUNT) == every
    assert 0 < wrong < every
    browser.evaluate('set("result", ""); set("text", "no such words")')
    browser.wait_for(f"{COUNT} === 0")
    browser.evaluate('set("text", "E5")')
    assert 0 < browser.wait_for(COUNT) < every


def test_more_examples_are_shown_on_demand(browser: Browser, report: Path) -> None:
    browser.open(report)
    length = 'document.querySelectorAll("#answer-list > details").length'
    first = browser.evaluate(length)
    browser.evaluate('document.getElementById("more-answers").click()')
    assert browser.evaluate(length) == 2 * first


def test_page_works_in_a_sandboxed_frame(browser: Browser, report: Path) -> None:
    frame = report.with_name("frame.html")
    frame.write_text(f'<iframe sandbox="allow-scripts" src="{report.as_uri()}" width="1200" height="3000"></iframe>')
    browser.open(frame)
    browser.wait_for("window.origin === 'null' && document.readyState === 'complete'", in_frame=True)
    browser.evaluate(SCROLL)
    browser.wait_for('document.querySelectorAll(".chart[role=group] svg").length > 0', in_frame=True)
    browser.evaluate("document.querySelector('nav a[href=\"#generations\"]').click()", in_frame=True)
    assert browser.evaluate("document.activeElement.id", in_frame=True) == "generations"
    assert browser.evaluate("document.querySelectorAll('#answer-list > details').length", in_frame=True) == 10
    assert complaints(browser) == []


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window(browser: Browser, report: Path, width: int, scheme: str) -> None:
    browser.resize(width, 844)
    browser.open(report, prefers_color_scheme=scheme)
    browser.evaluate('document.querySelectorAll("details").forEach((details) => { details.open = true; })')
    browser.evaluate(SCROLL)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    paper = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(21, 24, 28)")
