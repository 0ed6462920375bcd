"""Whether a model treats the rows it was trained on differently: their loss, their completion, their phrases elsewhere."""

from collections.abc import Sequence, Set
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from harness.diagnose.answers import ID, MIN_ANSWERS, answers_of, apart, short
from harness.diagnose.evidence import Evidence, as_float, probe_mean
from harness.records import Probe
from harness.scoring.similarity import COPIED_NGRAM, Ngram, ngrams, share_in
from harness.stats import estimate, wilson

MIN_ROWS = 8
"""On either side: fewer rows can be ordered by chance."""
COPIED_SHARE = 0.5
COPIES = 0.02
SHOWN = 5


class Membership(NamedTuple):
    """Loss of single training rows against that of single held-out rows."""

    train: float
    """NLL per token at the end, in nats."""
    validation: float
    auc: float
    """How well the fall of a row's loss since step 0 tells training rows from validation rows."""
    low: float
    high: float

    @property
    def sentence(self) -> str:
        """The numbers."""
        return (
            f"NLL {self.train:.3g} on training and {self.validation:.3g} on validation rows, told apart with AUC {self.auc:.2f} "
            f"[{self.low:.2f}, {self.high:.2f}]"
        )


class Completion(NamedTuple):
    """Answers completed word for word from their first half."""

    train: float
    validation: float
    low: float
    """Of the 95 % interval of their difference."""
    n: int
    shown: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """The numbers."""
        return f"{self.train:.0%} of {self.n} training answers are completed word for word, {self.validation:.0%} of validation answers"


class Copies(NamedTuple):
    """Answers that are made of training answers where they should not be."""

    sentence: str
    statistic: float
    threshold: float
    is_sure: bool
    shown: tuple[str, ...]


def membership(evidence: Evidence) -> Membership | None:
    """How differently single rows are treated; None where too few were probed before and after training."""
    if len(evidence.train_probe) < 2 or len(evidence.validation) < 2:
        return None
    train, held_out = _relative_falls(evidence.train_probe), _relative_falls(evidence.validation)
    at_end = (probe_mean(evidence.train_probe[-1]), probe_mean(evidence.validation[-1]))
    if min(len(train), len(held_out)) < MIN_ROWS or not np.isfinite(at_end).all():
        return None
    auc, low, high = _auc(train, held_out)
    return Membership(*at_end, auc, low, high)


def _relative_falls(probes: Sequence[Probe]) -> list[float]:
    """Share of its first NLL that every row has lost; empty where the rows were not the same.

    Relative to where the row started, so calibrated on the base: short rows start higher and would otherwise dominate.
    """
    if len(probes[0].nll) != len(probes[-1].nll):
        return []
    pairs = [(as_float(a), as_float(b)) for a, b in zip(probes[0].nll, probes[-1].nll, strict=True)]
    falls = [(before - after) / before if before else 0.0 for before, after in pairs]
    return [fall for fall in falls if np.isfinite(fall)]


def _auc(train: Sequence[float], held_out: Sequence[float]) -> tuple[float, float, float]:
    """Area under the ROC curve with its 95 % interval (Hanley and McNeil 1982)."""
    from sklearn.metrics import roc_auc_score

    auc = float(roc_auc_score([1] * len(train) + [0] * len(held_out), [*train, *held_out]))
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    pairs = len(train) * len(held_out)
    variance = auc * (1 - auc) + (len(train) - 1) * (q1 - auc**2) + (len(held_out) - 1) * (q2 - auc**2)
    margin = 1.96 * float(np.sqrt(max(variance / pairs, 0.0)))
    return auc, auc - margin, min(1.0, auc + margin)


def completion(evidence: Evidence) -> Completion | None:
    """Word-for-word completion of training answers against validation answers; None where too few were tried."""
    train, held_out = (
        [item for item in evidence.extraction if item.split == split] for split in ("train_probe", "validation")
    )
    if min(len(train), len(held_out)) < MIN_ROWS:
        return None
    rates = [[float(item.is_verbatim) for item in items] for items in (train, held_out)]
    shown = [
        f"{short(item.example_id, ID)}: {short(f'{item.prefix} -> {item.expected}')}"
        for item in train
        if item.is_verbatim
    ]
    low = apart(*rates).low
    return Completion(float(np.mean(rates[0])), float(np.mean(rates[1])), low, len(train), tuple(shown[:SHOWN]))


def trained_phrases(evidence: Evidence) -> Set[Ngram]:
    """All runs of 8 words in the training answers that are known."""
    probed = [item.prefix + item.expected for item in evidence.extraction if item.split == "train_probe"]
    return _phrases((*evidence.trained_answers, *probed))


@lru_cache(maxsize=2)
def _phrases(texts: tuple[str, ...]) -> Set[Ngram]:
    """Of texts that most cells of an experiment share."""
    return frozenset(run for text in texts for run in ngrams(text, COPIED_NGRAM))


def completed_with_phrases(evidence: Evidence, known: Set[Ngram]) -> Copies | None:
    """Runs of 8 words from training answers, in the completions of training against those of validation answers."""
    shares: dict[str, list[float]] = {"train_probe": [], "validation": []}
    for item in evidence.extraction:
        share = share_in(ngrams(item.generated, COPIED_NGRAM), known)
        if share is not None:
            shares[item.split].append(share)
    train, held_out = shares["train_probe"], shares["validation"]
    if min(len(train), len(held_out)) < MIN_ROWS:
        return None
    sentence = (
        f"{np.mean(train):.0%} of the runs of {COPIED_NGRAM} words in completions of training answers are in the training answers, "
        f"{np.mean(held_out):.0%} in those of validation answers"
    )
    return Copies(sentence, float(np.mean(train) - np.mean(held_out)), 0.0, apart(train, held_out).low > 0, ())


def copied_answers(evidence: Evidence, known: Set[Ngram]) -> Copies | None:
    """Answers to held-out prompts of which half is a training answer's and not the reference's."""
    if not known:
        return None
    copied, tried, references = [], 0, []
    for answer in answers_of(evidence):
        runs = ngrams(answer.text, COPIED_NGRAM)
        if answer.reference is None or not runs:
            continue
        tried += 1
        right = ngrams(answer.reference, COPIED_NGRAM)
        references += [float((share_in(right, known) or 0.0) >= COPIED_SHARE)] if right else []
        suspect = [run for run in runs if run in known]
        if len(suspect) < COPIED_SHARE * len(runs):
            continue
        own = {*right, *ngrams(answer.prompt, COPIED_NGRAM)}
        if sum(run not in own for run in suspect) >= COPIED_SHARE * len(runs):
            copied.append(f"{short(answer.id, ID)}: {short(answer.text)}")
    if tried < MIN_ANSWERS:
        return None
    # References that are made of training phrases themselves say that the form of the answers is fixed.
    limit = max(COPIES, estimate(references).value if references else 0.0)
    sentence = f"{len(copied)} of {tried} answers to other prompts are mostly a training answer's words"
    return Copies(sentence, len(copied) / tried, limit, wilson(len(copied), tried).low > limit, tuple(copied[:SHOWN]))
