"""Every command and every YAML of the docs is one that the harness takes."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from harness.cli.main import main
from harness.config import ExperimentConfig, RunConfig

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^\1```", flags=re.DOTALL | re.MULTILINE)
MINIMAL = {"name": "x", "model": {"name": "m"}, "data": {"train": "t"}}


def blocks(language: str) -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        for _, found, text in BLOCK.findall(page.read_text(encoding="utf-8")):
            if found == language:
                yield page, text


def commands() -> Iterator[tuple[str, str]]:
    for page, text in blocks("bash"):
        for line in text.replace("\\\n", " ").splitlines():
            words = line.split("#")[0].strip()
            found = re.match(r"(?:\S+/)?harness (.*)", words)
            if found:
                yield page.name, found[1].partition(" | ")[0].partition(" > ")[0]
    for page in PAGES:
        for line in re.findall(r"`harness ([^`\n]+)`", page.read_text(encoding="utf-8")):
            # An option at the end of inline code may want a value.
            yield page.name, line.removesuffix(" ...") + " WORD"


def experiments() -> Iterator[tuple[str, str]]:
    for page, text in blocks("yaml"):
        content = yaml.safe_load(text)
        if isinstance(content, dict) and content.keys() & ExperimentConfig.model_fields.keys():
            yield page.name, text


@pytest.mark.parametrize(("page", "line"), sorted(set(commands())))
def test_command_is_one_that_the_harness_takes(page: str, line: str) -> None:
    words = shlex.split(line)
    context = click.Context(main, info_name="harness", **main.context_settings)
    while words and words[0].startswith("-"):
        words = words[1:]
    if words in ([], ["WORD"]):
        return
    command = main.get_command(context, words[0])
    assert command is not None, f"{page}: harness {line}"
    nested = click.Context(command, info_name=words[0], parent=context)
    command.make_parser(nested).parse_args(words[1:])


@pytest.mark.parametrize(("page", "text"), list(experiments()))
def test_yaml_is_an_experiment_or_a_part_of_one(page: str, text: str) -> None:
    content: dict[str, Any] = MINIMAL | yaml.safe_load(text)
    config = ExperimentConfig.model_validate(content)
    run = {name: value for name, value in config.base_run().items() if name != "quantization" or value}
    if run.get("quantization") and not run.get("adapter"):
        run["adapter"] = {"r": 8}
    RunConfig.model_validate(run)
