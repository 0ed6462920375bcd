"""The report: self-contained, escaped, and complete."""

import re
from pathlib import Path

from harness.config import ExperimentConfig, RankingConfig
from harness.rank_cells import rank
from harness.records import Generation, TracePoint
from harness.reports.write import write_reports
from harness.store import ExperimentFolder, write_lines
from tests.helpers import cell_result, coin, error_finding, suite_result

HOSTILE = '</script><script>alert("x")</script><img src=x onerror=alert(1)>'


def written(tmp_path: Path, name: str) -> tuple[str, str]:
    folder = ExperimentFolder(tmp_path)
    suites = (
        suite_result("held_out", {"exact_match": coin(0.6, 40, 1)}),
        suite_result("retention", {"accuracy": coin(0.9, 40, 2)}),
    )
    cells = [cell_result(name, *suites), cell_result("other", *suites), cell_result("broken", status="failed")]
    base = cell_result("base", *suites, seed=None)
    for cell in (*cells[:2], base):
        generations = [
            Generation(
                example_id=f"e{i}",
                prompt=HOSTILE,
                text=HOSTILE,
                stop_reason="length",
                prompt_tokens=3,
                completion_tokens=4,
            )
            for i in range(40)
        ]
        write_lines(folder.cell(cell.cell).generations("held_out", "d"), generations)
        points = [
            TracePoint(step=i, epoch=0.1, seconds=i, values={"loss": 3.0 / (i + 1), "eval_loss": "nan"})
            for i in range(20)
        ]
        write_lines(folder.cell(cell.cell).trace, points)
    findings = {cells[0].cell: (error_finding(),)}
    ranking = rank("x", RankingConfig(gates=()), cells, [base], findings)
    config = ExperimentConfig(name="x", description=HOSTILE, model={"name": "m"}, data={"train": "t"})
    html, markdown, _ = write_reports(config, folder, ranking, cells, [base], findings)
    return html.read_text(), markdown.read_text()


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
    ranking = rank("x", RankingConfig(gates=()), cells, [], {})
    config = ExperimentConfig(name="x", model={"name": "m"}, data={"train": "t"})
    html = write_reports(config, folder, ranking, cells, [], {})[0].read_text()
    assert "answer 0" in html
    assert "answer 2" not in html


def test_hostile_text_is_escaped_everywhere(tmp_path: Path) -> None:
    html, markdown = written(tmp_path, HOSTILE.replace("/", "_"))
    body, _, scripts = html.partition('<script type="application/json"')
    assert "<img src=x" not in html
    assert '<script>alert("x")' not in html
    assert "&lt;img src=x onerror=alert(1)&gt;" in body
    assert "<img src=x" not in markdown
    assert scripts


def test_report_needs_no_network(tmp_path: Path) -> None:
    html, _ = written(tmp_path, "mine")
    markup = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
    assert not re.search(r'(src|href)="(https?:)?//', markup)
    assert not re.search(r"<(link|script)[^>]+(src|href)=", markup)
    assert len(html) < 3_000_000


def test_report_states_answer_reasons_and_findings(tmp_path: Path) -> None:
    html, markdown = written(tmp_path, "mine")
    for text in (html, markdown):
        assert "failed while training: it broke" in text
        assert "The loss went up." in text
        assert "Seed variance unknown" in text
    assert "can&#39;t be told apart" in html
    assert html.count("<svg") >= 2
