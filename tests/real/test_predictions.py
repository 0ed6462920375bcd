"""Two public systems' answers to the same 252 prompts: an untuned base that never stops, and a tuned one."""

import json
from functools import lru_cache
from pathlib import Path

import pytest

from harness.diagnose.cell import output_findings
from harness.diagnose.evidence import Evidence
from harness.records import Example, Finding, Generation

UNTUNED, TUNED = "davinci", "text-davinci-001"


@lru_cache
def findings(folder: Path, system: str) -> dict[str, Finding]:
    """What the checks say of one system's answers, of which nobody knows how they ended."""
    lines = (folder / "datasets" / f"self_instruct_{system}_predictions.jsonl").read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line]
    examples = [Example(id=str(i), text=row["prompt"], reference=row["target"]) for i, row in enumerate(rows)]
    generations = [
        Generation(
            example_id=str(i), prompt="", text=row["response"], stop_reason="unknown", prompt_tokens=0, completion_tokens=0
        )
        for i, row in enumerate(rows)
    ]  # fmt: skip
    evidence = Evidence(
        loss=[],
        grad_norm=[],
        eval_loss=[],
        generations={"predictions": generations},
        examples={"predictions": examples},
    )
    return {finding.check: finding for finding in output_findings(evidence)}


def test_the_untuned_model_repeats_itself(real_data: Path) -> None:
    found = findings(real_data, UNTUNED)["repetition"]
    assert (found.outcome, found.severity) == ("fired", "warning")
    assert found.statistic is not None
    assert found.statistic > 0.95


def test_the_untuned_model_never_stops(real_data: Path) -> None:
    found = findings(real_data, UNTUNED)["format_inconsistency"]
    assert (found.outcome, found.severity) == ("fired", "error")
    assert found.evidence[0].startswith("failure: runs_on: 24")


@pytest.mark.parametrize("check", ["repetition", "format_inconsistency", "low_diversity"])
def test_the_tuned_model_is_clear(check: str, real_data: Path) -> None:
    assert findings(real_data, TUNED)[check].outcome == "clear"
