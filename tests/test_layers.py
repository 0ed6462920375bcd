"""Imports go down the layers of the design only, and heavy libraries stay where they belong."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "harness"
LAYERS = {
    "secrets": -1, "yaml_text": 0.4,
    "errors": 0, "records": 0, "results": 0.2, "resources": 0, "forked": 0.1, "score_columns": 0.2, "style_rules": 0, "languages": 0,
    "library_fields": 0, "stopping": 0, "eval_config": 0.5, "launch_config": 0.6, "checkpoint_config": 0.6, "disk": 0, "disk_plan": 5.5, "checkpoints": 2.5, "config": 1, "experiment_file": 2, "stats": 0.8, "crossed": 1, "max_t": 1.2, "scoring": 1,
    "grid": 3, "suite": 3, "store": 2, "locks": 2.3, "data": 2, "gates": 2,
    "models": 3, "tracking": 4, "rank_cells": 3, "configurations": 2.5, "ranking_rows": 2.6, "ranking_words": 2.7, "reports": 3, "launch": 5.9, "travel_bundle": 3.5, "travel": 5.8, "weights": 5.8,
    "train": 5, "evaluate": 4, "diagnose": 4, "preflight": 5, "predictions": 4, "predicted": 5.5, "benchmarks_suite": 4, "asked": 5, "respondents": 5,
    "pipeline": 6, "plan": 6, "collect": 6.5, "follow": 6.7, "refused": 6.9, "experiment": 7, "reconcile": 7.1, "delivery": 5, "sync": 7.1, "targets": 6.6, "cli": 8, "__main__": 9,
    "compared": 1, "compared_runs": 7.2, "compared_answers": 7.4, "compared_settings": 7.4, "comparison": 7.6,
    "embedded": 9, "hardware": 0, "ranking": 1, "cell_checks": 1, "cell_files": 2.5, "recorded": 6.2, "confirmation": 3.5, "confirm_run": 7.1, "verification": 1, "comparability": 2, "inspection": 7, "score": 7, "replay": 7, "timing": 7, "markdown": 0, "cards": 5, "model_card": 6.8, "export": 7, "promote": 7.5, "chat": 7.5,
    "frames": 7.6, "api": 7.8, "schema": 3.5,
}  # fmt: skip
HEAVY = {
    "torch": {"models", "train", "pipeline", "embedded"},
    "transformers": {"models", "train", "embedded"},
    "peft": {"models", "train"},
    "openai": {"models"},
    "trl": {"train"},
    "lm_eval": {"models", "scoring"},
    "langdetect": {"scoring"},
    "nltk": {"scoring"},
    "mlflow": {"tracking"},
    "datasets": {"data", "train"},
    "sklearn": {"diagnose"},
    "altair": {"reports"},
    "pandas": {"frames", "api"},
    "ray": {"launch"},
    "click": {"cli", "embedded"},
    "rich": {"cli"},
    "submitit": {"launch"},
}
LIGHT_MODULES = ("harness.cli.main", "harness.cli.plan", "harness.cli.list", "harness.cli.report", "harness.experiment")
LAZY = ("torch", "transformers", "trl", "peft", "mlflow", "datasets")


def part_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module or ""


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_to_a_lower_layer(path: Path) -> None:
    part = part_of(path)
    for name in imports(path):
        if name.startswith("harness."):
            other = name.split(".")[1]
            assert other == part or LAYERS[other] < LAYERS[part], f"{part} (layer {LAYERS[part]}) imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_libraries_are_imported_by_their_owner_only(path: Path) -> None:
    for name in imports(path):
        owners = HEAVY.get(name.split(".")[0])
        assert owners is None or part_of(path) in owners, f"{path} imports {name}"


def test_light_commands_import_nothing_heavy() -> None:
    import subprocess
    import sys

    code = f"import importlib, sys; [importlib.import_module(m) for m in {LIGHT_MODULES!r}]; print([m for m in {LAZY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
