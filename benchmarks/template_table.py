"""Makes the tables of docs/templates.md again: `python benchmarks/template_table.py [FOLDER] [--tokenizer PATH ...]`."""

import argparse
import copy
import dataclasses
import importlib.metadata
import importlib.util
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

from harness.data.formats import Conversation
from harness.data.masks import Grammar
from harness.data.tokenize import IGNORED, TokenPlan, tokenize
from harness.errors import TemplateError
from harness.models.load import tokenizer_at
from harness.models.template_check import TemplateReport, check_template, mask_samples
from harness.models.templates import plan_tokens

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "templates.md"
DATA = Path(os.environ.get("HARNESS_REAL_DATA", ROOT.parent / "shared" / "data"))
BEGIN, END = "<!-- tables: benchmarks/template_table.py -->", "<!-- end of tables -->"


class Comparison(NamedTuple):
    """The derived mask of a template against its markers'."""

    template: str
    verdict: str
    added: tuple[tuple[str, str], ...] = ()
    """Where the markers supervise more than the derived mask, and which text."""
    conversations: int = 0


def main() -> None:
    """Checks all templates and writes the tables into the guide."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=DATA / "templates")
    parser.add_argument("--tokenizer", action="append", type=Path, help="folder of a tokenizer; may be given again")
    arguments = parser.parse_args()
    folders = arguments.tokenizer or [DATA / "tokenizers" / name for name in ("qwen2.5", "gpt2")]
    tokenizers = {folder.name: tokenizer_at(str(folder)) for folder in folders}
    reports = [
        check_template(with_template(tokenizer, path), path.stem, name)
        for path in sorted(arguments.folder.glob("*.jinja"))
        for name, tokenizer in tokenizers.items()
    ]
    *_, (last, tokenizer) = tokenizers.items()
    compared = [compare(with_template(tokenizer, path), path.stem) for path in training_templates()]
    text = f"{check_table(reports, tuple(tokenizers))}\n\n{comparison_table(compared, last)}"
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")
    print(text)


def with_template(tokenizer: Any, path: Path) -> Any:
    """A copy of a tokenizer with another template, since checking adds tokens."""
    copied = copy.deepcopy(tokenizer)
    copied.chat_template = path.read_text(encoding="utf-8").rstrip("\n")
    return copied


def training_templates() -> list[Path]:
    """The templates with generation markers that TRL ships."""
    spec = importlib.util.find_spec("trl")
    assert spec is not None and spec.submodule_search_locations, "TRL is installed with the harness"
    return sorted((Path(spec.submodule_search_locations[0]) / "chat_templates").glob("*_training.jinja"))


def check_table(reports: Sequence[TemplateReport], tokenizers: Sequence[str]) -> str:
    """What `harness template` says, one line for a template and all tokenizers that agree."""
    lines = ["| template | tokenizer | mask source | verified | problems |", "|---|---|---|---|---|"]
    for template, of_template in itertools.groupby(reports, key=lambda report: report.template):
        cells: dict[tuple[str, ...], list[str]] = {}
        for report in of_template:
            found = ", ".join(f"`{problem.kind}`" for problem in report.problems) or "none"
            source = report.mask if report.renders else "does not render"
            cells.setdefault((source, "yes" if report.mask_verified else "no", found), []).append(report.tokenizer)
        lines += [f"| {template} | {', '.join(names)} | {' | '.join(cell)} |" for cell, names in cells.items()]
    totals = [_total([report for report in reports if report.tokenizer == name], f"With {name}") for name in tokenizers]
    return "\n".join([*lines, "", *totals, _total(reports, "In all")])


def _total(reports: Sequence[TemplateReport], title: str) -> str:
    rendering = sum(report.renders for report in reports)
    verified = sum(report.mask_verified for report in reports)
    share = f" ({verified / rendering:.0%})" if rendering else ""
    return f"{title}: of {rendering} that render a chat, {verified} have a verified mask{share}."


def compare(tokenizer: Any, template: str) -> Comparison:
    """Both masks of a template with markers, token by token, on all conversations that it takes."""
    try:
        markers = plan_tokens(tokenizer)
    except TemplateError:
        message = check_template(tokenizer, template, "").problems[0].message
        return Comparison(template, f"not compared: {message.split(';')[-1].strip()}")
    assert markers.mask == "markers" and markers.grammar is not None, "TRL's training templates have markers"
    derived = dataclasses.replace(markers, mask="derived")
    rows = mask_samples(tokenizer)
    found = [difference for row in rows for difference in differences(tokenizer, row, markers, derived)]
    is_different = any(kind == "different" for kind, _ in found)
    verdict = "different" if is_different else "equal but for" if found else "equal"
    return Comparison(template, verdict, tuple(dict.fromkeys(found)), len(rows))


def differences(tokenizer: Any, row: Conversation, markers: TokenPlan, derived: TokenPlan) -> Iterator[tuple[str, str]]:
    """What one of the two masks has and the other hasn't: its kind and its text."""
    one, other = (tokenize(row, tokenizer, plan, assistant_only=True, max_length=None) for plan in (markers, derived))
    if one.input_ids != other.input_ids:
        yield "different", "the rendered text"
        return
    states = [(a != IGNORED, b != IGNORED) for a, b in zip(one.labels, other.labels, strict=True)]
    position = 0
    for (in_markers, in_derived), run in itertools.groupby(states):
        length = len(list(run))
        before = position > 0 and states[position - 1][1]
        after = position + length < len(states) and states[position + length][1]
        text = tokenizer.decode(one.input_ids[position : position + length])
        position += length
        if in_markers != in_derived:
            assert derived.grammar is not None, "there is a template"
            yield _kind(text, derived.grammar, before=before and in_markers, after=after and in_markers), text


def _kind(text: str, grammar: Grammar, *, before: bool, after: bool) -> str:
    """The kind of a stretch that the markers alone supervise, with a derived stretch before or after it."""
    if before and not text.strip():
        return "the line break after the turn"
    if before and text.strip() in grammar.ends:
        return "the end of text"
    if after and text in grammar.generation_prompt:
        return "the header"
    return "different"


def _code(text: str) -> str:
    return "`" + text.replace("\n", "\\n").replace("|", "\\|") + "`"


def comparison_table(compared: Sequence[Comparison], tokenizer: str) -> str:
    """The derived masks against TRL's markers."""
    version = importlib.metadata.version("trl")
    lines = [
        f"TRL {version} ships {len(compared)} templates with markers. With {tokenizer}:",
        "",
        "| training template | conversations | derived mask and markers | the markers supervise besides |",
        "|---|---|---|---|",
    ]
    for item in compared:
        grouped = {kind: [text for name, text in item.added if name == kind] for kind, _ in item.added}
        added = "; ".join(f"{kind} {', '.join(_code(text) for text in texts)}" for kind, texts in grouped.items())
        lines.append(f"| {item.template} | {item.conversations or ''} | {item.verdict} | {added} |")
    rendering = [item for item in compared if item.conversations]
    equal = sum(item.verdict == "equal" for item in rendering)
    near = sum(item.verdict == "equal but for" for item in rendering)
    different = len(rendering) - equal - near
    lines += ["", f"Of {len(rendering)} that render a chat, {equal} are equal, {near} equal but for what is named, "
              f"{different} different."]  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    main()
