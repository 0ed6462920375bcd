"""The ranking for a terminal, and the JSON that scripts rely on."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.cli.tables import console_for_results
from harness.comparability import sentence, some
from harness.gates import shown, signed
from harness.plan import Plan
from harness.ranking import Ranking, RankingRow
from harness.records import Estimate, Finding, warning_names

LEFT, HEADER, NUMBER = 53, 11, 5
"""Characters that the columns up to the first secondary metric take at least, of a header's line, and of a bare value."""
SHOWN_METRICS = ("held_out.exact_match", "template_adherence.all", "retention.accuracy")
MOST_NAMES = 6
MOST_ROWS, MOST_OTHERS = 40, 10
"""Ranked rows that a screen shows, and rows that are not ranked or kinds of reasons."""
ROW_FIELDS = ("rank", "rank_interval", "in_best_set", "cell", "name", "seed_count", "mlflow_run_ids", "metrics",
              "simultaneous_interval", "difference_to_base", "difference_to_best", "confirmed", "probability_best",
              "is_pareto")  # fmt: skip
"""Of a row in the JSON, as they are in the record."""


def ranking_json(ranking: Ranking) -> str:
    """The contract of `rank --json`."""
    rows = [
        row.model_dump(mode="json", include=set(ROW_FIELDS)) | {"findings": _findings(row.findings)}
        for row in ranking.rows
    ]
    excluded = [
        e.model_dump(mode="json", include={"cell", "name", "reason", "metrics"}) | {"findings": _findings(e.findings)}
        for e in ranking.excluded
    ]
    content = {
        "experiment": ranking.experiment,
        "criterion": ranking.criterion,
        "secondary": list(ranking.secondary),
        "rows": [{name: row[name] for name in (*ROW_FIELDS, "findings")} for row in rows],
        "excluded": excluded,
        "references": [reference.model_dump(mode="json") for reference in ranking.references],
        "num_examples": ranking.num_examples,
        "items": ranking.num_examples,
        "clusters": ranking.num_clusters,
        "confirm_items": ranking.num_confirm_examples,
        "seeds": ranking.num_seeds,
        "mde": ranking.minimum_detectable_difference,
        "minimum_detectable_difference": ranking.minimum_detectable_difference,
        "optimism": ranking.optimism,
        "method": ranking.method,
        "caveats": list(ranking.caveats),
        "not_comparable": [difference.model_dump(mode="json") for difference in ranking.not_comparable],
    }
    return json.dumps(content, indent=2)


def _findings(values: Sequence[Finding]) -> list[dict[str, Any]]:
    return [f.model_dump(mode="json", include={"check", "outcome", "severity", "message", "advice"}) for f in values]


def print_outcome(made: Plan, ranking: Ranking) -> None:
    """The end of `harness run`: ranking, report, UI."""
    ranking_table(ranking)
    console = console_for_results()
    console.print(f"\nReport: {made.folder.report('html')}", soft_wrap=True)
    console.print(f"Runs:   harness ui {made.config.name}   (or plain `mlflow ui` in this folder)", soft_wrap=True)


def ranking_table(ranking: Ranking, *, is_whole: bool = False) -> None:
    """The ranking, what was excluded and why, and what to know before believing it.

    Args:
        ranking: of an experiment.
        is_whole: all rows; by default the first of them where there are many.
    """
    console = console_for_results()
    console.print(
        f"\n[bold]{escape(ranking.experiment)}[/bold] ranked by {ranking.criterion} on {ranking.num_examples} examples"
    )
    rows, excluded = (len(ranking.rows), len(ranking.excluded)) if is_whole else (MOST_ROWS, MOST_OTHERS)
    console.print(_table(ranking, console.width, rows, excluded))
    more = [
        f"{n:,} more {what}"
        for n, what in ((len(ranking.rows) - rows, "ranked"), (len(ranking.excluded) - excluded, "not ranked"))
        if n > 0
    ]
    if more:
        console.print(f"[bold]and {' and '.join(more)}[/bold]; `harness rank --all` shows every row")
    if _has_pareto(ranking):
        metrics = f"{', '.join((ranking.criterion, *ranking.secondary[:-1]))} and {ranking.secondary[-1]}"
        console.print(f"[dim]* Pareto: no ranked row is as good in {metrics}, and better in one[/dim]")
    _best(console, ranking)
    _reasons(console, ranking)
    _figures(console, ranking)


def _table(ranking: Ranking, width: int, most: int, most_excluded: int) -> Table:
    entries: list[Mapping[str, Estimate]] = [entry.metrics for entry in ranking.rows]
    entries += [entry.metrics for entry in ranking.excluded] + [entry.metrics for entry in ranking.references]
    others = [name for name in dict.fromkeys((*ranking.secondary, *SHOWN_METRICS)) if name != ranking.criterion]
    known = _that_fit([name for name in others if any(name in values for values in entries)], width)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("rank", justify="right", no_wrap=True)
    table.add_column("cell", overflow="fold", min_width=14)
    table.add_column(_header(ranking.criterion), justify="right", no_wrap=True)
    compares = len(ranking.rows) > 1
    if compares:
        table.add_column("against\nthe first", justify="right", no_wrap=True)
    for metric in known:
        table.add_column(_header(metric), justify="right", no_wrap=True)

    def add(place: str, name: str, metrics: Mapping[str, Estimate], versus: str, style: str | None) -> None:
        values = [f"{metrics[other].value:.3f}" if other in metrics else "" for other in known]
        ours = _with_margin(metrics[ranking.criterion]) if ranking.criterion in metrics else ""
        table.add_row(place, escape(name), ours, *([versus] if compares else []), *values, style=style)

    for row in ranking.rows[:most]:
        low, high = row.rank_interval
        mark = ("*" if row.is_pareto else " ") if _has_pareto(ranking) else ""
        versus = _with_margin(row.difference_to_best, "+") if row.difference_to_best else ""
        place = f"{low}" if low == high else f"{low}-{high}"
        add(place + mark, row.name, row.metrics, versus, "green" if row.in_best_set else None)
    for excluded in ranking.excluded[:most_excluded]:
        add("-", excluded.name, excluded.metrics, "", "dim")
    for reference in ranking.references:
        add("ref", reference.name, reference.metrics, "", "cyan")
    return table


