"""What many runs of one experiment need: scores in columns, comparisons in bounded memory, screens and pictures of the first rows."""

from pathlib import Path

import numpy as np
import pytest

from harness import max_t
from harness.cli.ranking_table import MOST_NAMES, MOST_ROWS, ranking_table
from harness.config import RankingConfig
from harness.crossed import spread
from harness.gates import per_example, scores_by_metric
from harness.max_t import compare_all, selection
from harness.rank_cells import rank
from harness.ranking import Ranking
from harness.records import CellResult, Generation, Score
from harness.reports.answers import _answers_to
from harness.reports.curves_figure import MAX_DRAWN, drawn_cells
from harness.reports.ranking_figure import MAX_RANKED, ranking_picture
from harness.score_columns import ScoreColumns, Sharing, compact, fingerprint
from harness.store import write_lines
from tests.helpers import cell_result, coin, suite_result

NAMES = [f"e{i}" for i in range(80)]


def measured(name: str = "cell", p: float = 0.6) -> CellResult:
    suite = suite_result("held_out", {"exact_match": [*coin(p, 79, 0), None], "chrf": [0.25] * 80})
    failed = suite.scores[3].model_copy(update={"failure": "runs_on"})
    return cell_result(name, suite.model_copy(update={"scores": (*suite.scores[:3], failed, *suite.scores[4:])}))


def test_scores_in_columns_say_the_same() -> None:
    whole = measured()
    columns = compact(whole).suites[0].scores
    assert isinstance(columns, ScoreColumns)
    assert tuple(columns) == whole.suites[0].scores
    assert [columns[3], columns[79]] == [whole.suites[0].scores[3], whole.suites[0].scores[79]]
    assert list(columns[2:4]) == list(whole.suites[0].scores[2:4])
    for metric in ("held_out.exact_match", "held_out.chrf", "held_out.nothing", "other.exact_match"):
        assert per_example(compact(whole), metric) == per_example(whole, metric)
    assert scores_by_metric(compact(whole)) == scores_by_metric(whole)


def test_fingerprint_is_that_of_the_content() -> None:
    whole = measured()
    other = whole.suites[0].scores[0]
    changed = Score(example_id=other.example_id, metric=other.metric, value=1 - (other.value or 0))
    suite = whole.suites[0].model_copy(update={"scores": (changed, *whole.suites[0].scores[1:])})
    assert fingerprint(whole) == fingerprint(compact(whole))
    assert fingerprint(whole) != fingerprint(whole.model_copy(update={"suites": (suite,)}))


def test_what_runs_were_asked_is_held_once() -> None:
    sharing = Sharing()
    first, second = (sharing.shared(compact(measured(name, p))) for name, p in (("a", 0.3), ("b", 0.7)))
    ours, theirs = first.suites[0], second.suites[0]
    assert ours.scores.asked is theirs.scores.asked and ours.clusters is theirs.clusters  # type: ignore[attr-defined]
    assert per_example(second, "held_out.exact_match") == per_example(measured("b", 0.7), "held_out.exact_match")


def test_what_another_version_was_asked_is_not_mixed_in() -> None:
    sharing = Sharing()
    sharing.shared(compact(measured("a")))
    shorter = cell_result("b", suite_result("held_out", {"exact_match": coin(0.5, 40, 0)}))
    kept = sharing.shared(compact(shorter))
    assert per_example(kept, "held_out.exact_match") == per_example(shorter, "held_out.exact_match")
    assert kept.suites[0].clusters == shorter.suites[0].clusters


def scores_of(configurations: int, seeds: int) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [(rng.random((seeds, 80)) < 0.4 + 0.02 * k).astype(float) for k in range(configurations)]


def test_step_down_counts_are_those_of_the_definition() -> None:
    rng = np.random.default_rng(1)
    drawn, observed = rng.standard_normal((4, 500)), np.array([2.5, 1.4, 1.0, 0.5, 0.2, 0.0])
    first, second = np.triu_indices(4, k=1)
    inverse = rng.uniform(0.5, 1.5, 6)
    t = np.abs(drawn[first] - drawn[second]) * inverse[:, None]
    expected = [int((t[k:].max(axis=0) >= observed[k]).sum()) for k in range(6)]
    found = max_t._Ordered(first, second, observed, inverse).exceeded(drawn)
    assert found.tolist() == expected


