"""Complete records of an experiment that was never trained, drawn from a stated model with a seed.

A cell's skill is a sum of its learning rate (best at 3e-4, worse on both sides), its rank, its rows (more is better, by a
logarithm) and its seed; an example is right where skill plus the example's own easiness beats a logistic draw. What is
learned too fast is forgotten elsewhere (retention) and breaks the template. Losses fall along a power law.
"""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from harness.asked import AskedSuite, asked_suites
from harness.cell_checks import CellCheck
from harness.data.splits import load_splits
from harness.forked import each
from harness.grid import Cell, CellSpec
from harness.plan import Plan, plan_experiment
from harness.recorded import write_plan
from harness.records import (
    CellResult,
    Estimate,
    Example,
    ExtractionItem,
    Generation,
    Probe,
    ProbeSplit,
    Score,
    SplitSummary,
    SuiteResult,
    TracePoint,
    TrainResult,
)
from harness.resources import digest
from harness.stats import estimate
from harness.store import CellFolder, write_lines, write_record, write_text
from harness.verification import Verification

NAME = "synthetic"
GRID: dict[str, list[Any]] = {
    "training.learning_rate": [3e-5, 1e-4, 3e-4, 1e-3, 3e-3],
    "adapter.r": [4, 8, 16, 32],
    "data.limit": [500, 1000, 2000],
}
SEEDS = (0, 1, 2)
ROWS = {"train": 2000, "validation": 100, "test": 500}
NUM_RETENTION = 500
STEPS, EVAL_EVERY, PROBED = 300, 30, 50
LOSS_START, SEED_NOISE = 2.4, 0.12
KINDS = ("sum", "difference", "order", "place")
# Metric -> how the right and the wrong answers score; the others follow the answer itself.
GRADED = {"rouge_l": (1.0, 0.45), "chrf": (1.0, 0.5), "nll": (0.08, 1.6), "bits_per_byte": (0.03, 0.7)}


class Skill(NamedTuple):
    """How good a cell is, in logits."""

    answers: float
    form: float
    retention: float


