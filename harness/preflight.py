"""Checks every cell before any training: are its model, template and data there, and can it learn from them?"""

from collections.abc import Mapping, Sequence

from harness.data.sources import local_path
from harness.data.splits import load_splits
from harness.data.tokenize import tokenize
from harness.errors import DataError, HarnessError
from harness.grid import Cell
from harness.models.load import check_model, load_tokenizer
from harness.models.templates import template_text

NUM_ROWS = 20


def check_files(cell: Cell) -> None:
    """What can be checked without transformers: local data and the template file.

    Raises: HarnessError: one of them is missing or broken.
    """
    template_text(cell.config.template)
    data = cell.config.data
    if all(local_path(source) is not None for source in (data.train, data.validation, data.test) if source):
        load_splits(data)


def check_cell(cell: Cell) -> None:
    """Tokenizes the first rows as training will.

    Raises: HarnessError: the model, its template or the data can't work together.
    """
    check_model(cell.config.model)
    splits = load_splits(cell.config.data)
    tokenizer, tokens = load_tokenizer(cell.config, plain_rows=splits.train[0].is_plain)
    max_length = cell.config.training.get("max_length", 1024)
    for row in splits.train[:NUM_ROWS]:
        done = tokenize(
            row, tokenizer, end_of_turn_id=tokens.end_of_turn_id, assistant_only=True, max_length=max_length
        )
        if done.num_supervised:
            return
    raise DataError(
        f"cell {cell.name}: none of the first {NUM_ROWS} training rows has a supervised token within max_length {max_length}; "
        "raise training.max_length or check the template's {% generation %} markers"
    )


def problems(cells: Sequence[Cell], *, deep: bool) -> Mapping[str, tuple[str, ...]]:
    """Cell id -> what is wrong with it; cells that share a problem's cause are checked once.

    Args:
        cells: to check.
        deep: also load tokenizers and model configs, from the Hub where they are there.
    """
    known: dict[str, tuple[str, ...]] = {}
    found: dict[str, tuple[str, ...]] = {}
    for cell in cells:
        config = cell.config
        key = config.model_dump_json(include={"model", "template", "data"}) + str(config.training.get("max_length"))
        if key not in known:
            try:
                check_cell(cell) if deep else check_files(cell)
                known[key] = ()
            except HarnessError as error:
                known[key] = (str(error),)
        found[cell.id] = known[key]
    return found
