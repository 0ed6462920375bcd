"""The report as Markdown, for a pull request or a chat."""

from collections.abc import Mapping, Sequence

from harness.comparability import sentence
from harness.gates import shown
from harness.records import Estimate, warning_names
from harness.reports.content import Content


def as_markdown(content: Content) -> str:
    """Answer, ranking, exclusions, warning signs, how to reproduce."""
    ranking = content.ranking
    metrics = [
        m
        for m in dict.fromkeys((ranking.criterion, "template_adherence.all", "retention.accuracy"))
        if m in content.metric_names
    ]
    lines = [f"# {ranking.experiment}", "", _safe(content.config.description), "", f"**{_safe(content.answer)}**", ""]
    lines += [f"- {step}" for step in content.next_steps]
    lines += ["", f"| rank | cell | {' | '.join(metrics)} | warning signs |", f"|---|---|{'---|' * len(metrics)}---|"]
    for row in ranking.rows:
        low, high = row.rank_interval
        place = str(low) if low == high else f"{low}-{high}"
        name = f"**{_safe(row.name)}**" if row.in_best_set else _safe(row.name)
        lines.append(f"| {place} | {name} | {_values(row.metrics, metrics)} | {warning_names(row.findings)} |")
    lines += [
        f"| - | {_safe(e.name)} | {_values(e.metrics, metrics)} | {warning_names(e.findings)} |"
        for e in ranking.excluded
    ]
    lines += [f"| ref | {_safe(r.name)} | {_values(r.metrics, metrics)} | |" for r in ranking.references]
    lines += ["", f"n = {ranking.num_examples} examples; values with 95 % intervals; bold: best set.", ""]
    lines += [f"> {caveat}" for caveat in ranking.caveats]
    lines += [f"> Not quite comparable: {sentence(difference)}" for difference in ranking.not_comparable]
    if ranking.excluded:
        lines += ["", "## Not ranked", "", *(f"- **{_safe(e.name)}**: {_safe(e.reason)}" for e in ranking.excluded)]
    lines += ["", "## Warning signs", ""]
    for entry in content.findings:
        fired = [f for f in entry.findings if f.outcome == "fired"]
        lines += [f"- **{_safe(entry.name)}** {f.check} ({f.severity}): {_safe(f.message)} {f.advice}" for f in fired]
    if content.checks:
        lines += ["", "## Found before training", "", *(f"- {_safe(line)}" for line in content.checks)]
    environment = ", ".join(f"{key} {value}" for key, value in content.environment.items())
    lines += [
        "",
        "## Reproduce",
        "",
        f"`harness run {ranking.experiment}.yaml`, seeds {list(content.config.seeds)}",
        "",
        environment,
        "",
    ]
    return "\n".join(lines)


def _safe(text: str) -> str:
    """Text that can't break a table or start markup."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _values(metrics: Mapping[str, Estimate], names: Sequence[str]) -> str:
    return " | ".join(shown(metrics[name]) if name in metrics else "" for name in names)
