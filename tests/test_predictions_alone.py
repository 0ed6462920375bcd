"""Experiments that rank other systems' predictions and train nothing."""

import itertools
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from scipy import stats

from harness.cli.main import main
from harness.config import ExperimentConfig
from harness.errors import ConfigError
from harness.experiment_file import load_experiment
from tests.conftest import REAL_DATA

Write = Callable[[str, str], Path]
GSM8K = REAL_DATA / "datasets" / "gsm8k_test.jsonl"
NUM_QUESTIONS = 400
# Share of right answers; `strong` and `close` are too near one another for so many questions to tell them apart.
SKILLS = {"weak": 0.45, "strong": 0.74, "close": 0.72}
YAML = """\
name: systems
description: Which system answers best?
evals:
  - {suite: held_out, data: test.jsonl, scorers: [numeric_match, exact_match]}
references:
  - {name: weak, predictions: weak.jsonl}
  - {name: strong, predictions: strong.jsonl}
  - {name: close, predictions: close.jsonl}
ranking: {by: held_out.numeric_match, gates: []}
"""
ONE = """\
name: one
evals: [{suite: held_out, data: test.jsonl, scorers: [exact_match]}]
references: [{name: a, predictions: a.jsonl}]
ranking: {gates: []}
"""


def harness(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False)


def lines(rows: list[dict]) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def questions() -> list[dict]:
    """The first of GSM8K's test questions, where the real data are, else sums."""
    if GSM8K.is_file():
        rows = [json.loads(line) for line in GSM8K.read_text(encoding="utf-8").splitlines()[:NUM_QUESTIONS]]
    else:
        rows = [{"question": f"{i} + {i * 7}?", "answer": f"Add.\n#### {i * 8}"} for i in range(NUM_QUESTIONS)]
    return [{"id": f"q{i}", "prompt": row["question"], "reference": row["answer"]} for i, row in enumerate(rows)]


def is_right(name: str) -> list[bool]:
    """Which questions a system gets right: hard ones are hard for all, so that the answers are correlated."""
    hard, own = random.Random("questions"), random.Random(name)
    return [0.5 * hard.random() + 0.5 * own.random() < SKILLS[name] for _ in range(NUM_QUESTIONS)]


def predictions(name: str) -> list[dict]:
    rows = []
    for question, right in zip(questions(), is_right(name), strict=True):
        answer = question["reference"].rpartition("#### ")[2]
        rows.append({"id": question["id"], "prediction": f"So it is {answer if right else '-987654321'}."})
    return rows