def test_comparisons_are_the_same_however_little_is_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = scores_of(12, 2)
    known = spread(scores, NAMES)
    whole = compare_all(known, scores, NAMES, alpha=0.05, resamples=3000), selection(known, [9, 10, 11], resamples=3000)
    monkeypatch.setattr(max_t, "MAX_NUMBERS", 12_000)
    parts = compare_all(known, scores, NAMES, alpha=0.05, resamples=3000), selection(known, [9, 10, 11], resamples=3000)
    assert np.array_equal(whole[0].adjusted, parts[0].adjusted)
    assert np.array_equal(whole[0].adjusted_by_holm, parts[0].adjusted_by_holm)
    assert whole[0].critical == parts[0].critical
    assert np.array_equal(whole[1].probability_best, parts[1].probability_best)
    assert parts[1].optimism == pytest.approx(whole[1].optimism, rel=1e-9)
    assert parts[1].optimism_of_seeds == pytest.approx(whole[1].optimism_of_seeds, rel=1e-9)


@pytest.fixture(scope="module")
def cells() -> list[CellResult]:
    return [
        cell_result(f"n={k}", suite_result("held_out", {"exact_match": coin(0.2 + 0.6 * k / 130, 60, k)}))
        for k in range(130)
    ]


@pytest.fixture(scope="module")
def ranking(cells: list[CellResult]) -> Ranking:
    return rank("many", RankingConfig(by="held_out.exact_match", gates=(), resamples=1000), cells, [], {})


def test_screen_shows_the_first_rows_and_counts_the_others(
    ranking: Ranking, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    ranking_table(ranking)
    shown = capsys.readouterr().out
    assert f"and {130 - MOST_ROWS} more ranked; `harness rank --all` shows every row" in shown
    assert ranking.rows[MOST_ROWS - 1].name in shown
    num_best = sum(row.in_best_set for row in ranking.rows)
    assert f"and {num_best - MOST_NAMES} more" in " ".join(shown.split())
    ranking_table(ranking, is_whole=True)
    whole = capsys.readouterr().out
    assert all(row.name in whole for row in ranking.rows)
    assert "more ranked" not in whole


def test_picture_of_the_ranking_says_that_it_shows_the_first_rows(ranking: Ranking) -> None:
    picture = ranking_picture(ranking)
    assert picture is not None
    assert picture.title.endswith(f"of the first {MAX_RANKED} of 130")
    assert len(picture.spec["datasets"]["rows"]) == MAX_RANKED


def test_curves_are_drawn_from_the_first_to_the_last(cells: list[CellResult], ranking: Ranking) -> None:
    assert drawn_cells(cells, ranking) is cells
    unranked = [cell_result(f"failed {k}", status="failed") for k in range(200)]
    drawn = drawn_cells([*unranked, *cells], ranking)
    assert len({cell.cell for cell in drawn}) == MAX_DRAWN
    assert drawn[0].cell == ranking.rows[0].cell
    assert drawn[-1].status == "failed"


def test_answers_are_found_however_their_line_is_written(tmp_path: Path) -> None:
    def answer(name: str) -> Generation:
        return Generation(
            example_id=name, prompt="q", text="a", stop_reason="end_of_turn", prompt_tokens=1, completion_tokens=1
        )

    path = tmp_path / "answers.jsonl"
    write_lines(path, [answer(name) for name in ("plain", "left out", 'with "quotes"', "é")])
    with path.open("a") as file:
        file.write(
            '{"text": "a", "example_id": "spaced", "prompt": "q", "stop_reason": "length", "prompt_tokens": 1, "completion_tokens": 1}\n'
        )
        file.write('{"example_id":"plain","pro')
    wanted = dict.fromkeys(("plain", 'with "quotes"', "é", "spaced"))
    assert {found.example_id for found in _answers_to(path, wanted)} == set(wanted)
    assert list(_answers_to(tmp_path / "none.jsonl", wanted)) == []


def test_many_pairs_are_compared_in_two_parts_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    scores = [(rng.random((1, 60)) < rate).astype(float) for rate in (0.3, 0.4, 0.5, 0.6, 0.9)]
    names = [str(item) for item in range(60)]
    found = spread(scores, names)
    alone = compare_all(found, scores, names, alpha=0.05, resamples=999)
    monkeypatch.setattr(max_t, "MANY_PAIRS", 1)
    parts = compare_all(found, scores, names, alpha=0.05, resamples=999)
    np.testing.assert_array_equal(alone.adjusted, parts.adjusted)
    assert len(set(alone.adjusted)) > 3