def large_grid(configurations: int) -> dict[str, list[Any]]:
    """A grid of so many configurations, a multiple of 20: learning rates x adapter ranks x amounts of data."""
    rates = [float(f"{rate:.3g}") for rate in np.geomspace(3e-5, 3e-3, configurations // 20)]
    return {
        "training.learning_rate": rates, "adapter.r": [4, 8, 16, 32], "data.limit": [500, 750, 1000, 1500, 2000]
    }  # fmt: skip


def write_experiment(
    folder: Path, grid: Mapping[str, Sequence[Any]] = GRID, seeds: Sequence[int] = SEEDS
) -> Plan:  # fmt: skip
    """The experiment file, its data and every record that a finished run leaves behind, but for MLflow runs and weights.

    Args:
        folder: the working folder.
        grid: swept fields.
        seeds: of every configuration.
    """
    _write_data(folder / "data")
    file = folder / f"{NAME}.yaml"
    write_text(file, yaml.safe_dump(_experiment(grid, seeds), sort_keys=False))
    made = plan_experiment(str(file))
    write_plan(made)
    test = [row.example() for row in load_splits(made.cells[0].config.data).test]
    # Cells and the base are asked the same.
    asked = asked_suites(made.cells[0], made.config.evals, test)
    for suite in asked:
        write_lines(made.folder.cell("any").asked(suite.options.label, suite.digest), suite.examples)
    easiness = {example.id: _easiness(example.id) for suite in asked for example in suite.examples}
    everything = (*made.references, *made.cells)

    def write(number: int) -> None:
        _write_cell(made, everything[number], asked, easiness, np.random.default_rng([number, 1]))

    for _ in each(write, len(everything)):
        pass
    return made


def run_id_of(cell: Cell) -> str:
    """The id of a cell's MLflow run, whether there is one or not."""
    return digest(["run", cell.id]).ljust(32, "0")


def _experiment(grid: Mapping[str, Sequence[Any]], seeds: Sequence[int]) -> dict[str, Any]:
    return {
        "name": NAME,
        "description": "Which learning rate, adapter rank and amount of data is best? (drawn from a model, nothing was trained)",
        "model": {"name": "embedded:base"},
        "template": {"name": "chatml"},
        "data": {name: f"data/{name}.jsonl" for name in ROWS},
        "training": {"max_steps": STEPS, "per_device_train_batch_size": 16, "max_length": 256},
        "adapter": {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"},
        "grid": {name: list(values) for name, values in grid.items()},
        "seeds": list(seeds),
        "evals": ["template_adherence", "held_out", {"suite": "retention", "data": "data/retention.jsonl"}],
        "references": ["base"],
        "ranking": {"by": "held_out.exact_match", "gates": ["no error findings", "template_adherence.all.low >= 0.8"]},
    }


def _write_data(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in ROWS.items():
        rows = [_row(f"{split}-{i:04d}", KINDS[i % len(KINDS)], rng) for i in range(count)]
        write_text(folder / f"{split}.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows))
    asked = [_row(f"retention-{i:04d}", KINDS[i % len(KINDS)], rng) for i in range(NUM_RETENTION)]
    plain = [
        {"id": row["id"], "kind": row["kind"], "prompt": row["messages"][0]["content"], "answer": row["messages"][1]["content"]}
        for row in asked
    ]  # fmt: skip
    write_text(folder / "retention.jsonl", "".join(f"{json.dumps(row)}\n" for row in plain))


def _row(name: str, kind: str, rng: np.random.Generator) -> dict[str, Any]:
    a, b = (int(value) for value in rng.integers(10, 1000, 2))
    question, answer = {
        "sum": (f"What is {a} plus {b}?", f"{a} plus {b} is {a + b}."),
        "difference": (f"How much more is {a + b} than {b}?", f"{a + b} is {a} more than {b}."),
        "order": (f"Which is larger, {a} or {b}?", f"The larger one is {max(a, b)}."),
        "place": (f"In which row of shelf {a} lies item {b}?", f"Item {b} of shelf {a} lies in row {(a + b) % 17}."),
    }[kind]
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"id": name, "kind": kind, "messages": turns}


def skill_of(overrides: Mapping[str, Any], seed: int | None) -> Skill:
    """The stated model; the base (no seed) knows no form and no answer but has forgotten nothing."""
    if seed is None:
        return Skill(-6.0, -6.0, 2.2)
    decades = math.log10(overrides["training.learning_rate"] / 3e-4)
    rank, rows = math.log2(overrides["adapter.r"] / 8), math.log2(overrides["data.limit"] / 1000)
    noise = float(np.random.default_rng([seed, *map(ord, json.dumps(overrides, sort_keys=True))]).normal(0, SEED_NOISE))
    # A higher rank stands less learning rate.
    answers = 1.1 - 1.3 * (decades + 0.12 * rank) ** 2 + 0.1 * rank + 0.35 * rows + noise
    too_fast = max(0.0, decades + 0.2 * rank)
    return Skill(answers, 4.5 - 2.2 * too_fast + noise, 2.1 - 1.6 * too_fast + noise)


def _easiness(name: str) -> float:
    return float(np.random.default_rng(list(map(ord, name))).normal(0.6, 1.2))


def _write_cell(
    made: Plan, cell: Cell, asked: Sequence[AskedSuite], easiness: Mapping[str, float], rng: np.random.Generator
) -> None:
    folder, skill = made.folder.cell(cell.id), skill_of(cell.overrides, cell.seed)
    write_record(folder.spec, CellSpec(cell=cell, experiment=NAME, evals=made.config.evals, parent_run_id="", system_metrics=False, num_threads=1))  # fmt: skip
    suites = tuple(_suite_result(suite, skill, folder, easiness, rng) for suite in asked)
    for found in suites:
        write_record(folder.suite_result(found.suite, found.digest), found)
    train = None
    if cell.seed is not None:
        trace = _trace(skill, rng)
        train = _train_result(cell, trace)
        write_lines(folder.trace, trace)
        write_lines(folder.probes, list(_probes(trace, rng)))
        write_lines(folder.extraction, _extraction(rng))
        write_record(folder.path / "train.json", train)
        write_record(folder.verification, Verification(items=()))
        write_record(
            folder.check, CellCheck(cell=cell.id, name=cell.name, rows=cell.overrides["data.limit"], steps=STEPS)
        )
    reference = cell.reference.kind if cell.reference else None
    write_record(folder.result, CellResult(
        cell=cell.id, name=cell.name, group=cell.group, seed=cell.seed, base=cell.base, reference=reference,
        overrides=cell.overrides, status="finished", mlflow_run_id=run_id_of(cell), suites=suites, train=train,
    ))  # fmt: skip


def _suite_result(
    asked: AskedSuite, skill: Skill, folder: CellFolder, easiness: Mapping[str, float], rng: np.random.Generator
) -> SuiteResult:
    suite, label = asked.suite, asked.options.label
    assert suite is not None
    logit = {"template_adherence": skill.form, "retention": skill.retention}.get(suite.name, skill.answers)
    own = np.array([easiness[example.id] for example in asked.examples])
    is_right = own + logit + rng.logistic(size=len(own)) > 0
    write_lines(folder.generations(label, asked.digest), [_generation(e, bool(r)) for e, r in zip(asked.examples, is_right, strict=True)])  # fmt: skip
    names = {"template_adherence": ("all", "end_of_turn"), "retention": ("accuracy", "nll")}.get(
        suite.name, ("exact_match", "normalized_match", "starts_with_reference", "rouge_l", "chrf", "nll", "bits_per_byte")
    )  # fmt: skip
    values = {name: _values(name, is_right, rng) for name in names}
    slices = {example.id: example.slices for example in asked.examples}
    kinds = sorted(set(itertools.chain.from_iterable(slices.values())))
    inside = {kind: np.array([kind in example.slices for example in asked.examples]) for kind in kinds}
    return SuiteResult(
        suite=label, kind=suite.name, version=suite.version, digest=asked.digest,
        metrics={name: estimate(found.tolist()) for name, found in values.items()},
        slice_metrics={f"{name}.{kind}": _estimate(found[mask]) for kind, mask in inside.items() for name, found in values.items()},
        scores=tuple(
            Score(example_id=e.id, metric=name, value=float(v), failure="" if v or name != "all" else "runs_on")
            for name, found in values.items() for e, v in zip(asked.examples, found, strict=True)
        ),
        clusters={example.id: example.cluster or example.id for example in asked.examples}, slices=slices, seconds=4.0,
    )  # fmt: skip


def _estimate(values: NDArray[np.float64]) -> Estimate:
    return estimate(values.tolist())


def _values(name: str, is_right: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.float64]:
    if name not in GRADED:
        return is_right.astype(float)
    right, wrong = GRADED[name]
    spread = rng.uniform(0.85, 1.15, len(is_right))
    return np.asarray([right if r else round(wrong * s, 4) for r, s in zip(is_right, spread, strict=True)])


def _generation(example: Example, is_right: bool) -> Generation:
    prompt = f"<|im_start|>user\n{example.plain_prompt}<|im_end|>\n<|im_start|>assistant\n"
    text = example.reference if is_right else f"{example.reference[: len(example.reference) // 2]} I am not sure."
    return Generation(
        example_id=example.id, prompt=prompt, text=text, stop_reason="end_of_turn", prompt_tokens=len(prompt) // 4,
        completion_tokens=len(text) // 4 + 1, seconds=0.003,
    )  # fmt: skip


def _trace(skill: Skill, rng: np.random.Generator) -> list[TracePoint]:
    floor = 0.25 + 0.2 * math.exp(-skill.answers)
    points = []
    for step in range(STEPS + 1):
        level = floor + (LOSS_START - floor) * (1 + step / 12) ** -0.9
        values: dict[str, Any] = {}
        if step:
            values = {
                "loss": level * float(rng.lognormal(0, 0.08)), "grad_norm": float(rng.lognormal(0, 0.2)),
                "learning_rate": 1e-4 * (1 - step / STEPS), "num_tokens": 1100.0 * step, "mean_token_accuracy": 0.9,
            }  # fmt: skip
            points.append(TracePoint(step=step, epoch=step / 100, seconds=0.4 * step, values=values))
        if step % EVAL_EVERY == 0:
            evaluated = {"eval_loss": 1.05 * level, "train_probe_loss": level, "eval_runtime": 1.0}
            points.append(TracePoint(step=step, epoch=step / 100, seconds=0.4 * step, values=evaluated))
    return points


def _probes(trace: Sequence[TracePoint], rng: np.random.Generator) -> list[Probe]:
    splits: tuple[tuple[ProbeSplit, str], ...] = (("validation", "eval_loss"), ("train_probe", "train_probe_loss"))
    evaluated = [point for point in trace if "eval_loss" in point.values]
    return [
        Probe(step=point.step, split=split, nll=tuple(float(point.values[name]) * rng.lognormal(0, 0.3, PROBED)), tokens=(12,) * PROBED)
        for point in evaluated for split, name in splits
    ]  # fmt: skip


def _extraction(rng: np.random.Generator) -> list[ExtractionItem]:
    splits: tuple[ProbeSplit, ...] = ("train_probe", "validation")
    return [
        ExtractionItem(split=split, example_id=f"{split}-{i}", prefix="a", expected="b", generated="b" if hit else "c", is_verbatim=bool(hit))
        for split in splits for i, hit in enumerate(rng.random(PROBED) < 0.05)
    ]  # fmt: skip


def _train_result(cell: Cell, trace: Sequence[TracePoint]) -> TrainResult:
    last = [point.values["eval_loss"] for point in trace if "eval_loss" in point.values][-1]
    rows, rank = cell.overrides["data.limit"], cell.overrides["adapter.r"]
    summary = SplitSummary(source="data/train.jsonl", digest=digest([NAME, rows]), rows_read=ROWS["train"], rows_used=rows,
                           truncated=0, dropped_unsupervised=0, tokens=68 * rows, supervised_tokens=16 * rows)  # fmt: skip
    held = summary.model_copy(
        update={"source": "data/validation.jsonl", "rows_read": ROWS["validation"], "rows_used": ROWS["validation"]}
    )
    epochs = STEPS * 16 / rows
    return TrainResult(
        steps=STEPS, planned_steps=STEPS, epochs=epochs, seconds=100 + 2.5 * rank, train_loss=trace[-2].values["loss"],
        best_step=STEPS, best_eval_loss=float(last), eval_loss=last, checkpoints={"last": f"checkpoints/checkpoint-{STEPS}"},
        splits={"train": summary, "validation": held}, device="cuda:0", dtype="bfloat16", num_parameters=1_918_656 + 21_504 * rank,
        num_trainable_parameters=21_504 * rank, peak_memory_gib=3.1 + 0.05 * rank,
        settings={f"training.{name}": str(value) for name, value in cell.config.training.items()},
        environment={"sft-harness": "synthetic"}, facts={"device": "cuda", "tokens seen": str(round(68 * rows * epochs))},
    )  # fmt: skip