def make_folder(folder: Path) -> None:
    (folder / "test.jsonl").write_text(lines(questions()), encoding="utf-8")
    for name in SKILLS:
        (folder / f"{name}.jsonl").write_text(lines(predictions(name)), encoding="utf-8")
    (folder / "systems.yaml").write_text(YAML)


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict]:
    folder = tmp_path_factory.mktemp("systems")
    make_folder(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done = harness("rank", "systems.yaml", "--json")
        assert done.exit_code == 0, done.output
        yield json.loads(done.stdout)


def test_what_was_ranked_without_a_run_can_be_looked_at(ranked: dict) -> None:
    assert "held_out.numeric_match" in harness("show", "systems/strong").output
    assert harness("compare", "systems/strong", "systems/weak").exit_code == 0


def test_gate_on_what_nobody_measured_is_a_mistake(ranked: dict) -> None:
    refused = harness("rank", "systems.yaml", "--gate", "held_out.numeric_mach >= 0.5")
    assert refused.exit_code == 2
    assert "measured for no cell; did you mean held_out.numeric_match?" in refused.output


def values(name: str) -> np.ndarray:
    return np.array(is_right(name), dtype=float)


def test_order_is_that_of_the_means(ranked: dict) -> None:
    by_hand = sorted(SKILLS, key=lambda name: -values(name).mean())
    assert [row["name"] for row in ranked["rows"]] == by_hand
    assert ranked["num_examples"] == NUM_QUESTIONS
    found = {row["name"]: row["metrics"]["held_out.numeric_match"]["value"] for row in ranked["rows"]}
    assert found == pytest.approx({name: values(name).mean() for name in SKILLS}, abs=1e-12)


def test_differences_and_intervals_are_those_of_a_paired_analysis(ranked: dict) -> None:
    best, *others = (row["name"] for row in ranked["rows"])
    rows = {row["name"]: row for row in ranked["rows"]}
    for name in others:
        found = rows[name]["difference_to_best"]
        paired = stats.ttest_rel(values(name), values(best))
        low, high = paired.confidence_interval(0.95)
        assert found["value"] == pytest.approx((values(name) - values(best)).mean(), abs=1e-12)
        # Percentiles of a bootstrap, or a score interval for paired proportions, against Student's t: for 400 pairs they
        # agree to a tenth of the interval's width, 0.012 at most here.
        assert (found["low"], found["high"]) == pytest.approx((low, high), abs=0.012)
        drawn = stats.bootstrap((values(name) - values(best),), np.mean, n_resamples=5000, rng=0).confidence_interval
        assert (found["low"], found["high"]) == pytest.approx((drawn.low, drawn.high), abs=0.012)


def test_best_set_is_that_of_mcnemar_tests_with_holm(ranked: dict) -> None:
    pairs = list(itertools.combinations(SKILLS, 2))
    p_values = [mcnemar(values(a), values(b)) for a, b in pairs]
    surely_different = {
        pair
        for pair, rank, p in zip(pairs, stats.rankdata(p_values), p_values, strict=True)
        if p * (len(pairs) - rank + 1) < 0.05
    }
    best = max(SKILLS, key=lambda name: values(name).mean())
    by_hand = {name for name in SKILLS if not surely_different & {(name, best), (best, name)}}
    assert {row["name"] for row in ranked["rows"] if row["in_best_set"]} == by_hand == {"strong", "close"}


def mcnemar(a: np.ndarray, b: np.ndarray) -> float:
    """Exact: under no difference a discordant pair falls either way like a coin."""
    wins, losses = int((a > b).sum()), int((a < b).sum())
    return float(stats.binomtest(wins, wins + losses).pvalue)


def test_another_criterion_and_gate_need_no_scoring(ranked: dict) -> None:
    done = harness(
        "rank", "systems.yaml", "--json", "--by", "held_out.exact_match", "--gate", "held_out.numeric_match >= 0.5"
    )
    found = json.loads(done.stdout)
    assert found["criterion"] == "held_out.exact_match"
    assert [row["name"] for row in found["excluded"]] == ["weak"]


def test_imported_row_is_ranked_like_one_of_the_file(ranked: dict) -> None:
    assert harness("score", "strong.jsonl", "--experiment", "systems.yaml", "--name", "again").exit_code == 0
    rows = {row["name"]: row for row in json.loads(harness("rank", "systems.yaml", "--json").stdout)["rows"]}
    assert rows["again"]["metrics"] == rows["strong"]["metrics"]
    assert rows["again"]["in_best_set"]


def test_run_logs_reference_runs_and_writes_the_report_without_torch(tmp_path: Path) -> None:
    make_folder(tmp_path)
    code = (
        "import sys; from harness.cli.main import main\n"
        "try: main(['run', 'systems.yaml'])\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 False", done.stdout + done.stderr
    report = (tmp_path / "mlruns/harness/systems/report.html").read_text(encoding="utf-8")
    assert all(name in report for name in SKILLS)
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    found = client.get_experiment_by_name("systems")
    assert found is not None
    runs = {run.info.run_name: run for run in client.search_runs([found.experiment_id])}
    for name in SKILLS:
        assert runs[name].data.tags["harness.kind"] == "reference"
        assert runs[name].info.status == "FINISHED"
        assert runs[name].data.metrics["held_out.numeric_match"] == pytest.approx(values(name).mean())


def one(write: Write, answers: list[dict], yaml: str = ONE) -> Result:
    write(lines([{"id": f"e{i}", "prompt": "?", "reference": "x"} for i in range(20)]), "test.jsonl")
    write(lines(answers), "a.jsonl")
    write(yaml, "one.yaml")
    return harness("rank", "one.yaml", "--json")


def test_missing_predictions_are_unscored_and_counted(write: Write) -> None:
    found = json.loads(one(write, [{"id": f"e{i}", "prediction": "x"} for i in range(17)]).stdout)
    metric = found["rows"][0]["metrics"]["held_out.exact_match"]
    assert (metric["value"], metric["n"], metric["unscored"]) == (1, 17, 3)
    assert any("a has no prediction for 3 of 20 examples" in caveat for caveat in found["caveats"])


def test_changed_predictions_are_scored_anew(write: Write) -> None:
    def value(answer: str) -> float:
        found = json.loads(one(write, [{"id": f"e{i}", "prediction": answer} for i in range(20)]).stdout)
        return found["rows"][0]["metrics"]["held_out.exact_match"]["value"]

    assert (value("x"), value("y"), value("x")) == (1, 0, 1)


def test_changed_examples_are_scored_anew(write: Write) -> None:
    answers = [{"id": f"e{i}", "prediction": "x"} for i in range(20)]
    assert json.loads(one(write, answers).stdout)["num_examples"] == 20
    limited = ONE.replace("scorers:", "limit: 12, scorers:")
    assert json.loads(one(write, answers, limited).stdout)["num_examples"] == 12


def test_plan_says_what_every_row_answers(write: Write) -> None:
    one(write, [{"id": "e3", "prediction": "x"}])
    found = json.loads(harness("plan", "one.yaml", "--json").stdout)
    assert found["cells"] == []
    assert [(row["name"], row["examples"], row["missing"]) for row in found["predictions"]] == [("a", 20, 19)]


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        (ONE.replace("a.jsonl", "b.jsonl"), "one.yaml:3: b.jsonl: there is no such data file; check the path"),
        (ONE.replace("evals", "# evals"), "one.yaml:1: evals is missing; say what the predictions answer"),
        (ONE.replace("data: test.jsonl, ", ""), "one.yaml:2: held_out needs `data`, for there is no test split"),
        (ONE.replace("[{suite", "[{lm_eval: [gsm8k]}, {suite"), "one.yaml:2: lm_eval asks a model"),
        (ONE.replace("}]\nranking", ", suite: other}]\nranking"), "which is no suite of evals"),
    ],
)
def test_mistakes_are_told_in_one_sentence(write: Write, yaml: str, message: str) -> None:
    done = one(write, [{"id": "e1", "prediction": "x"}], yaml)
    assert done.exit_code == 2
    assert message in done.output
    assert len(done.output.splitlines()) == 1