def _has_pareto(ranking: Ranking) -> bool:
    return bool(ranking.secondary) and len(ranking.rows) > 1


def _header(metric: str) -> str:
    """A metric's name on several short lines; the dots between them are left out, for names of cells need the room."""
    lines = [""]
    for part in re.findall(r"[^._]*[._]?", metric):
        if len(lines[-1] + part) > HEADER:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.removesuffix(".") for line in lines)


def _with_margin(estimate: Estimate, sign: str = "") -> str:
    return f"{estimate.value:{sign}.3f} ±{(estimate.high - estimate.low) / 2:.3f}"


def _that_fit(metrics: Sequence[str], width: int) -> list[str]:
    """The first metrics whose columns leave room for those that come before them."""
    left = width - LEFT
    fitting: list[str] = []
    for metric in metrics:
        left -= max(NUMBER, *(len(part) for part in _header(metric).split("\n"))) + 2
        if left >= 0:
            fitting.append(metric)
    return fitting


def _best(console: Console, ranking: Ranking) -> None:
    best = [row for row in ranking.rows if row.in_best_set]
    names = ", ".join(row.name for row in best[:MOST_NAMES])
    if len(best) > MOST_NAMES:
        names += f" and {len(best) - MOST_NAMES:,} more"
    if len(best) == 1:
        console.print(f"\nBest: [green]{escape(names)}[/green]")
    elif best:
        console.print(f"\nBest set (no sure difference between them): [green]{escape(names)}[/green]")
    else:
        console.print("\n[yellow]No cell passed the gates.[/yellow]")
        return
    if best[0].difference_to_base:
        console.print(f"Against the base: {escape(signed(best[0].difference_to_base))}")
    if confirmed := [row for row in best if row.confirmed]:
        console.print(f"Confirmed on {ranking.num_confirm_examples} examples that took no part in choosing:")
        for row in confirmed[:MOST_NAMES]:
            console.print(f"  [green]{escape(row.name)}[/green]  {escape(_confirmed(row))}")
        if len(confirmed) > MOST_NAMES:
            console.print(f"  and {len(confirmed) - MOST_NAMES} more; `--json` has them all")


def _confirmed(row: RankingRow) -> str:
    return shown(row.confirmed) if row.confirmed else ""


def _reasons(console: Console, ranking: Ranking) -> None:
    """Every reason once, with those that share it: many rows mostly have the same few."""
    warned, excluded = dict[str, list[str]](), dict[str, list[str]]()
    for row in ranking.rows:
        if fired := warning_names(row.findings):
            warned.setdefault(fired, []).append(row.name)
    for entry in ranking.excluded:
        fired = warning_names(entry.findings) if entry.is_finished else ""
        excluded.setdefault(fired or _short(entry.reason), []).append(entry.name)
    for why, names in list(warned.items())[:MOST_OTHERS]:
        console.print(f"- [yellow]{escape(some(names))}[/yellow]: {escape(why)}")
    for why, names in list(excluded.items())[:MOST_OTHERS]:
        console.print(f"- not ranked: {escape(some(names))}: {escape(why)}")
    if more := max(len(warned) - MOST_OTHERS, 0) + max(len(excluded) - MOST_OTHERS, 0):
        console.print(f"- and {more:,} more reasons; the report has them all")


def _figures(console: Console, ranking: Ranking) -> None:
    """What the order rests on, and what to know before believing it."""
    if ranking.rows:
        clusters = f" in {ranking.num_clusters} clusters" if ranking.num_clusters < ranking.num_examples else ""
        kept = f" (and {ranking.num_confirm_examples} kept to confirm)" if ranking.num_confirm_examples else ""
        seeds = f"; seeds: {ranking.num_seeds}" if ranking.num_seeds else ""
        console.print(f"[dim]Examples: {ranking.num_examples}{clusters}{kept}{seeds}[/dim]")
    if ranking.minimum_detectable_difference is not None:
        least = f"{ranking.minimum_detectable_difference:.3f}"
        console.print(f"[dim]Minimum detectable difference between the first two: {least} (80 % power)[/dim]")
    if ranking.rows and ranking.method:
        console.print(f"[dim]Method: {escape(ranking.method)}[/dim]")
    for difference in ranking.not_comparable:
        console.print(f"[yellow]Not quite comparable:[/yellow] {escape(sentence(difference))}", soft_wrap=True)
    for caveat in ranking.caveats:
        console.print(f"[dim]{escape(caveat)}[/dim]")


def _short(reason: str, limit: int = 160) -> str:
    return reason if len(reason) <= limit else f"{reason[: limit - 1]}…"
