"""Does MLflow stay quick with 500 runs of ours in it? Times of logging, searching and the experiment page, beside those of 10 runs.

    python benchmarks/mlflow_scale.py [--runs 500] [--chromium /usr/bin/chromium] [--output benchmarks/mlflow_scale.md]

Every run is made by the harness's own tracking code: 150 params, curves of 60 steps, three suites with slices, datasets, two
logged models, traces; then the outcome of the ranking. Scores are made up.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

import numpy as np
from mlflow import MlflowClient

from harness.config import ModelConfig, RankingConfig, RunConfig
from harness.experiment_file import load_experiment
from harness.grid import Cell, CellSpec
from harness.rank_cells import rank
from harness.ranking import Ranking
from harness.records import CellResult, Generation, Score, SplitSummary, SuiteResult, TrainResult
from harness.stats import estimate
from harness.store import ExperimentFolder, write_lines
from harness.tracking.connection import connect, current_uri
from harness.tracking.experiment_run import describe_experiment
from harness.tracking.mlflow_tracker import MlflowTracker
from harness.tracking.outcomes import log_outcomes

SMALL, STEPS, EXAMPLES, SLICES, PORT = 10, 60, 100, 12, 5917
SUITES = {
    "held_out": ("exact_match", "chrf", "nll"),
    "template_adherence": ("all", "end_of_turn"),
    "retention": ("accuracy",),
}
EXPERIMENT = """\
name: scale
description: Does MLflow stay quick?
model: {name: embedded:base}
data: {train: embedded:train, validation: embedded:validation, test: embedded:test}
grid: {training.learning_rate: [1e-3]}
"""


class Times(NamedTuple):
    """Seconds, of a store with so many runs."""

    runs: int
    log_one: float
    finish_first: float
    finish_again: float
    finish_one_changed: float
    search_runs: float
    search_models: float
    page: float | None


def timed(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def made_up_suite(name: str, metrics: tuple[str, ...], random: np.random.Generator) -> SuiteResult:
    """Results that pass about seven of ten examples."""
    ids = [f"e{i}" for i in range(EXAMPLES)]
    values = {metric: (random.random(EXAMPLES) < 0.7).astype(float).tolist() for metric in metrics}
    scores = tuple(
        Score(example_id=i, metric=m, value=v) for m, row in values.items() for i, v in zip(ids, row, strict=True)
    )
    estimates = {metric: estimate(row) for metric, row in values.items()}
    slices = {f"{metric}.slice{n}": estimates[metric] for metric in metrics for n in range(SLICES)}
    return SuiteResult(
        suite=name, version=1, digest="d" * 12, metrics=estimates, slice_metrics=slices, scores=scores,
        clusters={i: i for i in ids}, slices=dict.fromkeys(ids, ("slice0",)), seconds=1.0,
    )  # fmt: skip


def training(rate: float) -> TrainResult:
    """A training that never was."""
    split = SplitSummary(source="train.jsonl", digest="a" * 12, rows_read=600, rows_used=600, truncated=0, dropped_unsupervised=0, tokens=40_000, supervised_tokens=13_000)  # fmt: skip
    return TrainResult(
        steps=STEPS, planned_steps=STEPS, epochs=1.0, seconds=60.0, train_loss=0.1, best_step=STEPS, best_eval_loss=rate,
        eval_loss=rate, checkpoints={"last": f"checkpoints/checkpoint-{STEPS}", "best": f"checkpoints/checkpoint-{STEPS}"},
        splits={"train": split, "validation": split}, device="cpu", dtype="float32", num_parameters=10, num_trainable_parameters=10,
        peak_memory_gib=None, settings={"training.learning_rate": str(rate)}, environment={"torch": "2"},
    )  # fmt: skip


def log_run(root: ExperimentFolder, experiment_id: str, parent: str, number: int) -> CellResult:
    """One run, as a worker logs it."""
    random, rate = np.random.default_rng(number), float(f"{10 ** np.random.default_rng(number).uniform(-5, -2):.2g}")
    config = RunConfig(model=ModelConfig(name="embedded:base"), data={"train": "embedded:train"})
    cell = Cell(id=f"{number:012x}", name=f"learning_rate={rate:g},n={number}", group=f"g{number}",
                overrides={"training.learning_rate": rate}, seed=0, config=config)  # fmt: skip
    spec = CellSpec(cell=cell, experiment="scale", evals=(), parent_run_id=parent, system_metrics=False, num_threads=1,
                    criterion="held_out.exact_match", failing_traces=10)  # fmt: skip
    folder, train = root.cell(cell.id), training(rate)
    suites = tuple(made_up_suite(name, metrics, random) for name, metrics in SUITES.items())
    answers = [Generation(example_id=f"e{i}", prompt="<user>Q", text="A", stop_reason="end_of_turn", prompt_tokens=9, completion_tokens=1) for i in range(EXAMPLES)]  # fmt: skip
    tracker = MlflowTracker(spec, folder, experiment_id)
    tracker.log_params({f"training.field_{i}": str(i) for i in range(150)})
    for step in range(STEPS):
        tracker.log_metrics(
            dict.fromkeys(("loss", "grad_norm", "learning_rate", "num_tokens"), 1.0 / (step + 1)), step + 1
        )
    tracker.log_splits(train.splits)
    tracker.log_train(train, folder.path)
    for suite in suites:
        write_lines(folder.generations(suite.suite, suite.digest), answers)
        tracker.log_suite(suite, answers)
    tracker.log_failing(folder, suites)
    tracker.close("FINISHED")
    return CellResult(
        cell=cell.id, name=cell.name, group=cell.group, seed=0, overrides=cell.overrides, status="finished",
        mlflow_run_id=tracker.run_id, suites=suites, train=train,
    )  # fmt: skip


def ranked(results: list[CellResult]) -> Ranking:
    """A ranking of the first ten, which is all that the notes need; the max-T test of 500 is another benchmark's subject."""
    return rank(
        "scale", RankingConfig(gates=(), resamples=1000), results[:SMALL], [], {r.cell: () for r in results[:SMALL]}
    )


