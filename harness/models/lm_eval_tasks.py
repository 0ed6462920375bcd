"""Tasks of lm-evaluation-harness on a loaded model, by its own code: its prompts, filters and metrics."""

import contextlib
import importlib.util
import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.errors import EvalError, boundary
from harness.eval_config import EvalConfig
from harness.library_fields import did_you_mean
from harness.models.lm_eval_metrics import (
    BenchmarkDocument,
    BenchmarkMetric,
    answered_documents,
    group_metrics,
    task_metrics,
)
from harness.models.load import LoadedModel
from harness.models.out_of_memory import clear_memory, is_out_of_memory
from harness.scoring.ifeval import check_ifeval
from harness.scoring.thinking import DELIMITERS

if TYPE_CHECKING:
    from lm_eval.api.group import Group
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager

logger = logging.getLogger(__name__)

BATCH_SIZE = 32
DEFAULT_ANSWER_TOKENS = 256
INSTALL = "lm_eval needs lm-evaluation-harness; install it with `pip install 'sft-harness[benchmarks]'`"
DECLARED = re.compile(r"""^(?:task|group|tag):[ ]*["']?([^\s"'#\[]+)""", re.MULTILINE)


class LmEvalResult(NamedTuple):
    """What lm-evaluation-harness found out about one model."""

    metrics: tuple[BenchmarkMetric, ...]
    documents: tuple[BenchmarkDocument, ...]


class LoadedTasks(NamedTuple):
    """Tasks with their documents."""

    roots: tuple[Any, ...]
    """What was named: tasks, and groups of them."""
    tasks: Mapping[str, "Task"]
    groups: Mapping[str, "Group"]
    index: "TaskManager"


def check_task_names(names: Sequence[str], include_path: str | None) -> None:
    """Makes sure that lm-evaluation-harness is here and knows the tasks, without loading any.

    Raises: EvalError: it doesn't.
    """
    package = importlib.util.find_spec("lm_eval")
    if package is None or package.origin is None:
        raise EvalError(INSTALL)
    if include_path is not None and not Path(include_path).is_dir():
        raise EvalError(f"include_path {include_path!r} is no folder; name the one that holds your tasks' YAML files")
    folders = [Path(package.origin).parent / "tasks", *([Path(include_path)] if include_path else [])]
    declared = frozenset[str]().union(*(_declared_in(folder) for folder in folders))
    if declared.issuperset(names):
        return
    # Names can also stand in lists and included files; only lm-eval's own index, which takes seconds, has them all.
    known = _manager(include_path).all_tasks
    for name in names:
        if name not in known:
            raise EvalError(
                f"lm_eval has no task {name!r}{did_you_mean(name, known)}; `lm-eval ls tasks` lists them, and include_path: adds "
                "yours"
            )


@lru_cache(maxsize=8)
def _declared_in(folder: Path) -> frozenset[str]:
    """The tasks, groups and tags that a folder's YAML files declare, each on a line of its own."""
    texts = (path.read_text(encoding="utf-8", errors="replace") for path in folder.rglob("*.yaml"))
    return frozenset(name for text in texts for name in DECLARED.findall(text))


@lru_cache(maxsize=2)
def _manager(include_path: str | None) -> "TaskManager":
    from lm_eval.tasks import TaskManager

    with _quietly():
        return TaskManager(include_path=include_path)


def _index(options: EvalConfig) -> "TaskManager":
    """An index of the user's folder alone where it has every task: that of the package takes seconds to build."""
    from lm_eval.tasks import TaskManager

    if options.include_path is not None:
        own = TaskManager(include_path=options.include_path, include_defaults=False)
        if set(options.lm_eval) <= set(own.all_subtasks):
            return own
    return _manager(options.include_path)


def load_tasks(options: EvalConfig) -> LoadedTasks:
    """The named tasks with their documents, from the Hub where they aren't here yet.

    Raises: EvalError: a task or its documents can't be loaded.
    """
    if any("ifeval" in name for name in options.lm_eval):
        check_ifeval()
    roots: list[Any] = []
    tasks: dict[str, Task] = {}
    groups: dict[str, Group] = {}
    with boundary(EvalError, f"{options.label}: {', '.join(options.lm_eval)} can't be loaded"), _quietly():
        index = _index(options)
        for name in options.lm_eval:
            found = index.load([name])
            tasks |= found["tasks"]
            groups |= found.get("groups", {})
            roots += [groups[name]] if name in groups else list(found["tasks"].values())
    for name, task in tasks.items():
        if getattr(task, "UNSAFE_CODE", False) and not options.allow_code_execution:
            raise EvalError(
                f"{options.label}: {name} runs the model's code on this machine; say so with allow_code_execution: true"
            )
    return LoadedTasks(tuple(roots), tasks, groups, index)


