"""The page of a comparison: self-contained, escaped, and complete."""

import re
from pathlib import Path

import pytest

from harness.comparison import compare
from harness.reports.compare_page import as_html, write_comparison
from harness.reports.drawing import vega_bundle
from tests.comparisons import trained, write_cell

HOSTILE = '</script><script>alert("x")</script><img src=x onerror=alert(1)>\u202e\x00'
NAME = "<script>alert(1)</script>"
SCORES = {"held_out": {"exact_match": [1.0] * 8 + [0.0] * 2}}
OTHERS = {"held_out": {"exact_match": [0.0] * 8 + [1.0] * 2}}


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def without_library(html: str) -> str:
    """The page without Vega, which is a megabyte of other people's script."""
    return html.replace(str(vega_bundle()), "")


def test_hostile_text_is_shown_and_never_run() -> None:
    write_cell("x", NAME, SCORES, train=trained(), texts=[HOSTILE] * 10)
    write_cell(
        "x", "other", OTHERS, config={"training": {"learning_rate": 0.1}, "template": {"name": NAME}}, train=trained()
    )
    html = without_library(as_html(compare([NAME, "other"])))
    assert "<img" not in html
    assert 'alert("x")</script>' not in html
    assert NAME not in html
    assert "&lt;img src=x" in html
    assert "[U+202E][U+0000]" in html
    assert html.count("<script") == html.count("</script>") == 3
    html.encode("utf-8")


def test_page_needs_no_network() -> None:
    write_cell("x", "one", SCORES, train=trained())
    write_cell("x", "other", OTHERS, train=trained())
    html = as_html(compare(["one", "other"]))
    assert "default-src 'none'" in html
    assert not re.search(r"""(?:src|href)=["'](?!#)""", without_library(html))


def test_words_that_differ_are_marked_in_both_answers() -> None:
    write_cell("x", "one", SCORES, texts=["the <b>blue</b> house stands"] * 10)
    write_cell("x", "other", OTHERS, texts=["the <b>green</b> house stands"] * 10)
    html = as_html(compare(["one", "other"]))
    assert "the &lt;b&gt;<mark>blue</mark>&lt;/b&gt; house stands" in html
    assert "the &lt;b&gt;<mark>green</mark>&lt;/b&gt; house stands" in html


def test_page_says_what_is_known(tmp_path: Path) -> None:
    config = {"training": {"learning_rate": 0.25}}
    write_cell("x", "one", SCORES, config=config, train=trained())
    write_cell("x", "other", OTHERS, train=trained())
    write_cell("x", "few", {"held_out": {"exact_match": [1.0, 0.0]}}, train=trained())
    write_comparison(compare(["one", "other", "few"]), tmp_path / "sub" / "page.html")
    html = (tmp_path / "sub" / "page.html").read_text()
    assert "one is held against each of the others" in html
    assert "0.25" in html
    assert "not set" in html
    assert "too few" in html
    assert "Seed variance unknown" in html
    assert "supervised tokens seen" in html
    assert "<svg" in html


def test_page_without_curves_has_no_script() -> None:
    write_cell("x", "one", SCORES)
    write_cell("x", "other", OTHERS)
    assert "<script" not in as_html(compare(["one", "other"]))
