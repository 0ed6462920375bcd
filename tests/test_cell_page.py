"""What `harness show` prints of a cell."""

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.cli.tables import cell_page
from harness.records import Generation, SuiteResult
from harness.stats import estimate
from harness.store import CellFolder, write_lines
from harness.targets import FoundCell
from tests.helpers import cell_result, suite_result

Show = Callable[[SuiteResult, list[Generation]], str]


@pytest.fixture
def show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Show:
    def _show(suite: SuiteResult, generations: list[Generation]) -> str:
        folder = CellFolder(tmp_path)
        write_lines(folder.generations(suite.suite, suite.digest), generations)
        cell_page(FoundCell(cell_result("mine", suite), folder, ()), 2)
        return capsys.readouterr().out

    return _show


def drawn(example: str, sample: int) -> Generation:
    return Generation(
        example_id=example, prompt="?", text=f"{example} {sample}", stop_reason="end_of_turn", prompt_tokens=1,
        completion_tokens=1, sample=sample,
    )  # fmt: skip


def test_generations_are_of_different_examples(show: Show) -> None:
    drawn_often = [drawn(example, sample) for example in ("a", "b", "c") for sample in range(3)]
    shown = show(suite_result("held_out", {"exact_match": [1.0, 0.0]}), drawn_often)
    assert "'a 0'" in shown and "'b 0'" in shown
    assert "'a 1'" not in shown and "'c 0'" not in shown


def test_kinds_of_prompts_have_a_line_each(show: Show) -> None:
    kinds = {"all.json_schema": estimate([1.0] * 60), "end_of_turn.json_schema": estimate([1.0] * 60)}
    suite = suite_result("form", {"all": [1.0, 0.0]}).model_copy(
        update={"kind": "template_adherence", "slice_metrics": kinds}
    )
    shown = show(suite, [])
    # The Wilson interval of 60 of 60: 60 / (60 + 1.96^2) = 0.940.
    assert "all.json_schema: 1.000 [0.940, 1.000] n=60" in shown
    assert "end_of_turn.json_schema" not in shown
    assert "json_schema" not in show(suite_result("held_out", {"exact_match": [1.0]}), [])
