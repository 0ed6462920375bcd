"""Who answers for a cell or a reference."""

from pathlib import Path

from harness.checkpoint_config import Keep
from harness.checkpoints import evaluated_checkpoint
from harness.data.splits import Splits
from harness.grid import Cell
from harness.models.answer_cache import AnswerCache
from harness.models.few_shot import choose_shots
from harness.models.identity import answers_key
from harness.models.load import load_base, load_checkpoint, load_tokenizer, tokenizer_at
from harness.models.local import LocalModel
from harness.models.respondent import Respondent
from harness.models.served import ServedModel
from harness.predictions import PredictedAnswers, load_predictions
from harness.records import TrainResult
from harness.store import CellFolder


def respondent_of(
    cell: Cell, folder: CellFolder, splits: Splits, trained: TrainResult | None, *, keep: Keep = "best+last"
) -> Respondent:
    """Who answers for a cell or a reference: what is evaluated is what a user would load.

    Raises: HarnessError: the model's tokenizer, or the file of predictions, can't be read; or its checkpoint is gone.
    """
    reference, config = cell.reference, cell.config
    if reference is not None and reference.predictions is not None:
        return PredictedAnswers(load_predictions(Path(reference.predictions)))
    if reference is not None and reference.url is not None:
        return ServedModel(reference, folder.answers)
    plain = splits.is_plain
    tokenizer = load_tokenizer(config, plain_rows=plain)
    checkpoint = evaluated_checkpoint(folder, trained, keep) if trained else None
    cache = AnswerCache(folder.answers(answers_key(config, tokenizer, checkpoint)))
    shots = None
    if reference is not None and reference.few_shot is not None:
        as_transcript = not plain and tokenizer_at(config.model.name, config.model).chat_template is None
        shots = choose_shots(splits.train, reference.few_shot, as_transcript=as_transcript)
    if checkpoint is None:
        return LocalModel(tokenizer, lambda: load_base(config, plain_rows=plain), cache, shots)
    return LocalModel(tokenizer, lambda: load_checkpoint(config, checkpoint, plain_rows=plain), cache)