def run_lm_eval(loaded: LoadedModel, options: EvalConfig) -> LmEvalResult:
    """Asks the tasks that `options.lm_eval` names, through the model's chat template where it has one.

    `options.limit` documents of each task are asked; how long answers may get is the tasks' own matter.
    Raises: EvalError: a task can't be loaded, or can't be asked of this model.
    """
    asked = load_tasks(options)
    results = _evaluated(loaded, options, asked)
    fixed = [name for name in results["samples"] if results["n-shot"].get(name) != options.num_fewshot]
    if options.num_fewshot is not None and fixed:
        logger.warning("%s: num_fewshot is ignored by %s, which fix it themselves", options.label, ", ".join(fixed))
    metrics = list(task_metrics(results, {name: task.aggregation() for name, task in asked.tasks.items()}))
    members = {name: [task.task_name for task in group.get_all_tasks()] for name, group in asked.groups.items()}
    return LmEvalResult(
        (*metrics, *group_metrics(results, members, metrics)), tuple(answered_documents(results))
    )  # fmt: skip


def _evaluated(loaded: LoadedModel, options: EvalConfig, asked: LoadedTasks) -> Mapping[str, Any]:
    """lm-eval's own results, with a batch size that fits into memory."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    from harness.models.generate import plain_decoding

    batch_size = BATCH_SIZE
    while True:
        try:
            with _quietly(), plain_decoding(loaded):
                with _tied_as_loaded(loaded.model):
                    model = HFLM(
                        pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=batch_size,
                        think_end_token=_end_of_thinking(loaded),
                    )  # fmt: skip
                check_room(asked, model.max_length, options.label)
                results: Mapping[str, Any] = simple_evaluate(
                    model=model, tasks=list(asked.roots), task_manager=asked.index, num_fewshot=options.num_fewshot, limit=options.limit,
                    apply_chat_template=loaded.tokenizer.chat_template is not None, log_samples=True, bootstrap_iters=0,
                    confirm_run_unsafe_code=options.allow_code_execution,
                )  # fmt: skip
        except (RuntimeError, MemoryError) as error:
            if batch_size == 1 or not is_out_of_memory(error):
                raise
        else:
            _warn_of_truncation(results, loaded, model.max_length, options.label)
            return results
        # Outside the handler: the exception holds on to the tensors that filled the memory.
        clear_memory()
        batch_size //= 2
        logger.warning("%s: out of memory; trying a batch of %d", options.label, batch_size)
        # Answers collect in the tasks.
        asked = load_tasks(options)


def check_room(asked: LoadedTasks, context: int, label: str) -> None:
    """Makes sure that a model's context holds a prompt beside the longest answer of each task.

    Raises: EvalError: it doesn't.
    """
    for name, task in asked.tasks.items():
        wanted = (task.config.generation_kwargs or {}).get("max_gen_toks", DEFAULT_ANSWER_TOKENS)
        if task.OUTPUT_TYPE == "generate_until" and wanted >= context:
            raise EvalError(
                f"{label}: {name} lets answers grow to {wanted} tokens, and the model's context has {context}; put a copy of the task "
                "with a smaller max_gen_toks into a folder, and name that in include_path"
            )


def _end_of_thinking(loaded: LoadedModel) -> str | None:
    """What ends a thinking block in the model's template: lm-eval scores what follows it."""
    template = str(loaded.tokenizer.chat_template or "")
    return next((pair.close for pair in DELIMITERS if pair.close in template), None)


def _warn_of_truncation(results: Mapping[str, Any], loaded: LoadedModel, context: int, label: str) -> None:
    """lm-eval cuts the beginning off a prompt that leaves no room for the answer."""
    prompts = {}
    for name, samples in results["samples"].items():
        for sample in samples:
            for prompt, *rest in sample["arguments"]:
                is_generated = bool(rest) and isinstance(rest[0], dict)
                room = rest[0].get("max_gen_toks", DEFAULT_ANSWER_TOKENS) if is_generated else 0
                text = prompt if is_generated or not rest else prompt + rest[0]
                prompts[name, sample["doc_id"], text] = context - room
    lengths = [len(ids) for ids in loaded.tokenizer([text for *_, text in prompts])["input_ids"]] if prompts else []
    cut = {key[:2] for (key, room), length in zip(prompts.items(), lengths, strict=True) if length > room}
    if cut:
        logger.warning("%s: %d documents are too long for the context of %d tokens and were asked without their beginning",
                       label, len(cut), context)  # fmt: skip


@contextlib.contextmanager
def _tied_as_loaded(model: Any) -> Iterator[None]:
    """HFLM ties the weights of every model anew, and fails on an adapter that trains tied embeddings."""
    model.tie_weights = lambda: None
    try:
        yield
    finally:
        del model.tie_weights


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without lm-eval's prints, progress bars and advice, which are about its own command line."""
    if logger.isEnabledFor(logging.DEBUG):
        yield
        return
    noisy = logging.getLogger("lm_eval")
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        with (
            Path(os.devnull).open("w", encoding="utf-8") as nowhere, warnings.catch_warnings(),
            contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere),
        ):  # fmt: skip
            warnings.simplefilter("ignore")
            yield
    finally:
        noisy.setLevel(level)
