"""What a cell or a reference is asked."""

from collections.abc import Sequence
from typing import NamedTuple

from harness.benchmarks_suite import lm_eval_digest
from harness.eval_config import EvalConfig
from harness.grid import Cell
from harness.records import Example
from harness.suite import Suite, load_suite, suite_digest, suite_examples


class AskedSuite(NamedTuple):
    """One entry of `evals`, ready to be asked."""

    options: EvalConfig
    digest: str
    suite: Suite | None
    """None: tasks of lm-evaluation-harness, which bring their own examples."""
    examples: Sequence[Example]


def asked_suites(cell: Cell, evals: Sequence[EvalConfig], test: Sequence[Example]) -> list[AskedSuite]:
    """The entries of `evals` that this cell or reference can be asked.

    Predictions answer one suite; benchmarks need the model itself. A reference may have nothing to answer.

    Raises: HarnessError: a suite can't be loaded, or has no examples.
    """
    reference = cell.reference
    asked = []
    for options in evals:
        if reference is not None and reference.predictions is not None and options.label != reference.suite:
            continue
        if options.lm_eval:
            if reference is None or reference.kind in ("base", "model"):
                asked.append(AskedSuite(options, lm_eval_digest(options), None, ()))
            continue
        suite = load_suite(options.suite)
        examples = suite_examples(suite, options, test)
        asked.append(AskedSuite(options, suite_digest(suite, options, examples), suite, examples))
    return asked
