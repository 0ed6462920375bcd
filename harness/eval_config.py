"""Sections of the experiment file about what is asked: data sources, suites and references."""

import re
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from harness.records import ReferenceKind
from harness.style_rules import StyleRules

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Section(BaseModel):
    """Part of an experiment file: closed, so that a misspelled key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


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
    trust_remote_code: bool = False
    """Runs Python that comes with that model: only for a source you trust."""
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

    @field_validator("url")
    @classmethod
    def _url_without_password(cls, value: str | None) -> str | None:
        if value is not None and "@" in urlsplit(value).netloc:
            raise ValueError(
                "the address holds a user or a password, which would reach files and logs; put the password into the environment "
                "variable that api_key_env names"
            )
        return value

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


def as_references(value: object) -> object:
    """`base` and `few_shot` by name alone."""
    short: dict[str, Any] = {"base": {"name": "base"}, "few_shot": {"name": "few_shot", "few_shot": 4}}
    if not isinstance(value, list | tuple):
        return value
    return [short.get(item, {"name": item}) if isinstance(item, str) else item for item in value]
