"""What `harness show` prints of a cell."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli.cell_page import cell_page
from harness.cli.main import main
from harness.records import Example, Generation, Score, SuiteResult
from harness.stats import estimate
from harness.store import CellFolder, experiment_folder, write_lines, write_record, write_text
from harness.targets import FoundCell
from tests.comparisons import write_cell
from tests.helpers import cell_result, suite_result

Show = Callable[..., str]


@pytest.fixture
def show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Show:
    def _show(
        *suites: SuiteResult, generations: Sequence[Generation] = (), asked: Sequence[Example] = (), count: int = 2
    ) -> str:
        folder = CellFolder(tmp_path / "cells" / "mine")
        write_text(tmp_path / "experiment.json", json.dumps({"config": {"ranking": {"by": "held_out.exact_match"}}}))
        for suite in suites:
            write_lines(folder.generations(suite.suite, suite.digest), generations)
            write_lines(folder.asked(suite.suite, suite.digest), asked)
        cell_page(FoundCell(cell_result("mine", *suites), folder, ()), count)
        return capsys.readouterr().out

    return _show


def drawn(example: str, sample: int = 0, text: str = "") -> Generation:
    return Generation(
        example_id=example, prompt=f"<|user|>{example}?", text=text or f"{example} {sample}", stop_reason="end_of_turn",
        prompt_tokens=1, completion_tokens=1, sample=sample,
    )  # fmt: skip


def test_answers_are_of_different_examples_and_the_worst_come_first(show: Show) -> None:
    suite = suite_result("held_out", {"exact_match": [1.0, 0.0, 0.5]})
    first, second, third = suite.clusters
    shown = show(suite, generations=[drawn(example, sample) for example in suite.clusters for sample in range(3)])
    assert f"{second} 1" not in shown
    assert shown.index(f"{second} 0") < shown.index(f"{third} 0")
    assert f"{first} 0" not in shown


def test_less_is_better_turns_the_order(show: Show) -> None:
    suite = suite_result("held_out", {"nll": [1.0, 3.0]})
    first, second = suite.clusters
    shown = show(suite, generations=[drawn(first), drawn(second)])
    assert shown.index(f"{second} 0") < shown.index(f"{first} 0")


def test_an_answer_stands_below_its_question_and_what_was_expected(show: Show) -> None:
    suite = suite_result("held_out", {"exact_match": [0.0], "rouge_l": [0.25]})
    (example,) = suite.clusters
    wrong = Score(example_id=example, metric="exact_match", value=0.0, failure="runs_on")
    suite = suite.model_copy(update={"scores": (wrong, *suite.scores[1:])})
    shown = show(suite, generations=[drawn(example)], asked=[Example(id=example, text="Who?", reference="Emu")])
    lines = [line.strip() for line in shown.splitlines()]
    found = lines.index(f"{example}: exact_match 0 (runs_on), rouge_l 0.25; end of turn")
    assert lines[found + 1 : found + 4] == ["asked    Who?", "expected Emu", f"answered {example} 0"]


def test_the_criterions_suite_comes_first(show: Show) -> None:
    other, own = (suite_result(name, {"exact_match": [1.0]}) for name in ("form", "held_out"))
    shown = show(other, own, generations=[drawn(next(iter(own.clusters)))])
    assert shown.index("held_out, 1 of 1") < shown.index("form, 1 of 1")


def test_long_texts_are_cut_and_fit_the_screen(show: Show) -> None:
    suite = suite_result("held_out", {"exact_match": [0.0]})
    (example,) = suite.clusters
    asked = Example(id=example, text="\n".join(f"line {n}" for n in range(50)), reference="word " * 1000)
    shown = show(suite, generations=[drawn(example, text="x" * 5000)], asked=[asked])
    assert "line 49" in shown and "line 45" not in shown
    assert len(shown.splitlines()) < 40
    assert max(map(len, shown.partition("Folder:")[0].splitlines())) <= 80


def test_a_hostile_answer_works_nothing_on_the_terminal(show: Show) -> None:
    suite = suite_result("held_out", {"exact_match": [0.0]})
    (example,) = suite.clusters
    shown = show(suite, generations=[drawn(example, text="\x1b[2J[bold]gone[/bold]")])
    assert "\x1b" not in shown and "[bold]gone[/bold]" in shown


def test_kinds_of_prompts_have_a_line_each(show: Show) -> None:
    kinds = {"all.json_schema": estimate([1.0] * 60), "end_of_turn.json_schema": estimate([1.0] * 60)}
    suite = suite_result("form", {"all": [1.0, 0.0]}).model_copy(
        update={"kind": "template_adherence", "slice_metrics": kinds}
    )
    shown = show(suite)
    # The Wilson interval of 60 of 60: 60 / (60 + 1.96^2) = 0.940.
    assert "all.json_schema: 1.000 [0.940, 1.000] n=60" in shown
    assert "end_of_turn.json_schema" not in shown
    assert "json_schema" not in show(suite_result("held_out", {"exact_match": [1.0]}))


def test_predictions_scored_beside_the_cells_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_cell("grid", "mine", {"held_out": {"exact_match": [1.0]}})
    suite = suite_result("held_out", {"exact_match": [0.0]}).model_copy(update={"digest": "d"})
    row = cell_result("theirs", suite).model_copy(update={"reference": "predictions"})
    folder = experiment_folder("grid").imported("theirs")
    write_record(folder.result, row)
    write_lines(folder.generations("held_out", "d"), [drawn(next(iter(suite.clusters)), text="Their answer")])
    shown = CliRunner().invoke(main, ["show", "theirs"], catch_exceptions=False)
    assert shown.exit_code == 0 and "answered Their answer" in shown.stdout
    plain = CliRunner().invoke(main, ["show", "theirs", "--json"], catch_exceptions=False)
    assert json.loads(plain.stdout)["name"] == "theirs"
