"""A healthy run, with its answers, for the tests of the checks to spoil."""

import json
import random
from collections.abc import Callable, Sequence
from functools import lru_cache

from harness.diagnose.data import contamination, no_supervised_tokens
from harness.diagnose.diversity import low_diversity
from harness.diagnose.evidence import Evidence, Point
from harness.diagnose.forgetting import forgetting
from harness.diagnose.format import format_inconsistency
from harness.diagnose.memorization import memorization
from harness.diagnose.repetition import repetition
from harness.diagnose.saved import noop_adapter, saved_model
from harness.records import (
    Contamination,
    Example,
    ExtractionItem,
    Finding,
    Generation,
    Message,
    Probe,
    ProbeSplit,
    Score,
    SplitSummary,
    StopReason,
    SuiteResult,
)
from harness.resources import bundled
from harness.stats import estimate
from harness.verification import Verification, VerifiedItem
from tests.helpers import coin, suite_result

Check = Callable[[Evidence], Finding]
CHECKS: tuple[Check, ...] = (
    no_supervised_tokens, noop_adapter, memorization, format_inconsistency, repetition, low_diversity, forgetting, contamination,
    saved_model,
)  # fmt: skip
LORA = {"adapter.r": "8", "training.num_train_epochs": "4", "training.learning_rate": "0.0002"}
NUM_ASKED = 200


@lru_cache
def rows(name: str) -> tuple[Example, ...]:
    """Rows of the embedded data: templated, with closed vocabularies, as false alarms like them."""
    lines = (bundled("embedded/files") / f"{name}.jsonl").read_text().splitlines()
    turns = [(row["id"], row["messages"]) for row in map(json.loads, lines)]
    return tuple(
        Example(id=id_, messages=tuple(Message(**turn) for turn in messages[:-1]), reference=messages[-1]["content"])
        for id_, messages in turns
    )


def asked() -> tuple[Example, ...]:
    return rows("test")[:NUM_ASKED]


def answered(
    texts: Sequence[str], stop: StopReason = "end_of_turn", examples: Sequence[Example] | None = None
) -> list[Generation]:
    return [
        Generation(
            example_id=example.id, prompt=f"{example.id}?", text=text, stop_reason=stop, prompt_tokens=9, completion_tokens=len(text) // 4
        )
        for example, text in zip(examples or asked(), texts, strict=True)
    ]  # fmt: skip


def nearly_right(seed: int = 0, right: float = 0.92) -> list[str]:
    """References, of which some have lost a word or taken over a wrong one."""
    draw = random.Random(seed)
    words = [word for example in asked() for word in example.reference.split()]
    texts = []
    for example in asked():
        parts = example.reference.split()
        if draw.random() > right:
            parts[draw.randrange(len(parts))] = draw.choice(words)
        texts.append(" ".join(parts))
    return texts


def probes(split: ProbeSplit, before: float, after: float, seed: int, n: int = 60, spread: float = 0.3) -> list[Probe]:
    draw = random.Random(seed)
    starts = [before * draw.uniform(0.8, 1.2) for _ in range(n)]
    ends = [start * after / before * draw.lognormvariate(0, spread) for start in starts]
    return [Probe(step=step, split=split, nll=tuple(nll), tokens=(10,) * n) for step, nll in ((0, starts), (100, ends))]


def extracted(train: float, validation: float, n: int = 100) -> list[ExtractionItem]:
    rates: tuple[tuple[ProbeSplit, float], ...] = (("train_probe", train), ("validation", validation))
    return [
        ExtractionItem(split=split, example_id=str(i), prefix="a", expected="b", generated="b", is_verbatim=i < rate * n)
        for split, rate in rates
        for i in range(n)
    ]  # fmt: skip


def adherence(passed: int, n: int = NUM_ASKED, failure: str = "runs_on") -> SuiteResult:
    ids = [example.id for example in rows("test")][:n]
    scores = tuple(
        Score(example_id=id_, metric="all", value=float(i < passed), failure="" if i < passed else failure)
        for i, id_ in enumerate(ids)
    )
    return SuiteResult(
        suite="template_adherence", version=1, digest="x", metrics={"all": estimate([s.value for s in scores if s.value is not None])},
        scores=scores, clusters={id_: id_ for id_ in ids}, slices=dict.fromkeys(ids, ()), seconds=1.0,
    )  # fmt: skip


def evidence(**changes: object) -> Evidence:
    """A healthy LoRA on templated data: the skill is learned, on training and held-out rows alike."""
    healthy: dict[str, object] = {
        "loss": [Point(i + 1, 4.0 * 0.95**i + 0.04) for i in range(100)],
        "grad_norm": [Point(i + 1, 1.0) for i in range(100)],
        "eval_loss": [],
        "settings": LORA,
        "validation": probes("validation", 5.0, 0.05, seed=1),
        "train_probe": probes("train_probe", 5.0, 0.048, seed=2),
        "extraction": extracted(0.97, 0.96),
        "suites": {"template_adherence": adherence(198), "retention": suite_result("retention", {"accuracy": coin(0.9, 400, 1)})},
        "base": {"retention": suite_result("retention", {"accuracy": coin(0.9, 400, 1)})},
        "generations": {"template_adherence": answered(nearly_right()), "held_out": answered(nearly_right())},
        "base_generations": {"held_out": answered(["What is the pet of Mona Frost?\npony"] * NUM_ASKED, "end_of_text")},
        "examples": {"held_out": asked(), "template_adherence": asked()},
        "trained_answers": [example.reference for example in rows("train")],
        "contamination": {"held_out": Contamination(num_examples=NUM_ASKED, shared=("test-0001",))},
        "splits": {"train": SplitSummary(source="x", digest="d", rows_read=600, rows_used=600, truncated=0, dropped_unsupervised=0, tokens=9, supervised_tokens=5)},
        "verification": Verification(items=(VerifiedItem(name="adapter_applies", passed=True, message="Logits change by 12.", value=12.0, tolerance=1e-6),)),
    }  # fmt: skip
    return Evidence(**{**healthy, **changes})  # type: ignore[arg-type]


def verdict(found: Finding) -> tuple[str, str]:
    return found.outcome, found.severity if found.outcome == "fired" else "-"


def known_by_heart(validation: float = 0.7, **changes: object) -> Evidence:
    return evidence(
        train_probe=probes("train_probe", 5.0, 0.01, seed=4), validation=probes("validation", 5.0, validation, seed=5), **changes
    )  # fmt: skip