def measure(folder: Path, runs: int, chromium: str | None) -> Times:
    """Fills a store and times what a user waits for."""
    os.chdir(folder)
    root = ExperimentFolder(folder / "mlruns" / "harness" / "scale")
    (folder / "scale.yaml").write_text(EXPERIMENT)
    config = load_experiment(folder / "scale.yaml")
    experiment_id = connect(None, "scale")
    client = MlflowClient(current_uri())
    parent = client.create_run(experiment_id, run_name="scale (report)").info.run_id
    results: list[CellResult] = []
    seconds = [
        timed(lambda number=number: results.append(log_run(root, experiment_id, parent, number)))
        for number in range(runs)
    ]
    ranking = ranked(results)

    def finish() -> None:
        log_outcomes(root, ranking, results, {})
        describe_experiment(parent, experiment_id, ranking, results, config)

    first, again = timed(finish), timed(finish)
    results[0] = results[0].model_copy(update={"overrides": {"training.learning_rate": 0.5}})
    changed = timed(finish)
    order = ["metrics.`held_out.exact_match` DESC"]
    search = timed(lambda: client.search_runs([experiment_id], order_by=order, max_results=100))
    models = timed(lambda: client.search_logged_models([experiment_id], order_by=[{"field_name": "metrics.held_out.exact_match"}], max_results=50))  # fmt: skip
    page = load_page(folder, experiment_id, runs + 1, chromium) if chromium else None
    return Times(runs, float(np.median(seconds[-SMALL:])), first, again, changed, search, models, page)


def load_page(folder: Path, experiment_id: str, runs: int, chromium: str) -> float:
    """Seconds until a headless browser shows the experiment's table in our view, the median of three."""
    with serving(folder):
        address = f"http://127.0.0.1:{PORT}/#/experiments/{experiment_id}/runs?viewStateShareKey=harness&workflowType=machine_learning"
        return float(np.median([shown_after(chromium, address, min(runs, 100)) for _ in range(3)]))


def shown_after(chromium: str, address: str, runs: int) -> float:
    """Seconds of a browser from its start to the DOM with the table."""
    command = [
        chromium,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=8000",
        "--dump-dom",
        address,
    ]
    started = time.perf_counter()
    page = subprocess.run(command, capture_output=True, text=True, check=True, timeout=180).stdout
    assert "learning_rate=" in page, f"the page shows none of the {runs} runs"
    return time.perf_counter() - started


@contextmanager
def serving(folder: Path) -> Iterator[None]:
    """`mlflow ui` on the store."""
    command = [sys.executable, "-m", "mlflow", "ui", "--workers", "1", "--port", str(PORT)]
    server = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        for _ in range(120):
            try:
                urlopen(f"http://127.0.0.1:{PORT}/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.5)
        yield
    finally:
        os.killpg(server.pid, 15)
        server.wait()


def as_markdown(small: Times, large: Times) -> str:
    """The two stores side by side."""
    rows = {
        "one worker logs a whole run": (small.log_one, large.log_one),
        "`finish` the first time: tags, findings and note of every run": (small.finish_first, large.finish_first),
        "`finish` again, nothing changed": (small.finish_again, large.finish_again),
        "`finish` after one run changed": (small.finish_one_changed, large.finish_one_changed),
        "`search_runs`, 100 best by the criterion": (small.search_runs, large.search_runs),
        "`search_logged_models`, 50 by the criterion": (small.search_models, large.search_models),
    }
    if small.page is not None and large.page is not None:
        rows["experiment page in headless Chromium, from its start"] = (small.page, large.page)
    lines = [
        f"# MLflow with {large.runs} runs",
        "",
        "Made by `python benchmarks/mlflow_scale.py` on SQLite; every run has 150 params, 4 curves of 60 steps, 6 estimates with "
        "bounds, 72 slices, 2 logged models and 10 traces.",
        "",
        f"| seconds | {small.runs} runs | {large.runs} runs | ratio |",
        "|---|---|---|---|",
        *(f"| {name} | {few:.2f} | {many:.2f} | {many / few:.1f} |" for name, (few, many) in rows.items()),
    ]
    lines += [
        "",
        "The first `finish` writes to all runs, and the search returns 10 runs of the small store and 100 of the large one. The "
        "browser's time includes its start and its fixed wait for the page to settle.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Prints the table, and writes it where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--chromium")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    output = options.output.resolve() if options.output else None
    measured = []
    for runs in (SMALL, options.runs):
        with tempfile.TemporaryDirectory() as folder:
            measured.append(measure(Path(folder), runs, options.chromium))
    text = as_markdown(*measured)
    print(text)
    if output:
        output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
