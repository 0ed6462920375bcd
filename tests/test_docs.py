"""The docs say the same as the code."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from harness.config import ExperimentConfig

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")])


def test_reference_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("build_reference", ROOT / "docs" / "build_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "reference.md").read_text() == module.reference(), "run `python docs/build_reference.py`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_are_not_broken(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_site_builds_without_a_broken_link(tmp_path: Path) -> None:
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "which fine-tune is actually better" in (tmp_path / "index.html").read_text(encoding="utf-8")


def yaml_blocks(page: str) -> list[str]:
    """The YAML examples of a page that say what is asked."""
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / page).read_text(), flags=re.DOTALL)
    return [block for block in blocks if re.search(r"^(evals|references):", block, flags=re.MULTILINE)]


@pytest.mark.parametrize("block", [*yaml_blocks("suites.md"), *yaml_blocks("references.md")])
def test_examples_of_suites_and_references_are_valid(block: str) -> None:
    minimal = {"name": "x", "model": {"name": "m"}, "data": {"train": "t"}}
    ExperimentConfig.model_validate(minimal | yaml.safe_load(block))


def test_commands_in_the_readme_exist() -> None:
    from harness.cli.main import COMMANDS

    for command in re.findall(r"^harness ([a-z-]+)", (ROOT / "README.md").read_text(), flags=re.MULTILINE):
        assert command in COMMANDS
