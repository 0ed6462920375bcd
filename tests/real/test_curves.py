"""The checks on curves of real public runs that were labelled by eye."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.calibration_curves import NEEDED, Verdict, errors_on_healthy, judge_all, predict
from harness.diagnose.cell import diagnose
from harness.diagnose.curves import diverged, non_finite
from harness.diagnose.evidence import Evidence, Point
from harness.diagnose.memorized_curve import stair_steps
from harness.diagnose.readers import file_evidence
from tests.synthetic_curves import prefix


@pytest.fixture(scope="module")
def verdicts(request: pytest.FixtureRequest) -> list[Verdict]:
    from tests.conftest import REAL_DATA

    if not REAL_DATA.is_dir():
        pytest.skip(f"real data are not at {REAL_DATA}; set HARNESS_REAL_DATA")
    return judge_all(REAL_DATA / "curves")


def test_labels_and_findings_agree(verdicts: list[Verdict]) -> None:
    wrong = [(v.file, v.label, v.predicted, v.missed, v.beyond) for v in verdicts if not v.agrees]
    assert len(wrong) <= (1 - NEEDED) * len(verdicts), wrong


def test_no_run_labelled_healthy_has_an_error(verdicts: list[Verdict]) -> None:
    assert not errors_on_healthy(verdicts)


def test_no_run_labelled_healthy_has_a_warning_beyond_its_label(verdicts: list[Verdict]) -> None:
    assert not [(v.file, v.beyond) for v in verdicts if v.expected == "healthy" and v.beyond]


def healthy_runs(verdicts: list[Verdict], folder: Path) -> Iterator[tuple[str, Evidence]]:
    for verdict in verdicts:
        if verdict.expected == "healthy":
            yield verdict.file, file_evidence(folder / "curves" / verdict.file)


def test_no_beginning_of_a_healthy_run_looks_diverged(verdicts: list[Verdict], real_data: Path) -> None:
    found = []
    for file, run in healthy_runs(verdicts, real_data):
        for share in range(1, 41):
            begun = prefix(run, run.loss[-1].step * share // 40)
            found += [(file, share)] if diverged(begun).outcome == "fired" else []
            found += [(file, share)] if non_finite(begun).severity == "error" else []
    assert not found


def means(points: list[Point], size: int) -> list[Point]:
    groups = [points[i : i + size] for i in range(0, len(points) - size + 1, size)]
    return [Point(group[-1].step, float(np.mean([point.value for point in group]))) for group in groups]


@pytest.mark.parametrize("size", [2, 5, 10])
def test_logging_more_seldom_changes_few_verdicts(size: int, verdicts: list[Verdict], real_data: Path) -> None:
    """Means over several logs, as a larger `logging_steps` gives them, where at least 25 are left."""
    changed, num_thinned = [], 0
    for verdict in verdicts:
        run = file_evidence(real_data / "curves" / verdict.file)
        if len(run.loss) < 25 * size:
            continue
        num_thinned += 1
        thinned = dataclasses.replace(run, loss=means(list(run.loss), size), grad_norm=means(list(run.grad_norm), size))
        changed += [verdict.file] if predict(diagnose(thinned)) != verdict.expected else []
    assert len(changed) <= 0.1 * num_thinned, changed


def test_stair_steps_are_told_from_a_steady_fall(real_data: Path) -> None:
    """c25 and c26 drop at every epoch; c10 and c13 only fall."""
    found = {
        name: stair_steps(file_evidence(real_data / "curves" / f"{name}.trainer_state.json"))
        for name in ("c25", "c26", "c10", "c13")
    }
    assert [name for name, steps in found.items() if steps is not None and steps.is_suspect] == ["c25", "c26"]
