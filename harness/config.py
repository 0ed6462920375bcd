"""The experiment file: every field, its type and its meaning."""

import math
import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from harness.library_fields import FieldSet, lora_config_fields, quantization_fields, sft_config_fields
from harness.records import ReferenceKind
from harness.style_rules import StyleRules

TRL_MAX_LENGTH = 1024
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
CurveCheck = Literal[
    "non_finite", "diverged", "loss_spike", "gradient_explosion", "underfitting", "overfitting", "slow_validation"
]  # fmt: skip
"""Checks that curves alone decide, so that they can run while a cell trains."""
StopOn = Annotated[tuple[CurveCheck, ...], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]


class Section(BaseModel):
    """Part of an experiment file: closed, so that a misspelled key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


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


class SourceConfig(Section):
    """One dataset."""

    path: str
    """`.jsonl`, `.json`, `.parquet` or `.csv` file, a folder or glob of them, Hub id, or `embedded:train` (`validation`, `test`, and `structured_` before each)."""
    name: str | None = None
    """Configuration of a Hub dataset."""
    split: str = "train"
    """Split or slice of a Hub dataset, such as `train[:2000]`."""
    revision: str | None = None
    """Commit, tag or branch on the Hub."""
    weight: Annotated[float, Field(gt=0)] | None = None
    """Share of the mix, relative to the other sources: the largest mix that repeats no row. Without weights: all rows of all sources."""


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


def _as_source(value: object) -> object:
    return {"path": value} if isinstance(value, str) else value


class EvalConfig(Section):
    """One suite and its options."""

    suite: str
    """Name of a file in `evals/`, of the working folder or of the package, without its ending."""
    name: str = ""
    """What its results are called; by default the suite's name. Give one to ask a suite twice, of other data say."""
    data: SourceConfig | None = None
    """Other examples than the experiment's test split."""
    scorers: tuple[str, ...] | None = None
    """Which of the suite's scorers, and of the harness's own, are used; by default the suite's."""
    limit: Annotated[int, Field(gt=0)] | None = None
    """Ask so many examples only, the first ones; of consistency so many questions, of lm_eval so many documents a task."""
    slices: tuple[str, ...] | None = None
    """Of template_adherence: which kinds of prompts are made from the test rows and asked beside them; `[]`: none."""
    style: StyleRules | None = None
    """What every answer must look like: adds the metric `style`."""
    max_new_tokens: Annotated[int, Field(gt=0)] = 256
    """Longest generation; one that reaches it never ended its turn."""
    num_samples: Annotated[int, Field(gt=0, le=256)] = 1
    """Completions of every prompt; scores are averaged over them inside the example."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """0: greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus of the sampling distribution."""
    sampling_seed: int = 0
    """Of the samples."""
    allow_code_execution: bool = False
    """Runs the Python that models write, in a limited process of this machine (`code_passes`, `pass_at_k`)."""
    lm_eval: tuple[str, ...] = ()
    """Tasks of lm-evaluation-harness, instead of a suite: `{lm_eval: [ifeval, gsm8k], limit: 100}`."""
    include_path: str | None = None
    """Folder of your own lm-evaluation-harness tasks."""
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    """Examples in the prompt of lm-evaluation-harness; by default the task's own number."""

    _sources = field_validator("data", mode="before")(_as_source)

    @model_validator(mode="before")
    @classmethod
    def _lm_eval_is_a_suite(cls, value: Any) -> Any:
        if isinstance(value, dict) and "lm_eval" in value and "suite" not in value:
            tasks = value["lm_eval"]
            return {**value, "suite": "lm_eval", "lm_eval": [tasks] if isinstance(tasks, str) else tasks}
        return value

    @model_validator(mode="after")
    def _samples_differ(self) -> "EvalConfig":
        if self.num_samples > 1 and self.temperature == 0:
            raise ValueError(
                f"num_samples {self.num_samples} needs a temperature above 0: greedy samples are all the same"
            )
        if (self.suite == "lm_eval") != bool(self.lm_eval):
            raise ValueError("lm_eval needs a list of its tasks, such as `{lm_eval: [ifeval]}`")
        return self

    @property
    def label(self) -> str:
        """What its results are called."""
        return self.name or self.suite