def test_ids_of_other_examples_are_told_with_the_file(write: Write) -> None:
    done = one(write, [{"id": "z", "prediction": "x"}])
    assert done.exit_code == 2
    assert "a.jsonl: no prediction has the id of an example: examples are called 'e0', predictions 'z'" in done.output


@pytest.mark.parametrize(
    "more", ["training: {max_steps: 2}\n", "seeds: [0, 1]\n", "grid: {training.max_steps: [1, 2]}\n"]
)
def test_experiment_that_trains_still_needs_a_model(write: Write, more: str) -> None:
    with pytest.raises(ConfigError, match=r"one.yaml:1: model is missing; add it\n.*data is missing; add it"):
        load_experiment(write(ONE + more, "one.yaml"))


def test_a_base_still_needs_a_model(write: Write) -> None:
    with pytest.raises(ConfigError, match="model is missing; add it"):
        load_experiment(write(ONE.replace("[{name: a", "[base, {name: a"), "one.yaml"))


def test_settings_of_an_experiment_without_a_model_can_be_read_again(write: Write) -> None:
    config = load_experiment(write(ONE, "one.yaml"))
    again = ExperimentConfig.model_validate_json(config.model_dump_json())
    assert config.is_predictions_alone
    assert again == config


@pytest.mark.parametrize("command", ["data", "template"])
def test_there_is_no_model_to_look_at(write: Write, command: str) -> None:
    one(write, [{"id": "e1", "prediction": "x"}])
    done = harness(command, "one.yaml")
    assert done.exit_code == 2
    assert "one.yaml: there is no model and no data, for its rows are predictions alone" in done.output
