"""Experiments made by hand, as their records lie on disk, for what compares them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.config import RunConfig
from harness.eval_config import EvalConfig
from harness.grid import Cell, CellSpec
from harness.records import CellResult, Example, Generation, SplitSummary, TracePoint, TrainResult
from harness.store import CellFolder, experiment_folder, write_lines, write_record, write_text
from tests.helpers import suite_result

Scores = Mapping[str, Sequence[float | None]]


def trained(tokens: int = 100, **settings: str) -> TrainResult:
    """A training of two epochs with these settings in force."""
    split = SplitSummary(
        source="t", digest="t", rows_read=4, rows_used=4, truncated=0, dropped_unsupervised=0, tokens=3 * tokens,
        supervised_tokens=tokens,
    )  # fmt: skip
    return TrainResult(
        steps=4, planned_steps=4, epochs=2.0, seconds=9.0, train_loss=0.1, best_step=None, best_eval_loss=None, eval_loss=None,
        checkpoints={"last": "checkpoints/checkpoint-4"}, splits={"train": split}, device="cpu", dtype="float32",
        num_parameters=10, num_trainable_parameters=10, peak_memory_gib=None,
        settings={"training.output_dir": f"/x/{tokens}", "training.seed": str(tokens), **settings},
        environment={"torch": "2"}, facts={"supervised tokens": str(tokens), "torch": "2"},
    )  # fmt: skip


def write_cell(
    experiment: str, name: str, suites: Mapping[str, Scores], *, seed: int | None = 0, group: str = "",
    config: Mapping[str, Any] | None = None, train: TrainResult | None = None, texts: Sequence[str] = (), digest: str = "d",
) -> CellFolder:  # fmt: skip
    """A cell (without a seed: the base) with its answers, its trace and what it was asked."""
    folder = experiment_folder(experiment)
    if not folder.config.exists():
        write_text(folder.config, json.dumps({"config": {"ranking": {"by": "held_out.exact_match"}}}))
    cell = folder.cell(f"{name.encode().hex()[:20]}{seed or 0}")
    results = [suite_result(suite, scores).model_copy(update={"digest": digest}) for suite, scores in suites.items()]
    run = RunConfig.model_validate({"model": {"name": "m"}, "data": {"train": "t.jsonl"}, **(config or {})})
    result = CellResult(
        cell=cell.path.name, name=name, group=group or name, seed=seed, overrides={}, status="finished",
        mlflow_run_id=cell.path.name.rjust(32, "0"), suites=tuple(results), train=train,
        reference="base" if seed is None else None,
    )  # fmt: skip
    spec = Cell(id=result.cell, name=name, group=result.group, overrides={}, seed=seed, config=run)
    evals = tuple(EvalConfig(suite=suite) for suite in suites)
    write_record(cell.result, result)
    write_record(
        cell.spec,
        CellSpec(cell=spec, experiment=experiment, evals=evals, parent_run_id="", system_metrics=False, num_threads=1),
    )
    for suite in results:
        ids = list(suite.clusters)
        write_lines(
            cell.generations(suite.suite, digest),
            [_generation(i, texts[k] if k < len(texts) else f"{name} {i}") for k, i in enumerate(ids)],
        )
        write_lines(
            cell.asked(suite.suite, digest), [Example(id=i, text=f"ask {i}", reference=f"want {i}") for i in ids]
        )
    if train:
        points = [
            TracePoint(step=s, epoch=s / 2, seconds=s, values={"loss": 4.0 - s, "eval_loss": 5.0 - s}) for s in range(4)
        ]
        write_lines(cell.trace, points)
    return cell


def _generation(example_id: str, text: str) -> Generation:
    return Generation(
        example_id=example_id, prompt="", text=text, stop_reason="end_of_turn", prompt_tokens=1, completion_tokens=1
    )


def write_predictions(path: Path, answers: Mapping[str, str]) -> str:
    """A file of predictions."""
    write_text(path, "".join(json.dumps({"id": key, "prediction": text}) + "\n" for key, text in answers.items()))
    return str(path)
