"""The experiment file: every field, its type and its meaning."""

import math
import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from harness.checkpoint_config import CheckpointsConfig
from harness.eval_config import NAME, EvalConfig, ReferenceConfig, Section, SourceConfig, as_references
from harness.launch_config import LaunchConfig
from harness.library_fields import FieldSet, lora_config_fields, quantization_fields, sft_config_fields

TRL_MAX_LENGTH = 1024
CurveCheck = Literal[
    "non_finite", "diverged", "loss_spike", "gradient_explosion", "underfitting", "overfitting", "slow_validation"
]  # fmt: skip
"""Checks that curves alone decide, so that they can run while a cell trains."""
StopOn = Annotated[tuple[CurveCheck, ...], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]


class ModelConfig(Section):
    """The base model."""

    name: str
    """Folder, Hub id, or `embedded:base`."""
    revision: str | None = None
    """Commit, tag or branch on the Hub; pin it, so that the base can't change under you."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the weights in training; auto: float32 for a full fine-tune, and for LoRA on CPU, else bfloat16."""
    attn_implementation: str | None = None
    """As in `from_pretrained`."""
    trust_remote_code: bool = False
    """Runs Python that comes with the model: only for a source you trust."""


class TemplateConfig(Section):
    """How a conversation becomes text, in training and in inference alike."""

    name: str = "auto"
    """auto (the model's own; none for plain prompt/completion rows), model, none, chatml, llama3, or a `.jinja` file."""


DataFormat = Literal["auto", "messages", "prompt_completion", "sharegpt", "alpaca", "question_answer", "text"]
ScoreName = Literal[
    "answer_words", "length_ratio", "sycophancy", "hedges", "citations", "repetition", "ifd"
]  # fmt: skip


class FilterConfig(Section):
    """Keeps training rows by one of their quality scores; a row without that score is kept."""

    score: ScoreName
    """`harness data` shows every score of a dataset; `ifd` is computed with the base model."""
    min: float | None = None
    """Lowest score that is kept."""
    max: float | None = None
    """Highest score that is kept."""
    top: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the rows that is kept, those with the highest scores."""

    @model_validator(mode="after")
    def _says_something(self) -> "FilterConfig":
        if self.min is None and self.max is None and self.top is None:
            raise ValueError(f"the filter on {self.score} keeps every row; give it min, max or top")
        return self


def _as_sources(value: object) -> object:
    items = value if isinstance(value, list | tuple) else [value]
    return None if value is None else [{"path": item} if isinstance(item, str) else item for item in items]


class DataConfig(Section):
    """Rows to train, validate and test on."""

    train: Annotated[tuple[SourceConfig, ...], Field(min_length=1)]
    """A dataset, just its path, or a list of them to mix."""
    validation: tuple[SourceConfig, ...] | None = None
    """Where absent, `validation_share` of the training rows, chosen by a hash of their content."""
    test: tuple[SourceConfig, ...] | None = None
    """Where absent, `test_share` of the training rows, chosen by a hash of their content."""
    validation_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    """Share of the training rows, between 0 and 0.5."""
    test_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    """Share of the training rows, between 0 and 0.5."""
    group_by: str | None = None
    """Column whose equal values stay in one split, such as a document or a user."""
    format: DataFormat = "auto"
    """auto: found from the columns of the first row."""
    text: str | None = None
    """How the columns of a row become text, such as `"### Question: {question}\\n### Answer: {answer}"`; the last one is the answer."""
    filter: tuple[FilterConfig, ...] = ()
    """Which training rows are kept; the others are counted and listed in `dropped.jsonl` of the cell."""
    limit: Annotated[int, Field(gt=0)] | None = None
    """Train on so many rows only."""
    shuffle_seed: int = 0
    """Which rows `limit` and `weight` take."""

    _sources = field_validator("train", "validation", "test", mode="before")(_as_sources)

    @field_validator("train", "validation", "test")
    @classmethod
    def _all_or_no_weights(cls, value: tuple[SourceConfig, ...] | None) -> tuple[SourceConfig, ...] | None:
        if value and len({source.weight is None for source in value}) > 1:
            raise ValueError("some sources have a weight and some have none; give every source one, or none")
        return value


class RankingConfig(Section):
    """What decides the order, declared before the run."""

    by: str = "held_out.exact_match"
    """`suite.metric`; more is better, but for `nll` and `bits_per_byte`."""
    secondary: tuple[str, ...] = ("template_adherence.all", "retention.accuracy")
    """Metrics that are shown beside the criterion, as far as they are measured, and weighed against it (Pareto), never added to it."""
    gates: tuple[str, ...] = ("no error findings",)
    """Conditions for being ranked at all."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """Family-wise error of all claims "A is better than B"."""
    resamples: Annotated[int, Field(ge=1000)] = 10_000
    """Draws of the step-down max-T test, and of the bootstrap."""
    confirm_share: Annotated[float, Field(ge=0, lt=0.9)] = 0.0
    """Share of the criterion's examples that never decides the order and gives the best set its final number; 0: none, and the best score is called optimistic."""
    confirm_seeds: Annotated[int, Field(ge=2)] = 5
    """Seeds that `harness run --confirm` brings every configuration of the best set to."""


