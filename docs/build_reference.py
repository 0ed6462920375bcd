"""Writes docs/reference.md from the commands and the config: `python docs/build_reference.py`."""

from pathlib import Path

import click
from pydantic import BaseModel

from harness import config, eval_config
from harness.checkpoint_config import CheckpointsConfig
from harness.cli.main import HIDDEN, main
from harness.diagnose.cell import CHECKS
from harness.launch_config import LaunchConfig
from harness.resources import bundled
from harness.scoring.definitions import metric_definition
from harness.scoring.table import SAMPLE_SCORERS, SCORERS
from harness.style_rules import StyleRules
from harness.suite import Suite, load_suite

SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("top level", config.ExperimentConfig),
    ("model", config.ModelConfig),
    ("template", config.TemplateConfig),
    ("data", config.DataConfig),
    ("data.train, data.validation, data.test, evals[].data", eval_config.SourceConfig),
    ("evals[]", eval_config.EvalConfig),
    ("evals[].style", StyleRules),
    ("references[]", eval_config.ReferenceConfig),
    ("ranking", config.RankingConfig),
    ("checkpoints", CheckpointsConfig),
    ("launch", LaunchConfig),
    ("tracking", config.TrackingConfig),
)
LIBRARY_SECTIONS = {
    "training": "Fields of TRL's `SFTConfig`, under their own names; see `harness plan` for what is checked.",
    "adapter": "Fields of PEFT's `LoraConfig`; absent: full fine-tune.",
    "quantization": "Fields of transformers' `BitsAndBytesConfig`; needs an adapter.",
}


def commands() -> str:
    """One section a command."""
    context = click.Context(main, info_name="harness", **main.context_settings)
    parts = []
    for name in main.list_commands(context):
        if name in HIDDEN:
            continue
        command = main.get_command(context, name)
        assert command is not None
        text = command.get_help(click.Context(command, info_name=name, parent=context, terminal_width=90))
        parts.append(f"### harness {name}\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


def fields(title: str, model: type[BaseModel]) -> str:
    """One table a section."""
    lines = [f"### {title}", "", "| field | default | meaning |", "|---|---|---|"]
    for name, field in model.model_fields.items():
        meaning = LIBRARY_SECTIONS.get(name) or (field.description or f"Section, see `{name}` below.").replace(
            "\n", " "
        )
        default = "required" if field.is_required() else _shown(field.get_default(call_default_factory=True))
        lines.append(f"| `{name}` | {default} | {meaning} |".replace("||", "| |"))
    return "\n".join(lines) + "\n"


def _shown(value: object) -> str:
    if isinstance(value, BaseModel):
        return "see below"
    if isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
        return "`[" + ", ".join(str(getattr(item, "name", "") or getattr(item, "suite", item)) for item in value) + "]`"
    return "" if value in (None, "", {}, ()) else f"`{list(value) if isinstance(value, tuple) else value}`"


def _metrics(suite: Suite) -> tuple[str, ...]:
    return (*suite.scorers, *suite.sample_scorers, *suite.group_scorers)


def reference() -> str:
    """The whole page."""
    suites = [load_suite(path.stem, bundled("evals")) for path in sorted(bundled("evals").glob("*.py"))]
    suite_lines = [
        f"| `{s.name}` | {s.description} | {', '.join(f'`{s.name}.{m}`' for m in _metrics(s))} |" for s in suites
    ]
    scorers = {**SCORERS, **SAMPLE_SCORERS}
    scorer_lines = [f"| `{name}` | {metric_definition(name, scorer)} |" for name, scorer in scorers.items()]
    check_lines = [f"| `{name}` | {(check.__doc__ or '').splitlines()[0]} |" for name, check in CHECKS.items()]
    return "\n".join(
        [
            "# Reference",
            "",
            "Made by `python docs/build_reference.py`; a test fails when it is out of date.",
            "",
            "## Commands",
            "",
            commands(),
            "## The experiment file",
            "",
            *(fields(title, model) for title, model in SECTIONS),
            "## Suites",
            "",
            "| suite | asks | metrics |",
            "|---|---|---|",
            *suite_lines,
            "",
            "## Scorers",
            "",
            "For `scorers:` of any suite, and for `harness score --scorers`.",
            "",
            "| scorer | gives |",
            "|---|---|",
            *scorer_lines,
            "",
            "## Checks",
            "",
            "Each is `fired`, `clear`, `insufficient` or `not_applicable`; one that fired is an `info`, a `warning` or an `error`. When exactly, and why:",
            "[warning signs](warning-signs.md).",
            "",
            "| check | looks for |",
            "|---|---|",
            *check_lines,
            "",
        ]
    )


if __name__ == "__main__":
    Path(__file__).with_name("reference.md").write_text(reference(), encoding="utf-8")
