"""A suite: examples, how to ask, scorers. Every Python file in `evals/` ends in `SUITE = Suite(...)`."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.config import EvalConfig
from harness.errors import EvalError
from harness.records import Example
from harness.resources import bundled, digest
from harness.scoring.measurement import Scorer

Ask = Literal["chat", "text"]


@dataclass(frozen=True, slots=True)
class Suite:
    """One evaluation."""

    name: str
    version: int
    """Raise it when a score could change: results of another version are never reused."""
    description: str
    scorers: Mapping[str, Scorer]
    """Metric -> scorer. A scorer that gives None leaves the example out: the metric doesn't apply to it."""
    load: Callable[[Sequence[Example], EvalConfig], Sequence[Example]]
    """Examples to ask, from the experiment's test split and the options in the YAML."""
    ask: Ask = "chat"
    """`chat`: through the template the cell was trained with; `text`: as it stands, without any template."""
    needs_nll: bool = False


def suite_digest(suite: Suite, options: EvalConfig, examples: Sequence[Example]) -> str:
    """12 hex digits of all that decides a suite's result for a given model."""
    content = [
        suite.name,
        suite.version,
        options.model_dump(mode="json"),
        [e.model_dump(mode="json") for e in examples],
    ]
    return digest(content)


def load_suite(name: str, folder: Path | None = None) -> Suite:
    """The suite in `evals/NAME.py` of the working folder, else the one that came with the package.

    Raises: EvalError: there is no such file, or it doesn't end in `SUITE = Suite(...)`.
    """
    candidates = (
        [folder / f"{name}.py"] if folder else [Path.cwd() / "evals" / f"{name}.py", bundled("evals") / f"{name}.py"]
    )
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        known = ", ".join(
            sorted({p.stem for p in bundled("evals").glob("*.py")} | {p.stem for p in Path("evals").glob("*.py")})
        )
        raise EvalError(f"there is no suite {name!r}; choose one of {known} or add evals/{name}.py")
    spec = importlib.util.spec_from_file_location(f"harness_evals_{name}", path)
    if spec is None or spec.loader is None:
        raise EvalError(f"{path} can't be imported; it must be a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise EvalError(f"{path} can't be imported: {type(error).__name__}: {error}") from error
    suite = getattr(module, "SUITE", None)
    if not isinstance(suite, Suite):
        raise EvalError(f"{path} doesn't define SUITE; end it with `SUITE = Suite(...)`")
    return suite


def suite_examples(suite: Suite, options: EvalConfig, test: Sequence[Example]) -> list[Example]:
    """The examples that a suite asks with these options.

    Raises: EvalError: there are none, or two share an id.
    """
    examples = list(suite.load(test, options))[: options.limit]
    if not examples:
        raise EvalError(f"the suite {suite.name} has no examples; give it data")
    if len({example.id for example in examples}) < len(examples):
        raise EvalError(f"two examples of the suite {suite.name} have the same id; ids must be unique")
    return examples