class ReferenceConfig(Section):
    """A row beside the cells that was not trained here."""

    name: str
    """How tables call it; `base` is the untouched base model, zero-shot."""
    few_shot: Annotated[int, Field(gt=0)] | None = None
    """The base with so many training rows in its prompt: would prompting have been enough?"""
    model: str | None = None
    """Another model, such as the base's instruct version, through its own chat template; with `url`, what the server calls it."""
    revision: str | None = None
    """Of that model on the Hub."""
    url: str | None = None
    """An OpenAI-compatible server, such as `http://localhost:8000/v1`."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the server's key; none is needed where it isn't set."""
    concurrency: Annotated[int, Field(gt=0)] = 8
    """Requests at a time."""
    timeout_seconds: Annotated[float, Field(gt=0)] = 120.0
    """Of one request."""
    max_retries: Annotated[int, Field(ge=0)] = 5
    """Of one request, with growing pauses."""
    predictions: str | None = None
    """File of another system's answers to the held-out rows: lines of `{"id", "prediction"}`."""
    suite: str = "held_out"
    """Which suite the predictions answer."""

    @property
    def kind(self) -> ReferenceKind:
        """What it is."""
        if self.predictions is not None:
            return "predictions"
        if self.url is not None:
            return "endpoint"
        if self.few_shot is not None:
            return "few_shot"
        return "model" if self.model is not None else "base"

    @model_validator(mode="after")
    def _one_kind(self) -> "ReferenceConfig":
        if not NAME.fullmatch(self.name):
            raise ValueError(
                f"the name {self.name!r} can't be used; use letters, digits, '.', '_' and '-' only, 100 at most"
            )
        kinds = [key for key in ("few_shot", "url", "predictions") if getattr(self, key) is not None]
        if len(kinds) > 1 or (self.model is not None and kinds not in ([], ["url"])):
            raise ValueError(
                f"the reference {self.name} is several things at once; give one of few_shot, model, url and predictions"
            )
        if self.url is not None and self.model is None:
            raise ValueError(f"the reference {self.name} needs model: what the server calls it")
        if not kinds and self.model is None and self.name != "base":
            raise ValueError(f"the reference {self.name} needs one of few_shot, model, url and predictions")
        return self


def _as_references(value: object) -> object:
    """`base` and `few_shot` by name alone."""
    short: dict[str, Any] = {"base": {"name": "base"}, "few_shot": {"name": "few_shot", "few_shot": 4}}
    if not isinstance(value, list | tuple):
        return value
    return [short.get(item, {"name": item}) if isinstance(item, str) else item for item in value]


class RankingConfig(Section):
    """What decides the order, declared before the run."""

    by: str = "held_out.exact_match"
    """`suite.metric`; more is better, but for `nll` and `bits_per_byte`."""
    gates: tuple[str, ...] = ("no error findings",)
    """Conditions for being ranked at all."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """Family-wise error of all claims "A is better than B"."""
    resamples: Annotated[int, Field(ge=1000)] = 10_000
    """Bootstrap draws."""


class LaunchConfig(Section):
    """Where cells run."""

    launcher: Literal["local"] = "local"
    """local: worker processes on this machine."""
    max_workers: Annotated[int, Field(gt=0)] | None = None
    """Cells at a time; by default one a GPU, or one a CPU core."""
    processes_per_cell: Annotated[int, Field(gt=0)] = 1
    """Processes (and GPUs) that train one cell together, under `accelerate launch`; multiplies the effective batch."""
    accelerate_config: str | None = None
    """File of `accelerate config`, for FSDP2 say; by default plain data parallelism (DDP)."""


class TrackingConfig(Section):
    """The MLflow server."""

    uri: str | None = None
    """By default `MLFLOW_TRACKING_URI`, else MLflow's own default: `mlflow.db` and `mlruns/` in the working folder."""
    system_metrics: bool = True
    """Log CPU, GPU, memory and network use of every run."""


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


class ExperimentConfig(Section):
    """One experiment file with its overrides applied."""

    name: str
    """Also the MLflow experiment and the folder below `mlruns/harness`."""
    description: str = ""
    """The question that the experiment answers; the report opens with it."""
    model: dict[str, Any]
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
    launch: LaunchConfig = LaunchConfig()
    tracking: TrackingConfig = TrackingConfig()

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

    _references = field_validator("references", mode="before")(_as_references)

    @field_validator("references")
    @classmethod
    def _unique_references(cls, value: tuple[ReferenceConfig, ...]) -> tuple[ReferenceConfig, ...]:
        names = [item.name for item in value]
        if len(set(names)) < len(names):
            raise ValueError("two references have the same name; give each its own")
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