class TrackingConfig(Section):
    """The MLflow server."""

    uri: str | None = None
    """By default `MLFLOW_TRACKING_URI`, else MLflow's own default: `mlflow.db` and `mlruns/` in the working folder."""
    system_metrics: bool = True
    """Log CPU, GPU, memory and network use of every run."""
    failing_traces: Annotated[int, Field(ge=0, le=500)] = 50
    """Failing answers of every cell that are logged as MLflow traces with their scores, those of the criterion's suite first; 0: none."""


def _checked(fields: FieldSet, values: Mapping[str, Any] | None) -> None:
    problems = [(name, problem) for name, value in (values or {}).items() if (problem := fields.problem(name, value))]
    if problems:
        raise ValueError("\n".join(f"{name}\t{problem}" for name, problem in problems))


class RunConfig(Section):
    """One fully resolved training variant: what a cell id is the digest of."""

    model: ModelConfig
    template: TemplateConfig = TemplateConfig()
    data: DataConfig
    training: dict[str, Any] = {}
    """Fields of TRL's SFTConfig under their own names."""
    adapter: dict[str, Any] | None = None
    """Fields of PEFT's LoraConfig; absent: full fine-tune."""
    quantization: dict[str, Any] | None = None
    """Fields of transformers' BitsAndBytesConfig."""
    stop_on: StopOn = ("non_finite", "diverged")
    """Checks of the curves that end a training early: `non_finite` as failed, the others as finished before its time; []: none."""
    early_stopping_patience: Annotated[int, Field(gt=0)] | None = None
    """Stop once the validation loss hasn't improved in so many evaluations; use it with `training.load_best_model_at_end`."""
    early_stopping_threshold: Annotated[float, Field(ge=0)] = 0.0
    """Least improvement of the validation loss that counts."""

    @field_validator("training")
    @classmethod
    def _training_fields(cls, value: dict[str, Any]) -> dict[str, Any]:
        _checked(sft_config_fields(), value)
        return value

    @field_validator("adapter")
    @classmethod
    def _adapter_fields(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        _checked(lora_config_fields(), value)
        return value

    @field_validator("quantization")
    @classmethod
    def _quantization_fields(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        _checked(quantization_fields(), value)
        return value

    @model_validator(mode="after")
    def _whole(self) -> "RunConfig":
        if self.quantization is not None and self.adapter is None:
            raise ValueError(
                "quantization needs an adapter: quantized weights can't be trained; add the section adapter:"
            )
        return self

    @property
    def trains_on_answers_only(self) -> bool:
        """Whether the loss leaves prompts out: the default, unless the YAML turns TRL's field off."""
        return (
            self.training.get("assistant_only_loss") is not False
            and self.training.get("completion_only_loss") is not False
        )

    @property
    def max_length(self) -> int | None:
        """Tokens of the longest row that is trained or probed; TRL's own default where the YAML says nothing."""
        given = self.training.get("max_length", TRL_MAX_LENGTH)
        return None if given is None else int(given)

    def planned_steps(self, num_rows: int, processes: int = 1) -> int:
        """Optimizer steps that a training on so many rows takes, packing aside."""
        if int(self.training.get("max_steps") or -1) > 0:
            return int(self.training["max_steps"])
        batch = int(self.training.get("per_device_train_batch_size") or 8)
        batch *= int(self.training.get("gradient_accumulation_steps") or 1) * processes
        return math.ceil(math.ceil(num_rows / batch) * float(self.training.get("num_train_epochs") or 3.0))

    @property
    def packs_long_rows(self) -> bool:
        """Whether packing spreads a long row over several sequences, so that nothing is cut."""
        return bool(self.training.get("packing")) and self.training.get("packing_strategy", "bfd") != "bfd"


TRAINED_SECTIONS = (*RunConfig.model_fields, "grid", "variants", "seeds")


class ExperimentConfig(Section):
    """One experiment file with its overrides applied."""

    name: str
    """Also the MLflow experiment and the folder below `mlruns/harness`."""
    description: str = ""
    """The question that the experiment answers; the report opens with it."""
    model: dict[str, Any]
    """Not needed where every row is a reference with `predictions`; neither is `data`."""
    template: dict[str, Any] = {}
    data: dict[str, Any]
    training: dict[str, Any] = {}
    adapter: dict[str, Any] | None = None
    quantization: dict[str, Any] | None = None
    stop_on: StopOn = ("non_finite", "diverged")
    """Checks of the curves that end a training early: `non_finite` as failed, the others as finished before its time; []: none."""
    early_stopping_patience: Annotated[int, Field(gt=0)] | None = None
    """Stop once the validation loss hasn't improved in so many evaluations; use it with `training.load_best_model_at_end`."""
    early_stopping_threshold: Annotated[float, Field(ge=0)] = 0.0
    """Least improvement of the validation loss that counts."""
    grid: dict[str, list[Any]] = {}
    """Dotted field -> values; every combination is a cell."""
    variants: dict[str, dict[str, Any]] = {}
    """Name -> dotted fields or sections that differ from the sections above; one cell each, beside the grid."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    """Every cell is trained once with each."""
    evals: tuple[EvalConfig, ...] = (EvalConfig(suite="template_adherence"), EvalConfig(suite="held_out"))
    references: tuple[ReferenceConfig, ...] = (ReferenceConfig(name="base"),)
    """Rows beside the cells: `base` (the untouched base model, zero-shot), `few_shot`, or what the section's fields describe."""
    ranking: RankingConfig = RankingConfig()
    checkpoints: CheckpointsConfig = CheckpointsConfig()
    launch: LaunchConfig = LaunchConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="before")
    @classmethod
    def _predictions_need_no_model(cls, value: Any) -> Any:
        if not isinstance(value, dict) or any(value.get(name) for name in TRAINED_SECTIONS):
            return value
        rows = value.get("references")
        is_alone = (
            isinstance(rows, list | tuple) and rows and all(isinstance(r, dict) and "predictions" in r for r in rows)
        )
        return {"model": {}, "data": {}, **value} if is_alone else value

    @field_validator("name")
    @classmethod
    def _safe_name(cls, value: str) -> str:
        if not NAME.fullmatch(value):
            raise ValueError(f"{value!r} can't name a folder; use letters, digits, '.', '_' and '-' only, 100 at most")
        return value

    @field_validator("evals", mode="before")
    @classmethod
    def _suite_names(cls, value: object) -> object:
        return (
            [{"suite": item} if isinstance(item, str) else item for item in value] if isinstance(value, list) else value
        )

    @field_validator("evals")
    @classmethod
    def _unique_suites(cls, value: tuple[EvalConfig, ...]) -> tuple[EvalConfig, ...]:
        labels = [item.label for item in value]
        if twice := next((label for label in labels if labels.count(label) > 1), None):
            raise ValueError(f"{twice} is listed twice; give each a `name` of its own")
        for name in (*labels, *(item.suite for item in value)):
            if not NAME.fullmatch(name) or "." in name:
                raise ValueError(f"{name!r} can't be a suite; name a file of evals/ without its ending")
        return value

    _references = field_validator("references", mode="before")(as_references)

    @field_validator("references")
    @classmethod
    def _unique_references(cls, value: tuple[ReferenceConfig, ...]) -> tuple[ReferenceConfig, ...]:
        names = [item.name for item in value]
        if len(set(names)) < len(names):
            raise ValueError("two references have the same name; give each its own")
        return value

    @field_validator("references")
    @classmethod
    def _answered_suites(cls, value: tuple[ReferenceConfig, ...], info: ValidationInfo) -> tuple[ReferenceConfig, ...]:
        if "evals" not in info.data:
            return value
        labels = [item.label for item in info.data["evals"] if not item.lm_eval]
        for item in value:
            if item.predictions is not None and item.suite not in labels:
                raise ValueError(
                    f"the reference {item.name} answers {item.suite!r}, which is no suite of evals that predictions can answer; "
                    "add it there or change the reference's `suite`"
                )
        return value

    @field_validator("grid")
    @classmethod
    def _filled_grid(cls, value: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for field, values in value.items():
            if not values:
                raise ValueError(f"{field} has no values; list at least one or delete the line")
        return value

    @field_validator("seeds")
    @classmethod
    def _unique_seeds(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) < len(value):
            raise ValueError("a seed is listed twice; each one trains the same cell again")
        return value

    @property
    def is_predictions_alone(self) -> bool:
        """Whether its only rows are other systems' predictions: there is no model and nothing to train."""
        has_cells = bool(self.model or self.data or self.grid or self.variants)
        return not has_cells and {item.kind for item in self.references} == {"predictions"}

    def base_run(self) -> dict[str, Any]:
        """The sections that every cell starts from, as plain data."""
        return {name: getattr(self, name) for name in RunConfig.model_fields}


def tracking_uri(config: TrackingConfig) -> str | None:
    """Where runs are logged; None is MLflow's own default."""
    return config.uri or os.environ.get("MLFLOW_TRACKING_URI") or None


def api_key(config: ReferenceConfig) -> str | None:
    """The key of a server, from the environment; None where the variable isn't set."""
    return os.environ.get(config.api_key_env, "").strip() or None


def process_rank() -> int:
    """Which of the processes that train a cell together this is; 0 where it is the only one."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Which GPU of this machine is this process's own, where several train a cell together."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def num_processes() -> int:
    """How many processes train a cell together."""
    return int(os.environ.get("WORLD_SIZE", "1"))
