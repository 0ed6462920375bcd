"""The report's three files: complete, escaped, self-contained, and as documented."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
from markdown_it import MarkdownIt

from harness.config import ExperimentConfig, RankingConfig
from harness.rank_cells import rank
from harness.records import CellResult, Generation
from harness.reports.report_json import SCHEMA_FILE, Report, report_schema
from harness.reports.write import write_reports
from harness.store import ExperimentFolder, write_lines
from tests.helpers import cell_result, suite_result
from tests.reported import HOSTILE, hostile_report


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Name of every text file of the hostile experiment's report -> its content."""
    written = hostile_report(tmp_path_factory.mktemp("hostile"))
    return {path.name: path.read_text(encoding="utf-8") for path in written if path.suffix != ".png"}


def experiment(**changes: object) -> ExperimentConfig:
    return ExperimentConfig.model_validate(
        {"name": "x", "model": {"name": "m"}, "data": {"train": "t"}, "ranking": RankingConfig(gates=()), **changes}
    )


def test_answer_beside_a_mean_of_samples_is_the_first(tmp_path: Path) -> None:
    folder, suite = ExperimentFolder(tmp_path), suite_result("held_out", {"exact_match": [0.5, 1.0]})
    cells = [cell_result("one", suite), cell_result("two", suite)]
    for cell in cells:
        samples = [
            Generation(
                example_id="e0", prompt="?", text=f"answer {sample}", stop_reason="end_of_turn", prompt_tokens=1,
                completion_tokens=1, sample=sample,
            )
            for sample in range(3)
        ]  # fmt: skip
        write_lines(folder.cell(cell.cell).generations("held_out", "d"), samples)
    config = experiment()
    ranking = rank("x", config.ranking, cells, [], {})
    html = write_reports(config, folder, ranking, cells, [], {})[0].read_text()
    assert "answer 0" in html
    assert "answer 2" not in html


def test_charts_are_written_beside_the_report(tmp_path: Path) -> None:
    names = [path.name for path in hostile_report(tmp_path)]
    assert names[:3] == ["report.html", "report.md", "report.json"]
    assert {"ranking.svg", "ranking.png", "curves.svg", "curves.png"} <= set(names)


def test_hostile_text_is_escaped_in_the_page(files: dict[str, str]) -> None:
    html = files["report.html"]
    outside = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
    assert "<img" not in outside
    assert "&lt;img src=x onerror=" in outside
    assert outside.count("<script") == 2  # the two islands of data
    assert "\u202e" not in html
    assert "[U+202E]desrever" in html


def test_islands_of_data_are_json_that_ends_where_it_should(files: dict[str, str]) -> None:
    islands = dict(re.findall(r'<script type="application/json" id="(\w+)">(.*?)</script>', files["report.html"]))
    answers = json.loads(islands["answers"])
    assert (
        HOSTILE.replace("\x1b", "[U+001B]").replace("\u202e", "[U+202E]")
        in answers["suites"][0]["examples"][-1]["prompt"]
    )
    assert "ranking" in json.loads(islands["specs"])


def test_report_needs_no_network(files: dict[str, str]) -> None:
    markup = re.sub(r"<script>.*?</script>", "", files["report.html"], flags=re.DOTALL)
    assert not re.search(r'\s(src|href)="(?!#)', markup)
    assert "default-src &#39;none&#39;" in markup
    assert len(files["report.html"]) < 3_000_000


def test_markdown_keeps_hostile_text_as_text(files: dict[str, str]) -> None:
    rendered = MarkdownIt("commonmark", {"html": True}).enable("table").render(files["report.md"])
    elements = set(re.findall(r"<(\w+)", rendered))
    assert elements == {"h1", "h2", "p", "strong", "code", "ul", "li", "table", "thead", "tbody", "tr", "th", "td"}
    rows = [len(re.findall("<t[dh]", row)) for row in re.findall(r"<tr>.*?</tr>", rendered, re.DOTALL)]
    assert len(set(rows)) == 2  # two tables, each with as many columns in every row


def test_page_and_markdown_state_answer_reasons_and_findings(files: dict[str, str]) -> None:
    for text in (files["report.html"], files["report.md"]):
        assert "failed while training" in text
        assert "memorization" in text
        assert "as far as one seed can tell" in text
        assert "harness promote 0000000000aa --as hostile" in text
        assert "harness run hostile.yaml --confirm" in text


def test_json_is_as_its_schema_says(files: dict[str, str]) -> None:
    content = json.loads(files["report.json"])
    jsonschema.validate(content, json.loads(SCHEMA_FILE.read_text(encoding="utf-8")))
    assert content["schema_version"] == 1
    assert [run["status"] for run in content["runs"]] == ["finished", "finished", "failed"]
    assert Report.model_validate(content).ranking.experiment == "hostile"


def test_shipped_schema_is_that_of_the_code() -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == report_schema(), (
        "write it anew: python -m harness.reports.report_json > harness/reports/report.schema.json"
    )


def test_suites_under_other_names_have_their_place(files: dict[str, str]) -> None:
    assert "form.<wbr>all" in files["report.html"]
    assert "Template adherence by kind of prompt" in files["report.html"]


def test_report_of_nothing_ranked_says_so(tmp_path: Path) -> None:
    cells = [cell_result("broken", status="failed")]
    config = experiment()
    ranking = rank("x", config.ranking, cells, [], {})
    html, markdown = (path.read_text() for path in write_reports(config, ExperimentFolder(tmp_path), ranking, cells, [], {})[:2])  # fmt: skip
    for text in (html, markdown):
        assert "nothing is recommended" in text
        assert "failed while training: it broke" in text


def test_predictions_alone_are_reported_without_talk_of_training(tmp_path: Path) -> None:
    suite = suite_result("held_out", {"exact_match": [float(i % 3 > 0) for i in range(40)]})
    other = suite_result("held_out", {"exact_match": [float(i % 3 > 1) for i in range(40)]})
    rows: list[CellResult] = [
        cell_result(name, found, seed=None).model_copy(update={"reference": "predictions"})
        for name, found in (("ours", suite), ("theirs", other))
    ]
    references = [{"name": "ours", "predictions": "a.jsonl"}, {"name": "theirs", "predictions": "b.jsonl"}]
    config = experiment(model={}, data={}, references=references, evals=["held_out"])
    ranking = rank("x", config.ranking, rows, [], {})
    html = write_reports(config, ExperimentFolder(tmp_path), ranking, rows, [], {})[0].read_text()
    words = re.sub(r"<script.*?</script>|<wbr>", "", html, flags=re.DOTALL)
    assert "ours is best" in words
    assert "--confirm" not in words
    assert "harness promote" not in words.split("<nav")[0]
