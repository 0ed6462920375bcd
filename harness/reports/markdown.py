"""The report as Markdown, for a pull request or a chat."""

import re
from collections.abc import Mapping, Sequence

from harness.comparability import sentence
from harness.gates import shown, signed
from harness.markdown import code, escaped, table
from harness.records import Estimate, warning_names
from harness.reports.content import Content
from harness.reports.decision import experiment_argument
from harness.reports.grouped import signs
from harness.reports.tables import reasons
from harness.reports.visible import cut, some, visible

MAX_MESSAGE = 300
MAX_ROWS = 40
WORD_JOINER = "\u2060"


def as_markdown(content: Content) -> str:
    """Answer, ranking, exclusions, warning signs, caveats, how to reproduce."""
    parts = [
        _head(content),
        *_ranking(content),
        *_not_ranked(content),
        *_warning_signs(content),
        *_before_believing(content),
        *_reproduce(content),
    ]
    return "\n".join(parts) + "\n"


def _head(content: Content) -> str:
    lines = [f"# {safe(content.ranking.experiment)}", "", safe(content.question), "", f"**{safe(content.answer)}**", ""]
    if content.facts:
        lines += [
            *table(["", "", ""], [[safe(fact.label), safe(fact.value), safe(fact.note)] for fact in content.facts]),
            "",
        ]
    if content.next_steps:
        lines += ["Next:", ""]
        lines += [f"- {_message(s.text)}{f' {_code(s.command)}' if s.command else ''}" for s in content.next_steps]
    return "\n".join(lines)


def _ranking(content: Content) -> list[str]:
    ranking, metrics = content.ranking, content.main_metrics[:4]
    has_confirmed = any(row.confirmed for row in ranking.rows)
    columns = [*metrics, *(["confirmed"] if has_confirmed else []), "to the first", "seeds", "warning signs"]
    rows = []
    for row in ranking.rows[:MAX_ROWS]:
        low, high = row.rank_interval
        name = f"**{_code(row.name)}**" if row.in_best_set else _code(row.name)
        confirmed = [shown(row.confirmed) if row.confirmed else ""] if has_confirmed else []
        best = signed(row.difference_to_best) if row.difference_to_best else ""
        place = str(low) if low == high else f"{low}-{high}"
        rows.append([place, name, *_values(row.metrics, metrics), *confirmed, best, str(row.seed_count), safe(warning_names(row.findings))])  # fmt: skip
    empty = [""] * (len(columns) - len(metrics))
    rows += [["ref", _code(r.name), *_values(r.metrics, metrics), *empty] for r in ranking.references]
    lines = ["", f"## Ranking by {safe(ranking.criterion)}", "", *table(["rank", "cell", *map(safe, columns)], rows)]
    if len(ranking.rows) > MAX_ROWS:
        lines += ["", f"{len(ranking.rows) - MAX_ROWS} more rows are in report.html."]
    lines += ["", f"n = {ranking.num_examples} examples; values with 95 % intervals; bold: best set."]
    if ranking.gates:
        lines += ["", f"Gates: {', '.join(_code(gate) for gate in ranking.gates)}."]
    return lines


def _not_ranked(content: Content) -> list[str]:
    found = reasons(content.ranking.excluded)
    if not found:
        return []
    lines = [f"- {', '.join(_code(name) for name in r.names[:6])}{' and more' if len(r.names) > 6 else ''}: {_message(r.reason)}"
             for r in found[:MAX_ROWS]]  # fmt: skip
    if len(found) > MAX_ROWS:
        lines.append(f"- {len(found) - MAX_ROWS} more reasons are in report.html.")
    return ["", "## Not ranked", "", *lines]


def _warning_signs(content: Content) -> list[str]:
    found = [sign for sign in signs(content.findings) if sign.is_warning]
    lines = ["", "## Warning signs", ""]
    if not found:
        return [*lines, "None fired."]
    for sign in found:
        finding = sign.found[0][1]
        where = some([name for name, _ in sign.found])
        advice = f" {_message(sign.advice[0])}" if sign.advice else ""
        lines.append(
            f"- **{safe(sign.check)}** ({sign.severity}) in {_code(where)}: {_message(finding.message)}{advice}"
        )
    return lines


def _before_believing(content: Content) -> list[str]:
    ranking = content.ranking
    lines = [
        *(_message(caveat) for caveat in ranking.caveats),
        *(f"Not quite comparable: {_message(sentence(difference))}" for difference in ranking.not_comparable),
        *(f"Found before training: {_message(line)}" for line in content.checks),
    ]
    return ["", "## Before you believe it", "", *(f"- {line}" for line in lines)] if lines else []


def _reproduce(content: Content) -> list[str]:
    versions = ", ".join(f"{key} {value}" for key, value in content.environment.items())
    digests = dict.fromkeys(f"{name} {split.digest}" for c in content.cells if c.train for name, split in c.train.splits.items())  # fmt: skip
    lines = [
        "",
        "## Reproduce",
        "",
        f"{_code(f'harness run {experiment_argument(content.config)}')}, seeds {list(content.config.seeds)}.",
    ]
    if digests:
        lines += ["", f"Data: {safe(', '.join(list(digests)[:6]))}{' and more' if len(digests) > 6 else ''}."]
    return [*lines, "", safe(versions)]


def safe(text: str) -> str:
    """Text that can't break a table, start markup or a formula, or call people and issues."""
    started = re.sub(r"^(\d*)([-+.)])(?=\s)", r"\1\\\2", escaped(visible(text)).replace("$", "\\$"))  # else a list
    return re.sub(r"(?<!\w)(@|\\#)(?=\w)", rf"\1{WORD_JOINER}", started)


def _code(text: str) -> str:
    return code(visible(text))


def _message(text: str) -> str:
    """One sentence of ours, cut to a length; what stands between backticks is set as code."""
    parts = cut(text, MAX_MESSAGE).split("`")
    if len(parts) % 2 == 0:
        return safe("`".join(parts))
    return "".join(_code(part) if i % 2 else _joined(part) for i, part in enumerate(parts))


def _joined(part: str) -> str:
    """A piece of a sentence with the blanks at its ends."""
    inner = safe(part)
    return f"{' ' * part[:1].isspace()}{inner}{' ' * (part[-1:].isspace() and bool(inner))}"


def _values(metrics: Mapping[str, Estimate], names: Sequence[str]) -> list[str]:
    return [shown(metrics[name]) if name in metrics else "" for name in names]
