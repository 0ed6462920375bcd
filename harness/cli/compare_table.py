"""What `harness compare` prints."""

import json
from collections.abc import Mapping

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness.cli.tables import console_for_results
from harness.compared import Answer, Comparison, Disagreement, MetricDifference, PairComparison
from harness.comparison import shown_p
from harness.reports.visible import cut, visible

MAX_TEXT = 240
MAX_VALUE = 120
MAX_SETTINGS = 15
PAIR_FIELDS = frozenset({
    "a", "b", "criterion", "answer", "metrics", "slices", "config_diff", "disagreements", "num_disagreements", "findings",
    "notes",
})  # fmt: skip


def comparison_json(comparison: Comparison) -> str:
    """The contract of `compare --json`: the first pair on top; with more than two runs, all pairs in `comparisons`."""
    pairs = [pair.model_dump(mode="json") for pair in comparison.pairs]
    runs = [run.model_dump(mode="json") for run in comparison.runs]
    content = {**pairs[0], "runs": runs, "method": comparison.method}
    return json.dumps(content | ({"comparisons": pairs} if len(pairs) > 1 else {}), indent=2)


def comparison_page(comparison: Comparison) -> None:
    """Every pair with its differences, settings, findings and answers."""
    console = console_for_results()
    if len(comparison.pairs) > 1:
        console.print(f"{_name(comparison.pairs[0].a)} is held against each of the others.")
    for pair in comparison.pairs:
        _print_pair(console, pair, comparison)
    console.print(f"[dim]{escape(comparison.method)}[/dim]")


def _print_pair(console: Console, pair: PairComparison, comparison: Comparison) -> None:
    console.print(f"\n[bold]a[/bold]: {_name(pair.a)}\n[bold]b[/bold]: {_name(pair.b)}")
    console.print(escape(visible(pair.answer)), style=_style(pair.metrics.get(pair.criterion)))
    console.print(_metrics_table(pair.metrics))
    _print_legend(console, pair.metrics)
    _print_slices(console, pair)
    _print_settings(console, pair)
    for finding in pair.findings:
        console.print(f"Finding [bold]{finding.check}[/bold]: {escape(finding.a)} in a, {escape(finding.b)} in b.")
    _print_last_losses(console, pair, comparison)
    for note in pair.notes:
        console.print(escape(visible(note)))
    _print_disagreements(console, pair)


def _name(text: str) -> str:
    return f"[bold]{escape(visible(text))}[/bold]"


def _style(found: MetricDifference | None) -> str:
    return {"a": "green", "b": "red", None: ""}[found.better if found else None]


def _metrics_table(metrics: Mapping[str, MetricDifference], *, is_grouped: bool = True) -> Table:
    """One row a metric, below the name of its suite."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", overflow="fold", min_width=12)
    for name in ("a", "b", "a - b [95 %]", "p", "better", "win/lose/tie"):
        table.add_column(name, justify="right", no_wrap=True)
    suite = ""
    for name, found in metrics.items():
        if is_grouped and name.partition(".")[0] != suite:
            suite = name.partition(".")[0]
            table.add_row(Text(suite, style="bold"))
        label = f" {name.partition('.')[2]}" if is_grouped else name
        arrow = " ↓" if found.lower_is_better else ""
        interval = "too few" if found.low is None else f"{found.difference:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
        counts = f"{found.wins}/{found.losses}/{found.ties}"
        numbers = (f"{found.a:.3f}", f"{found.b:.3f}", interval, shown_p(found.p_adjusted), found.better or "", counts)
        table.add_row(Text(label + arrow), *numbers, style=_style(found))
    return table


def _print_legend(console: Console, metrics: Mapping[str, MetricDifference]) -> None:
    lacking = [
        f"{name} {found.unscored} of {found.n + found.unscored}" for name, found in metrics.items() if found.unscored
    ]
    if any(found.lower_is_better for found in metrics.values()):
        console.print("↓ less is better; a win is an example on which a is better.")
    if lacking:
        console.print(f"Without a score on one side, and left out: {escape(', '.join(lacking))}")


def _print_slices(console: Console, pair: PairComparison) -> None:
    """Those of the criterion, and how many others surely differ."""
    own = {name: found for name, found in pair.slices.items() if name.startswith(f"{pair.criterion}.")}
    if own:
        short = {name.removeprefix(f"{pair.criterion}."): found for name, found in own.items()}
        console.print(f"\n[bold]{escape(pair.criterion)}[/bold] by slice")
        console.print(_metrics_table(short, is_grouped=False))
    others = sum(found.better is not None for name, found in pair.slices.items() if name not in own)
    if others:
        console.print(f"{others} slices of other metrics surely differ; --html and --json show them.")


def _print_settings(console: Console, pair: PairComparison) -> None:
    if not pair.config_diff:
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("differs in", "a", "b"):
        table.add_column(name, overflow="fold")
    shown = list(pair.config_diff.items())[:MAX_SETTINGS]
    for key, value in shown:
        table.add_row(Text(key), _value(value.a), _value(value.b))
    console.print()
    console.print(table)
    if more := len(pair.config_diff) - len(shown):
        console.print(f"and {more} more fields; --html and --json show them.")


def _value(value: object) -> Text:
    if value is None:
        return Text("not set", style="dim")
    return Text(visible(cut(value if isinstance(value, str) else json.dumps(value), MAX_VALUE)))


def _print_last_losses(console: Console, pair: PairComparison, comparison: Comparison) -> None:
    """Where the curves end; the page draws them."""
    for curve in comparison.curves:
        if curve.of == "eval" and curve.run in (pair.a, pair.b):
            tokens, loss = curve.points[-1]
            seed = "" if curve.seed is None else f", seed {curve.seed}"
            side = "a" if curve.run == pair.a else "b"
            console.print(f"Eval loss of {side}{seed}: {loss:.4g} after {tokens:,.0f} supervised tokens")


def _print_disagreements(console: Console, pair: PairComparison) -> None:
    if not pair.num_disagreements:
        return
    shown = f"; {len(pair.disagreements)} of them, the farthest apart first:" if pair.disagreements else "."
    console.print(f"\nThe two scored differently on {pair.num_disagreements} examples{shown}")
    for found in pair.disagreements:
        console.print(f"[bold]{escape(found.suite)} {escape(visible(found.example_id))}[/bold]: {_line(found.prompt)}")
        if found.reference is not None:
            console.print(f"  expected: {_line(found.reference)}")
        _print_answers(console, found)


def _print_answers(console: Console, found: Disagreement) -> None:
    metric = found.metric.partition(".")[2]
    for side, answer in (("a", found.a), ("b", found.b)):
        text = f"{side}: {_line(answer.text) or '[dim](empty)[/dim]'} [dim]({_ending(answer, metric)})[/dim]"
        console.print(Padding(text, (0, 0, 0, 2), expand=False))


def _ending(answer: Answer, metric: str) -> str:
    seed = "" if answer.seed is None else f", seed {answer.seed}"
    return f"{metric} {answer.score:.3g}, {answer.stop_reason}{seed}"


def _line(text: str) -> str:
    """A text on one line, cut where it is long."""
    return escape(cut(visible(text).replace("\n", " ⏎ "), MAX_TEXT))
