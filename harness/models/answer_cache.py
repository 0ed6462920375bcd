"""What a model has answered already, so that scoring again needs no generation."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.models.generate import Completion
from harness.models.respondent import RowLoss
from harness.records import Record, StopReason
from harness.store import append_lines, whole_lines


class KnownCompletion(Record):
    """One completion."""

    token_ids: tuple[int, ...]
    stop_reason: StopReason
    seconds: float


class KnownAnswer(Record):
    """All completions of one prompt, or the loss of one row."""

    key: str
    """Digest of the prompt's ids and the sampling, or of the row's ids and labels."""
    completions: tuple[KnownCompletion, ...] = ()
    loss: tuple[float, int, int] | None = None
    """NLL in nats per token, tokens, tokens that are right."""


class AnswerCache:
    """Answers of one model as it is on disk; another model, template or engine has another file.

    Losses that are no number aren't kept: they are computed again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = {answer.key: answer for answer in whole_lines(path, KnownAnswer)}

    def completions(self, key: str) -> list[Completion] | None:
        """The completions of a prompt; None where it was never asked."""
        known = self._known.get(key)
        return [Completion(c.token_ids, c.stop_reason, c.seconds) for c in known.completions] if known else None

    def loss(self, key: str) -> RowLoss | None:
        """The loss of a row; None where it was never measured."""
        known = self._known.get(key)
        return RowLoss(*known.loss) if known and known.loss else None

    def add_completions(self, answers: Mapping[str, Sequence[Completion]]) -> None:
        """Keeps completions by prompt."""
        self._add(
            [
                KnownAnswer(key=key, completions=tuple(KnownCompletion(**c._asdict()) for c in completions))
                for key, completions in answers.items()
            ]
        )

    def add_losses(self, losses: Mapping[str, RowLoss]) -> None:
        """Keeps losses by row, those that are numbers."""
        self._add([KnownAnswer(key=key, loss=tuple(loss)) for key, loss in losses.items() if math.isfinite(loss.nll)])

    def _add(self, answers: Sequence[KnownAnswer]) -> None:
        self._known.update({answer.key: answer for answer in answers})
        append_lines(self._path, answers)
