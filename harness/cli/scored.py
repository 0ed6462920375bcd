"""Prints what predictions are worth."""

import json
from collections import Counter

from rich.markup import escape
from rich.table import Table

from harness.cli.tables import console_for_results, findings_table
from harness.gates import shown
from harness.score import Scored


def scored_json(scored: Scored) -> str:
    """The contract that scripts rely on."""
    examples: dict[str, dict[str, object]] = {}
    for score in scored.result.scores:
        entry = examples.setdefault(score.example_id, {"id": score.example_id, "scores": {}, "failure": ""})
        scores = entry["scores"]
        assert isinstance(scores, dict)
        scores[score.metric] = score.value
        entry["failure"] = entry["failure"] or score.failure
    content = {
        "name": scored.name,
        "metrics": {name: value.model_dump(mode="json") for name, value in scored.result.metrics.items()},
        "examples": list(examples.values()),
        "findings": [finding.model_dump(mode="json") for finding in scored.findings],
    }
    return json.dumps(content, indent=2)


def scored_table(scored: Scored) -> None:
    """Every metric with its interval, the commonest failures, and what fired."""
    console = console_for_results()
    console.print(
        f"[bold]{escape(scored.name)}[/bold] on {len(scored.result.clusters)} examples of {scored.result.suite}"
    )
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("metric", "value [95 %]", "n", "unscored"):
        table.add_column(column)
    for name, estimate in scored.result.metrics.items():
        table.add_row(escape(name), shown(estimate), str(estimate.n), str(estimate.unscored or ""))
    console.print(table)
    failures = Counter(score.failure for score in scored.result.scores if score.failure)
    if failures:
        console.print("Failures: " + ", ".join(f"{escape(name)} {count}" for name, count in failures.most_common(5)))
    findings_table(scored.findings)
