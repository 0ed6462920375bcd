"""A small experiment whose every text is hostile, and the report on it."""

from pathlib import Path
from typing import Any

from harness.config import ExperimentConfig, RankingConfig
from harness.rank_cells import rank
from harness.records import CellResult, Example, Finding, Generation, SplitSummary, TracePoint, TrainResult
from harness.reports.write import write_reports
from harness.store import ExperimentFolder, write_lines
from tests.helpers import cell_result, coin, suite_result

CANARY = "document.title='PWNED'"
HOSTILE = (
    f"</script></textarea></style><script>{CANARY}</script><img src=x onerror=\"{CANARY}\"><svg onload=\"{CANARY}\">"
    f"<a href=\"javascript:{CANARY}\">x</a>[x](javascript:{CANARY}) {{{{ {CANARY} }}}} ]]> --> <!-- \u2028\u2029 '\"` \x1b[31m "
    "\u202edesrever | & &lt;b&gt;"
)  # fmt: skip
NUM_EXAMPLES = 60
LONG = "B" * 20_000


def trained(seconds: float = 60.0) -> TrainResult:
    """A training that went well."""
    split = SplitSummary(
        source=f"data/{HOSTILE[:60]}.jsonl", digest="0123456789abcdef", rows_read=90, rows_used=88, truncated=1,
        dropped_unsupervised=0, dropped={"overlap": 2}, tokens=9000, supervised_tokens=3000,
    )  # fmt: skip
    return TrainResult(
        steps=40, planned_steps=40, epochs=2.0, seconds=seconds, train_loss="nan", best_step=30, best_eval_loss=0.5, eval_loss=0.6,
        checkpoints={"last": "checkpoints/checkpoint-40"}, splits={"train": split}, device="cpu", dtype="float32",
        num_parameters=1000, num_trainable_parameters=100, peak_memory_gib=None, settings={}, environment={"trl": "1.2.3", "note": HOSTILE},
    )  # fmt: skip


def made_cell(name: str, p: float, *, seed: int = 0, **changes: Any) -> CellResult:
    """A finished cell with three suites, one of them under a name of its own."""
    adherence = suite_result("form", {"all": coin(0.9, NUM_EXAMPLES, seed + 5)})
    adherence = adherence.model_copy(
        update={
            "kind": "template_adherence",
            "slice_metrics": {"all.with_tools": adherence.metrics["all"], "all.plain": adherence.metrics["all"]},
        }
    )
    suites = (
        suite_result("held_out", {"exact_match": coin(p, NUM_EXAMPLES, seed + 1), "rouge_l": coin(p, NUM_EXAMPLES, 3)}),
        suite_result("retention", {"accuracy": coin(0.9, NUM_EXAMPLES, 2)}),
        adherence,
    )
    cell = cell_result(name, *suites, seed=seed)
    return cell.model_copy(update={"train": trained(), "overrides": {"training.learning_rate": p, "note": HOSTILE}, **changes})  # fmt: skip


def hostile_finding(severity: str = "warning") -> Finding:
    """A finding that quotes what a model wrote."""
    return Finding(check="memorization", outcome="fired", severity=severity, message=f"It wrote {HOSTILE}", advice=f"Stop `{HOSTILE}`",
                   threshold=0.5, source=HOSTILE, evidence=(HOSTILE, "A" * 5000))  # fmt: skip


def write_answers(folder: ExperimentFolder, result: CellResult, text: str) -> None:
    """Generations of every suite of a cell, and what was asked."""
    for suite in result.suites:
        lines = [
            Generation(example_id=f"e{i}", prompt=f"{i} {text}", text=f"{result.name[:9]} {text}{LONG if i < 3 else ''}", stop_reason="length",
                       prompt_tokens=3, completion_tokens=4)
            for i in range(NUM_EXAMPLES)
        ]  # fmt: skip
        write_lines(folder.cell(result.cell).generations(suite.suite, suite.digest), lines)
        asked = [Example(id=f"e{i}", text=text, reference=f"reference {i} {text}", slices=(text[:30],)) for i in range(NUM_EXAMPLES)]  # fmt: skip
        write_lines(folder.cell(result.cell).asked(suite.suite, suite.digest), asked)


def hostile_report(path: Path) -> list[Path]:
    """The report on an experiment in which every text that can come from outside is hostile."""
    folder = ExperimentFolder(path)
    cells = [
        made_cell(f"mine {HOSTILE}", 0.9).model_copy(update={"cell": "0000000000aa"}),
        made_cell("other", 0.5, seed=1).model_copy(update={"cell": "0000000000bb"}),
        cell_result("broken", status="failed").model_copy(update={"error": HOSTILE, "cell": "0000000000cc"}),
    ]
    base = made_cell(f"base {HOSTILE}", 0.1, seed=2).model_copy(
        update={"seed": None, "reference": "base", "train": None, "cell": "0000000000dd"}
    )
    for result in (*cells[:2], base):
        write_answers(folder, result, HOSTILE)
        points = [TracePoint(step=i, epoch=0.1, seconds=i, values={"loss": 3.0 / (i + 1), "eval_loss": "nan"}) for i in range(20)]  # fmt: skip
        write_lines(folder.cell(result.cell).trace, points)
    findings = {cells[0].cell: (hostile_finding(),), cells[1].cell: (hostile_finding("info"),)}
    config = ExperimentConfig(
        name="hostile", description=f"Which {HOSTILE}?", model={"name": "m"}, data={"train": "t"},
        ranking=RankingConfig(gates=("no error findings",)),
    )  # fmt: skip
    ranking = rank("hostile", config.ranking, cells, [base], findings)
    return write_reports(config, folder, ranking, cells, [base], findings)
