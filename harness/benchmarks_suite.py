"""Tasks of lm-evaluation-harness as a suite: their results and errors land like those of any other."""

import importlib.metadata
import logging
import time
from pathlib import Path

from harness.eval_config import EvalConfig
from harness.models.lm_eval_tasks import LmEvalResult, check_room, check_task_names, load_tasks, run_lm_eval
from harness.models.load import LoadedModel
from harness.records import Generation, Score, SuiteResult
from harness.resources import digest, file_digest
from harness.store import CellFolder, write_lines

logger = logging.getLogger(__name__)

VERSION = 1
# The tasks bring their own examples, prompts and decoding.
DECIDING = {"lm_eval", "limit", "num_fewshot", "allow_code_execution"}
TASK_FILES = (".yaml", ".yml", ".py", ".json", ".jsonl", ".csv", ".parquet", ".txt")


def check_lm_eval(options: EvalConfig, *, deep: bool = False, context: int | None = None) -> None:
    """Makes sure, before anything is trained, that the tasks can be asked.

    Args:
        options: the entry of `evals`.
        deep: also load the tasks with their documents, from the Hub where they aren't here yet.
        context: tokens that the model takes, where they are known; checked when `deep`.

    Raises: EvalError: the package or a task is missing, a task can't be loaded, or its answers fill the context.
    """
    check_task_names(options.lm_eval, options.include_path)
    if deep:
        tasks = load_tasks(options)
        if context is not None:
            check_room(tasks, context, options.label)


def lm_eval_digest(options: EvalConfig) -> str:
    """12 hex digits of all that decides the tasks' results for a given model, as far as it is on this machine.

    The documents of a task on the Hub are not part of it.
    """
    try:
        installed = importlib.metadata.version("lm_eval")
    except importlib.metadata.PackageNotFoundError:
        installed = ""
    asked = options.model_dump(mode="json", include=DECIDING)
    return digest(["lm_eval", VERSION, installed, asked, _content(options.include_path)])


def _content(include_path: str | None) -> dict[str, str]:
    """Path -> digest of the user's own tasks and the data beside them, without what runs write."""
    if include_path is None:
        return {}
    folder = Path(include_path)
    found = {path.relative_to(folder): path for path in folder.rglob("*") if path.suffix in TASK_FILES}
    own = {name: path for name, path in found.items() if path.is_file() and not _is_left_out(name)}
    return {str(name): file_digest(own[name]) for name in sorted(own)}


def _is_left_out(name: Path) -> bool:
    return any(part == "mlruns" or part.startswith(".") for part in name.parts[:-1])


def lm_eval_result(loaded: LoadedModel, options: EvalConfig, folder: CellFolder) -> SuiteResult:
    """Asks the tasks, keeps what was answered, and gives their metrics as `task.metric`.

    Raises: EvalError: a task can't be loaded, or can't be asked of this model.
    """
    started = time.monotonic()
    result = run_lm_eval(loaded, options)
    key = lm_eval_digest(options)
    write_lines(folder.generations(options.label, key), _generations(result, loaded))
    seconds = time.monotonic() - started
    logger.info("%s: %d documents in %.1f s", options.label, len(result.documents), seconds)
    return SuiteResult(
        suite=options.label,
        kind="lm_eval",
        version=VERSION,
        digest=key,
        metrics={metric.name: metric.estimate for metric in result.metrics},
        scores=tuple(
            Score(example_id=document, metric=metric.name, value=value)
            for metric in result.metrics
            for document, value in metric.values.items()
        ),
        clusters={document.id: document.id for document in result.documents},
        slices={document.id: () for document in result.documents},
        seconds=seconds,
    )


def _generations(result: LmEvalResult, loaded: LoadedModel) -> list[Generation]:
    """One line a completion; lm-eval doesn't say how it ended."""

    def tokens(text: str) -> int:
        return len(loaded.tokenizer(text, add_special_tokens=False)["input_ids"])

    return [
        Generation(
            example_id=document.id, prompt=document.prompt, text=text, stop_reason="unknown",
            prompt_tokens=tokens(document.prompt), completion_tokens=tokens(text), sample=sample,
        )
        for document in result.documents
        for sample, text in enumerate(document.completions)
    ]  # fmt: skip
