"""What is told of rows that nobody trained here: models as they come, and predictions of another system."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli.main import main
from harness.diagnose.advice import UNTRAINED, as_untrained
from harness.diagnose.cell import CHECKS
from harness.frames import generations_frame
from harness.records import CellResult, Finding, Generation
from harness.score import Ruler, score_predictions
from harness.store import experiment_folder, read_record, write_lines, write_record
from harness.targets import diagnose_target, find_cell, find_row
from tests.comparisons import write_cell, write_predictions
from tests.helpers import cell_result, suite_result

NUM_EXAMPLES = 60
SYSTEMS = """\
name: systems
evals: [{suite: held_out, data: test.jsonl, scorers: [exact_match]}]
references: [{name: theirs, predictions: theirs.jsonl}]
ranking: {by: held_out.exact_match, gates: []}
"""


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = ({"id": f"q{n}", "prompt": f"{n} and {n}?", "reference": str(2 * n)} for n in range(NUM_EXAMPLES))
    Path("test.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    # Every other answer goes round in circles.
    answers = {f"q{n}": str(2 * n) if n % 2 else "no, not that, " * 60 for n in range(NUM_EXAMPLES)}
    write_predictions(Path("theirs.jsonl"), answers)


def fired(findings: tuple[Finding, ...]) -> dict[str, str]:
    """Check -> advice."""
    return {finding.check: finding.advice for finding in findings if finding.outcome == "fired"}


def test_predictions_get_no_advice_on_a_training() -> None:
    scored = score_predictions(Path("theirs.jsonl"), Ruler(data="test.jsonl"))
    advice = fired(scored.findings)
    assert {"repetition", "format_inconsistency"} <= advice.keys()
    for text in advice.values():
        assert text.startswith("Nothing was trained here.")
        assert "epoch" not in text and "training" not in text and "Train " not in text


def test_another_model_that_was_asked_gets_none_either() -> None:
    scores = {"held_out": {"exact_match": [0.0] * NUM_EXAMPLES}}
    folder = write_cell("grid", "other", scores, seed=None, texts=["round and " * 80] * NUM_EXAMPLES)
    write_record(folder.result, read_record(folder.result, CellResult).model_copy(update={"reference": "model"}))
    for findings in (find_cell("other").findings, diagnose_target(str(folder.path)).findings):
        assert fired(findings)["repetition"].startswith("Nothing was trained here.")


def test_a_cell_is_told_what_to_train() -> None:
    scores = {"held_out": {"exact_match": [0.0] * NUM_EXAMPLES}}
    write_cell("grid", "mine", scores, texts=["round and " * 80] * NUM_EXAMPLES)
    assert fired(find_cell("mine").findings)["repetition"].startswith("Train fewer epochs")


def test_advice_is_for_checks_that_exist_and_leaves_the_others_alone() -> None:
    assert UNTRAINED.keys() <= CHECKS.keys()
    leak = Finding(check="contamination", outcome="fired", severity="error", message="m", advice="Take them out.")
    assert as_untrained([leak]) == (leak,)


def test_frames_have_the_answers_of_predictions_scored_later() -> None:
    suite = suite_result("held_out", {"exact_match": [1.0]})
    row = cell_result("theirs", suite).model_copy(update={"reference": "predictions"})
    folder = experiment_folder("grid")
    kept = folder.imported("theirs")
    write_record(kept.result, row)
    given = Generation(
        example_id="e0", prompt="?", text="Theirs", stop_reason="unknown", prompt_tokens=1, completion_tokens=1
    )
    write_lines(kept.generations("held_out", suite.digest), [given])
    assert list(generations_frame(folder, [row])["text"]) == ["Theirs"]


def test_name_in_a_record_leads_to_no_other_folder() -> None:
    row = cell_result("../../elsewhere").model_copy(update={"reference": "predictions"})
    folder = experiment_folder("grid")
    assert folder.holding(row).path == folder.imported("elsewhere").path


def test_rows_of_predictions_alone_are_found_with_their_answers() -> None:
    Path("systems.yaml").write_text(SYSTEMS)
    assert CliRunner().invoke(main, ["run", "systems.yaml"]).exit_code == 0
    found = find_row("theirs")
    assert fired(found.findings)["repetition"].startswith("Nothing was trained here.")
    answers = found.folder.generations("held_out", found.result.suites[0].digest)
    assert answers.is_file()
    assert read_record(found.folder.result, CellResult) == found.result


def test_replaying_predictions_is_a_mistake_in_one_sentence() -> None:
    Path("systems.yaml").write_text(SYSTEMS)
    done = CliRunner().invoke(main, ["replay", "systems.yaml"])
    assert done.exit_code == 2
    assert done.stderr == (
        "error: systems: nothing was trained here, for its rows are predictions alone; replay an experiment that trains\n"
    )
