"""Results made by hand."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from harness.records import CellResult, Finding, Score, SplitSummary, SuiteResult, TrainResult
from harness.stats import estimate


def suite_result(suite: str, metrics: Mapping[str, Sequence[float | None]]) -> SuiteResult:
    """A suite with one score an example and metric."""
    n = len(next(iter(metrics.values())))
    scores = tuple(
        Score(example_id=f"e{i}", metric=name, value=values[i]) for name, values in metrics.items() for i in range(n)
    )
    estimates = {}
    for name, values in metrics.items():
        scored = [value for value in values if value is not None]
        if scored:
            estimates[name] = estimate(scored, len(values) - len(scored))
    return SuiteResult(
        suite=suite, version=1, digest="d", metrics=estimates, scores=scores,
        clusters={f"e{i}": f"e{i}" for i in range(n)}, slices={f"e{i}": () for i in range(n)}, seconds=1.0,
    )  # fmt: skip


def cell_result(
    name: str, *suites: SuiteResult, group: str = "", seed: int | None = 0, status: str = "finished"
) -> CellResult:
    """A cell with these suites."""
    return CellResult(
        cell=f"id-{name}", name=name, group=group or name, seed=seed, overrides={"training.learning_rate": 1e-3}, status=status,
        stage="training" if status == "failed" else "", error="it broke" if status == "failed" else "",
        mlflow_run_id=f"run-{name}", suites=suites, reference="base" if seed is None else None,
    )  # fmt: skip


def write_orders(path: Path, count: int = 40) -> None:
    """A file of short conversations that differ, so that a tiny training is quick and its splits share nothing."""
    flowers, days = ("roses", "tulips", "lilies", "asters", "irises"), ("Monday", "Tuesday", "Friday", "Sunday")
    rows = []
    for n in range(count):
        flower, day = flowers[n % 5], days[n % 4]
        asked = {"role": "user", "content": f"I want {n} {flower} for {day}."}
        rows.append({"messages": [asked, {"role": "assistant", "content": f"I noted {n} {flower} for {day}."}]})
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def coin(p: float, n: int, seed: int) -> list[float]:
    """n draws of 0 or 1; the same seed gives scores that are paired item by item."""
    return (np.random.default_rng(seed).random(n) < p).astype(float).tolist()


def error_finding(check: str = "diverged") -> Finding:
    """A finding that fails the gate."""
    return Finding(check=check, outcome="fired", severity="error", message="The loss went up.", advice="Lower it.")


def trained_for(steps: int) -> TrainResult:
    """A training that came to its end."""
    split = SplitSummary(
        source="train.jsonl", digest="0123456789ab", rows_read=9, rows_used=9, truncated=0, dropped_unsupervised=0, tokens=90,
        supervised_tokens=40,
    )  # fmt: skip
    return TrainResult(
        steps=steps, planned_steps=steps, epochs=1.0, seconds=9.0, train_loss=0.1, best_step=None, best_eval_loss=None, eval_loss=None,
        checkpoints={"last": f"checkpoints/checkpoint-{steps}"}, splits={"train": split}, device="cpu", dtype="float32",
        num_parameters=10, num_trainable_parameters=10, peak_memory_gib=None, settings={}, environment={},
    )  # fmt: skip
