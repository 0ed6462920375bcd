"""Runs held against each other: numbers worked out by scipy, what is left out, and the contract for scripts."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats

from harness.cli.main import main
from harness.comparison import compare
from harness.errors import ConfigError
from harness.grid import CellSpec
from harness.records import CellResult, Example
from harness.store import CellFolder, read_lines, read_record, write_record, write_text
from harness.suite import load_suite, suite_digest
from tests.comparisons import Scores, trained, write_cell, write_predictions
from tests.helpers import coin

ONE = [1.0] * 20 + [0.0] * 10
OTHER = [1.0] * 8 + [0.0] * 20 + [1.0] * 2
"""Against ONE: 12 lost, 2 won."""


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def held_out(values: Sequence[float | None]) -> dict[str, Scores]:
    return {"held_out": {"exact_match": values}}


def test_rates_of_one_seed_agree_with_an_exact_mcnemar_test() -> None:
    write_cell("x", "one", held_out(ONE))
    write_cell("x", "other", held_out(OTHER))
    pair = compare(["one", "other"]).pairs[0]
    found = pair.metrics["held_out.exact_match"]
    assert (found.wins, found.losses, found.ties, found.n) == (12, 2, 16, 30)
    assert found.difference == pytest.approx(10 / 30)
    assert found.p_value == pytest.approx(stats.binomtest(12, 14).pvalue)
    assert found.low is not None
    assert found.high is not None
    assert 0 < found.low < 10 / 30 < found.high
    assert found.better == "a"
    assert "one is better than other in held_out.exact_match" in pair.answer
    assert any("Seed variance unknown" in note for note in pair.notes)


def test_p_values_are_adjusted_over_all_metrics_of_all_pairs() -> None:
    even = [1.0, 0.0] * 15
    write_cell("x", "one", {"held_out": {"exact_match": ONE, "normalized_match": even}})
    write_cell("x", "other", {"held_out": {"exact_match": OTHER, "normalized_match": even}})
    write_cell("x", "third", {"held_out": {"exact_match": ONE, "normalized_match": even[::-1]}})
    first, second = compare(["one", "other", "third"]).pairs
    assert (first.a, first.b, second.a, second.b) == ("one", "other", "one", "third")
    # The smallest of four p-values is multiplied by four.
    assert first.metrics["held_out.exact_match"].p_adjusted == pytest.approx(4 * stats.binomtest(12, 14).pvalue)


def test_graded_scores_are_never_surer_than_a_paired_t_test() -> None:
    draws = np.random.default_rng(3)
    a = draws.random(80)
    b = np.clip(a - 0.05 + 0.1 * draws.standard_normal(80), 0, 1)
    write_cell("x", "one", {"held_out": {"rouge_l": a.tolist()}})
    write_cell("x", "other", {"held_out": {"rouge_l": b.tolist()}})
    found = compare(["one", "other"]).pairs[0].metrics["held_out.rouge_l"]
    test = stats.ttest_rel(a, b)
    interval = test.confidence_interval()
    assert found.difference == pytest.approx((a - b).mean())
    assert found.p_value is not None
    assert found.low is not None
    assert found.p_value >= float(test.pvalue)
    assert found.low == pytest.approx(interval.low, abs=0.003)
    assert found.low <= float(interval.low)
    assert found.high == pytest.approx(interval.high, abs=0.003)


def test_less_can_be_better() -> None:
    low, high = [0.5 + 0.01 * i for i in range(30)], [1.5 + 0.011 * i for i in range(30)]
    write_cell("x", "one", {"held_out": {"nll": low}})
    write_cell("x", "other", {"held_out": {"nll": high}})
    pair = compare(["one", "other"]).pairs[0]
    found = pair.metrics["held_out.nll"]
    assert found.difference < 0
    assert (found.lower_is_better, found.wins, found.losses, found.better) == (True, 30, 0, "a")
    assert "one is better than other" in pair.answer


def test_too_few_pairs_are_never_a_claim() -> None:
    write_cell("x", "one", held_out([1.0] * 5))
    write_cell("x", "other", held_out([0.0] * 5))
    pair = compare(["one", "other"]).pairs[0]
    found = pair.metrics["held_out.exact_match"]
    assert (found.low, found.high, found.p_value, found.p_adjusted, found.better) == (None, None, None, None, None)
    assert pair.answer.startswith("Too few examples")


def test_examples_without_a_score_on_one_side_are_left_out_and_counted() -> None:
    write_cell("x", "one", held_out([None, *ONE[1:]]))
    write_cell("x", "other", held_out([*OTHER[:-1], None]))
    found = compare(["one", "other"]).pairs[0].metrics["held_out.exact_match"]
    assert (found.n, found.unscored) == (28, 2)
    assert found.a == pytest.approx(np.mean(ONE[1:-1]))


def test_suites_that_were_asked_otherwise_are_left_out() -> None:
    write_cell("x", "one", {"held_out": {"exact_match": ONE}, "retention": {"accuracy": ONE}})
    cell = write_cell("x", "other", {"held_out": {"exact_match": OTHER}, "retention": {"accuracy": OTHER}})
    ask_otherwise(cell, "retention")
    pair = compare(["one", "other"]).pairs[0]
    assert list(pair.metrics) == ["held_out.exact_match"]
    assert any(note.startswith("retention was asked otherwise") for note in pair.notes)
    ask_otherwise(cell, "held_out")
    with pytest.raises(ConfigError, match="can't be compared: .*held_out was asked otherwise"):
        compare(["one", "other"])


def ask_otherwise(cell: CellFolder, suite: str) -> None:
    result = read_record(cell.result, CellResult)
    changed = [s.model_copy(update={"digest": "e"}) if s.suite == suite else s for s in result.suites]
    write_record(cell.result, result.model_copy(update={"suites": tuple(changed)}))


def test_a_name_without_its_seed_pools_all_seeds() -> None:
    for seed in range(3):
        write_cell("x", f"one,seed={seed}", held_out(coin(0.8, 60, seed)), seed=seed, group="one", train=trained())
        write_cell(
            "x", f"other,seed={seed}", held_out(coin(0.5, 60, 9 + seed)), seed=seed, group="other", train=trained()
        )
    comparison = compare(["one", "other"])
    run, pair = comparison.runs[0], comparison.pairs[0]
    assert (run.name, run.kind, run.seeds, run.train_seconds) == ("one", "configuration", (0, 1, 2), 27.0)
    found = pair.metrics["held_out.exact_match"]
    assert found.a == pytest.approx(np.mean([coin(0.8, 60, seed) for seed in range(3)]))
    assert not any("Seed variance unknown" in note for note in pair.notes)
    assert {curve.seed for curve in comparison.curves} == {0, 1, 2}
    single = compare(["one,seed=1", "other,seed=2"])
    assert single.runs[0].seeds == (1,)
    assert any("Seed variance unknown" in note for note in single.pairs[0].notes)
    with pytest.raises(ConfigError, match="share a seed"):
        compare(["one", "one,seed=1"])


def test_runs_are_found_by_every_name_that_they_have() -> None:
    cell = write_cell("x", "one", held_out(ONE))
    write_cell("x", "base", held_out(OTHER), seed=None)
    write_cell("y", "base", held_out(OTHER), seed=None)
    run_id = read_record(cell.result, CellResult).mlflow_run_id
    for name in ("one", "x/one", cell.path.name, cell.path.name[:5], run_id, f"runs:/{run_id}"):
        assert [run.name for run in compare([name, "x/base"]).runs] == ["one", "base"]
    with pytest.raises(ConfigError, match="several configurations have this name: x/.*, y/"):
        compare(["one", "base"])
    assert [run.name for run in compare(["x/base", "y/base", "one"]).runs] == ["x/base", "y/base", "one"]


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["one", "ohter"], "there is no such cell.*did you mean other"),
        (["one", "x/one"], "are the same run"),
        (["one"], "two or more"),
        (["one", "gone.jsonl"], "gone.jsonl: there is no such file"),
        (["one", "strange"], "can't be compared: held_out was asked of one only.*retention was asked of strange only"),
    ],
)
def test_mistakes_are_one_sentence(targets: list[str], message: str) -> None:
    write_cell("x", "one", held_out(ONE))
    write_cell("x", "other", held_out(OTHER))
    write_cell("x", "strange", {"retention": {"accuracy": ONE}})
    done = CliRunner().invoke(main, ["compare", *targets])
    assert done.exit_code == 2
    assert re.search(message, done.stderr), done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_only_settings_that_differ_and_matter_are_told() -> None:
    config = {"training": {"learning_rate": 0.001}, "adapter": {"r": 8}}
    lora = trained(100, **{"adapter.r": "8", "adapter.bias": "none", "training.optim": "adamw"})
    write_cell("x", "one", held_out(ONE), config=config, train=lora)
    full = {"training": {"learning_rate": 0.01}}
    write_cell("x", "other", held_out(OTHER), config=full, train=trained(50, **{"training.optim": "sgd"}))
    write_cell("x", "base", held_out(OTHER), seed=None, config={"template": {"name": "chatml"}})
    settings = compare(["one", "other"]).pairs[0].config_diff
    assert {key: (value.a, value.b, value.source) for key, value in settings.items()} == {
        "training.learning_rate": (0.001, 0.01, "asked"),
        "adapter.r": (8, None, "asked"),
        "training.optim": ("adamw", "sgd", "in force"),
        "facts.supervised tokens": ("100", "50", "fact"),
    }
    assert list(compare(["one", "base"]).pairs[0].config_diff) == ["template.name"]


def test_curves_are_drawn_over_supervised_tokens() -> None:
    write_cell("x", "one", held_out(ONE), train=trained(100))
    write_cell("x", "other", held_out(OTHER), train=trained(50))
    train, evaluation, other = compare(["one", "other"]).curves[:3]
    assert train.points == ((0.0, 4.0), (50.0, 3.0), (100.0, 2.0), (150.0, 1.0))
    assert (evaluation.of, evaluation.points[-1]) == ("eval", (150.0, 2.0))
    assert (other.run, other.points[-1]) == ("other", (75.0, 1.0))


def test_disagreements_are_those_of_the_criterion_first_and_the_farthest_apart_first() -> None:
    ours = {
        "retention": {"accuracy": [1.0, 1.0]},
        "held_out": {"exact_match": [1.0, 0.5, 0.0], "chrf": [1.0, 0.5, 0.2]},
    }
    theirs = {
        "retention": {"accuracy": [0.0, 1.0]},
        "held_out": {"exact_match": [0.5, 0.5, 1.0], "chrf": [0.9, 0.1, 1.0]},
    }
    write_cell("x", "one", ours)
    write_cell("x", "other", theirs)
    pair = compare(["one", "other"]).pairs[0]
    assert [(d.suite, d.example_id, d.difference) for d in pair.disagreements] == [
        ("held_out", "e2", -1.0), ("held_out", "e0", 0.5), ("retention", "e0", 1.0),
    ]  # fmt: skip
    first = pair.disagreements[0]
    assert (first.prompt, first.reference, first.a.text, first.b.text) == ("ask e2", "want e2", "one e2", "other e2")
    assert first.b.scores == {"exact_match": 1.0, "chrf": 1.0}
    shown = compare(["one", "other"], limit=1).pairs[0]
    assert (len(shown.disagreements), shown.num_disagreements) == (1, 3)


def test_two_files_of_predictions_are_compared_alone(tmp_path: Path) -> None:
    names = [f"q{i}" for i in range(30)]
    rows = "".join(json.dumps({"id": name, "prompt": f"ask {name}", "reference": "yes"}) + "\n" for name in names)
    write_text(tmp_path / "test.jsonl", rows)
    files = [
        write_predictions(
            tmp_path / file, {n: "yes" if score else "no" for n, score in zip(names, scores, strict=True)}
        )
        for file, scores in (("one.jsonl", ONE), ("other.jsonl", OTHER))
    ]
    done = CliRunner().invoke(main, ["compare", *files, "--data", "test.jsonl", "--scorers", "exact_match", "--json"])
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    found = content["metrics"]["held_out.exact_match"]
    assert set(found) >= {"a", "b", "difference", "low", "high", "p_adjusted", "wins", "losses", "ties"}
    assert (found["wins"], found["losses"], found["ties"]) == (12, 2, 16)
    assert found["p_adjusted"] == pytest.approx(stats.binomtest(12, 14).pvalue)
    assert content["config_diff"] == {}
    assert len(content["disagreements"]) == 10
    assert content["disagreements"][0]["a"]["text"] in ("yes", "no")
    assert "comparisons" not in content
    bare = CliRunner().invoke(main, ["compare", *files])
    assert bare.exit_code == 2
    assert "--data FILE or --experiment EXPERIMENT" in bare.stderr


def test_predictions_answer_what_the_cell_beside_them_was_asked(tmp_path: Path) -> None:
    cell = write_cell("x", "one", held_out(ONE))
    file = write_predictions(tmp_path / "system.jsonl", {f"e{i}": f"want e{i}" for i in range(30)})
    spec = read_record(cell.spec, CellSpec)
    examples = list(read_lines(cell.asked("held_out", "d"), Example))
    digest = suite_digest(load_suite("held_out"), spec.evals[0], examples)
    write_cell("x", "one", held_out(ONE), digest=digest)
    pair = compare([file, "one"]).pairs[0]
    found = pair.metrics["held_out.exact_match"]
    assert (pair.a, found.a, found.wins, found.losses) == ("system", 1.0, 10, 0)
    assert not list(tmp_path.glob("mlruns/harness/x/imported"))


def test_three_runs_have_their_pairs_in_json() -> None:
    for name, scores in (("one", ONE), ("other", OTHER), ("third", ONE[::-1])):
        write_cell("x", name, held_out(scores))
    content = json.loads(CliRunner().invoke(main, ["compare", "one", "other", "third", "--json"]).stdout)
    assert [(pair["a"], pair["b"]) for pair in content["comparisons"]] == [("one", "other"), ("one", "third")]
    assert content["metrics"] == content["comparisons"][0]["metrics"]


def test_the_table_fits_eighty_columns_and_shows_no_control_characters() -> None:
    texts = ["\x1b[31mred [bold]x[/bold] \u202e" + "long " * 200] * 30
    write_cell("x", "one", held_out(ONE), train=trained(), texts=texts)
    write_cell("x", "a-long-name-of-a-cell-with-many-letters=0.000001", held_out(OTHER), train=trained())
    done = CliRunner().invoke(
        main, ["compare", "one", "a-long-name-of-a-cell-with-many-letters=0.000001"], env={"COLUMNS": "80"}
    )
    assert done.exit_code == 0, done.output
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "12/2/16" in done.stdout
    assert "\x1b" not in done.stdout
    assert "[U+001B]" in done.stdout
    assert "[bold]x[/bold]" in done.stdout


def test_every_result_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results hold the score of every example: reading them is most of what a comparison takes."""
    for name in ("one", "other", "third"):
        write_cell("x", name, held_out(ONE if name == "one" else OTHER))
    read: list[Path] = []

    def counted(path: Path, kind: Any) -> Any:
        read.append(path)
        return read_record(path, kind)

    for module in ("compared_runs", "targets"):
        monkeypatch.setattr(f"harness.{module}.read_record", counted)
    assert len(compare(["one", "other", "third"]).pairs) == 2
    results = [path for path in read if path.name == "result.json"]
    assert len(results) == len(set(results)) == 3


def test_claims_of_slices_do_not_hang_on_how_many_draws_are_affordable(monkeypatch: pytest.MonkeyPatch) -> None:
    """With few draws the smallest p-value could never pass an adjustment over many slices."""
    from harness import comparison

    kinds = [f"kind{n}" for n in range(60)]
    for name, level in (("one", 0.9), ("other", 0.2)):
        cell = write_cell("x", name, held_out([level + 0.001 * n for n in range(40)]))
        result = read_record(cell.result, CellResult)
        suite = result.suites[0]
        slices = {f"exact_match.{kind}": suite.metrics["exact_match"] for kind in kinds}
        update = {"slices": dict.fromkeys(suite.slices, tuple(kinds)), "slice_metrics": slices}
        write_record(cell.result, result.model_copy(update={"suites": (suite.model_copy(update=update),)}))
    found = compare(["one", "other"]).pairs[0].slices
    assert {difference.better for difference in found.values()} == {"a"}
    monkeypatch.setattr(comparison, "SLICE_RESAMPLES", comparison.RESAMPLES)
    assert {difference.better for difference in compare(["one", "other"]).pairs[0].slices.values()} == {"a"}
