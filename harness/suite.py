"""A suite: examples, how to ask, scorers. Every Python file in `evals/` ends in `SUITE = Suite(...)`."""

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from harness.data.examples import load_examples
from harness.errors import EvalError
from harness.eval_config import NAME, EvalConfig
from harness.library_fields import did_you_mean
from harness.records import Example, Score
from harness.resources import bundled, digest
from harness.scoring.embedding import check_embeddings
from harness.scoring.measurement import Measurement, Scorer
from harness.scoring.style import style_scorer
from harness.scoring.table import CHOICE_SCORERS, CODE_SCORERS, NLL_SCORERS, SAMPLE_SCORERS, SCORERS

Ask = Literal["chat", "text"]
GroupScorer = Callable[[Sequence[Measurement]], Sequence[Score]]
"""Looks at all examples of a suite at once, and gives one score for each that its metric applies to."""


def own_data_or_test(test: Sequence[Example], options: EvalConfig) -> Sequence[Example]:
    """The rows of `data:` where the YAML names any, else the experiment's test split."""
    return load_examples(options.data) if options.data is not None else test


@dataclass(frozen=True, slots=True)
class Suite:
    """One evaluation."""

    name: str
    version: int
    """Raise it when a score could change: results of another version are never reused."""
    description: str
    scorers: Mapping[str, Scorer]
    """Metric -> scorer. A scorer that gives None leaves the example out: the metric doesn't apply to it."""
    load: Callable[[Sequence[Example], EvalConfig], Sequence[Example]] = own_data_or_test
    """Examples to ask, from the experiment's test split and the options in the YAML."""
    ask: Ask = "chat"
    """`chat`: through the template the cell was trained with; `text`: as it stands, without any template."""
    needs_nll: bool = False
    """Whether scorers look at the reference's NLL; those named `nll` and `bits_per_byte` always get it."""
    needs_choices: bool = False
    """Whether scorers look at the log-probability of choices; those of the harness that do always get it."""
    sample_scorers: Mapping[str, Scorer] = field(default_factory=dict)
    """Metric -> scorer that looks at all samples of a prompt at once; the others score each sample, and the mean counts."""
    group_scorers: Mapping[str, GroupScorer] = field(default_factory=dict)
    """Metric -> scorer of all examples together, such as the agreement between wordings of one question."""
    limits_itself: bool = False
    """Whether `load` heeds `limit` itself, because it adds examples of its own."""


class Chosen(NamedTuple):
    """The scorers that an entry of `evals` uses."""

    each: Mapping[str, Scorer]
    samples: Mapping[str, Scorer]
    groups: Mapping[str, GroupScorer]
    needs_nll: bool
    needs_choices: bool

    @property
    def names(self) -> tuple[str, ...]:
        """All metrics, in the order of tables."""
        return (*self.each, *self.samples, *self.groups)


def chosen_scorers(suite: Suite, options: EvalConfig) -> Chosen:
    """The suite's scorers, or those that the YAML names: of the suite, else of the harness.

    Raises: EvalError: there is no such scorer, or it runs code and nobody allowed that.
    """
    each, samples, groups = (
        {**SCORERS, **suite.scorers},
        {**SAMPLE_SCORERS, **suite.sample_scorers},
        suite.group_scorers,
    )
    of_style = {"style": style_scorer(options.style)} if options.style is not None else {}
    each |= of_style
    known = (*each, *samples, *groups)
    named = options.scorers or (*suite.scorers, *suite.sample_scorers, *suite.group_scorers)
    names = tuple(dict.fromkeys((*named, *of_style)))
    for name in names:
        if name not in known:
            raise EvalError(f"{options.label}: there is no scorer {name!r}{did_you_mean(name, sorted(known))}")
        if name in CODE_SCORERS and not options.allow_code_execution:
            raise EvalError(
                f"{options.label}: {name} runs the model's code on this machine; say so with allow_code_execution: true"
            )
    if "embedding_similarity" in names:
        check_embeddings()
    return Chosen(
        {name: each[name] for name in names if name in each},
        {name: samples[name] for name in names if name in samples and name not in each},
        {name: groups[name] for name in names if name in groups and name not in (*each, *samples)},
        needs_nll=(suite.needs_nll and options.scorers is None) or any(name in NLL_SCORERS for name in names),
        needs_choices=suite.needs_choices or any(name in CHOICE_SCORERS for name in names),
    )


def suite_digest(suite: Suite, options: EvalConfig, examples: Sequence[Example]) -> str:
    """12 hex digits of all that decides a suite's result for a given model."""
    content = [
        suite.name,
        suite.version,
        options.model_dump(mode="json"),
        [e.model_dump(mode="json") for e in examples],
    ]
    return digest(content)


def known_suites() -> tuple[str, ...]:
    """Names of the suites of the working folder and of the package."""
    files = [*Path("evals").glob("*.py"), *bundled("evals").glob("*.py")]
    return tuple(sorted({file.stem for file in files if not file.stem.startswith("_")}))


def load_suite(name: str, folder: Path | None = None) -> Suite:
    """The suite in `evals/NAME.py` of the working folder, else the one that came with the package.

    Raises: EvalError: there is no such file, or it doesn't end in `SUITE = Suite(...)`.
    """
    if not NAME.fullmatch(name) or "." in name:
        raise EvalError(f"{name!r} can't be a suite; name a file of evals/ without its ending")
    candidates = (
        [folder / f"{name}.py"] if folder else [Path.cwd() / "evals" / f"{name}.py", bundled("evals") / f"{name}.py"]
    )
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        raise EvalError(f"there is no suite {name!r}; choose one of {', '.join(known_suites())} or add evals/{name}.py")
    spec = importlib.util.spec_from_file_location(f"harness_evals_{name}", path)
    if spec is None or spec.loader is None:
        raise EvalError(f"{path} can't be imported; it must be a Python file")
    module = importlib.util.module_from_spec(spec)
    # A dataclass with postponed annotations looks its module up there.
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[spec.name]
        raise EvalError(f"{path} can't be imported: {type(error).__name__}: {error}") from error
    suite = getattr(module, "SUITE", None)
    if not isinstance(suite, Suite):
        raise EvalError(f"{path} doesn't define SUITE; end it with `SUITE = Suite(...)`")
    return suite


def suite_examples(suite: Suite, options: EvalConfig, test: Sequence[Example]) -> list[Example]:
    """The examples that a suite asks with these options.

    Raises: EvalError: there are none, or two share an id.
    """
    examples = list(suite.load(test, options))[: None if suite.limits_itself else options.limit]
    if not examples:
        raise EvalError(f"the suite {suite.name} has no examples; give it data")
    if len({example.id for example in examples}) < len(examples):
        raise EvalError(f"two examples of the suite {suite.name} have the same id; ids must be unique")
    return examples
