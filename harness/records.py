"""Records that cross a file: what one stage writes and another reads."""

import math
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict

from harness.secrets import redacted

NonFinite = Literal["nan", "inf", "-inf"]
Severity = Literal["info", "warning", "error"]
Outcome = Literal["fired", "clear", "insufficient", "not_applicable"]
SplitName = Literal["train", "validation", "test"]
ReferenceKind = Literal["base", "few_shot", "model", "endpoint", "predictions"]
ProbeSplit = Literal["validation", "train_probe"]
Shown = Annotated[str, AfterValidator(redacted)]
"""Text that libraries and users write into, and that is shown and kept in many places: without secrets."""
StopReason = Literal["end_of_turn", "end_of_text", "length", "prompt_too_long", "not_asked", "unknown"]
"""not_asked: there is no answer, and nothing is scored; unknown: an answer that doesn't say how it ended."""


class Record(BaseModel):
    """Frozen, closed and finite: a NaN is written as the string "nan", never as a number."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def finite_or_name(value: float) -> float | NonFinite:
    """The value, or its name where JSON has no number for it."""
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return float(value)


class Message(Record):
    """One turn, in the fields that chat templates read."""

    role: str
    content: str = ""
    reasoning_content: str = ""
    """What an assistant thought before it answered."""
    tool_calls: tuple[dict[str, Any], ...] = ()
    """As `{"type": "function", "function": {"name": ..., "arguments": {...}}}`, with an `id` where the data have one."""
    name: str = ""
    """Of the tool that a tool's turn comes from."""
    tool_call_id: str = ""
    is_supervised: bool = True
    """False: an assistant's turn that is shown to the model but not learned (`weight: 0` in the data)."""

    def as_turn(self) -> dict[str, Any]:
        """The turn as `apply_chat_template` takes it, without the fields that are not filled."""
        turn: dict[str, Any] = {"role": self.role, "content": self.content}
        for key in ("reasoning_content", "name", "tool_call_id"):
            if value := getattr(self, key):
                turn[key] = value
        return turn | ({"tool_calls": list(self.tool_calls)} if self.tool_calls else {})


class TemplateInputs(Record):
    """What a chat template gets beside the turns."""

    tools: tuple[dict[str, Any], ...] = ()
    """As `{"type": "function", "function": {"name": ..., "description": ..., "parameters": {...}}}`."""
    documents: tuple[dict[str, Any], ...] = ()
    chat_template_kwargs: dict[str, Any] = {}
    """Variables that the template knows, such as `enable_thinking`."""

    def options(self) -> dict[str, Any]:
        """Keyword arguments for `apply_chat_template`."""
        given: dict[str, Any] = dict(self.chat_template_kwargs)
        if self.tools:
            given["tools"] = list(self.tools)
        if self.documents:
            given["documents"] = list(self.documents)
        return given


class Expectation(Record):
    """What the form of an answer must be, beyond ending its turn."""

    json_schema: dict[str, Any] | None = None
    """JSON Schema that the whole answer must fit."""
    tools: tuple[dict[str, Any], ...] = ()
    """Function schemas; where given, the answer must be one well-formed call of one of them."""
    thinking: bool = False
    """Whether the answer must begin with exactly one closed thinking block."""
    num_calls: int = 1
    """How many tools the answer calls, where there are tools."""
    allows_prose: bool = False
    """Whether the answer may say something beside its calls."""
    is_free: bool = False
    """The reference itself has another form than these checks know, so that only its end and its control tokens count."""
    prefill: str = ""
    """Beginning of the answer that the prompt already holds (`continue_final_message`): it is neither repeated nor opened anew."""


class Example(Record):
    """One prompt with its target."""

    id: str
    messages: tuple[Message, ...] = ()
    """The conversation up to the answer; empty where `text` is asked as it stands."""
    text: str = ""
    """A prompt asked without any chat template."""
    reference: str
    answer: Message | None = None
    """The reference as a turn, where it is more than text: reasoning or tool calls."""
    inputs: TemplateInputs = TemplateInputs()
    slices: tuple[str, ...] = ()
    cluster: str = ""
    """Examples of one cluster are not independent of each other; empty means a cluster of its own."""
    expect: Expectation = Expectation()
    choices: tuple[str, ...] = ()
    """Answers to choose from by log-probability; the reference is one of them."""
    tests: str = ""
    """Python that fails where the generated code is wrong: assertions, run after it."""
    instructions: tuple[dict[str, Any], ...] = ()
    """Verifiable instructions of the prompt, as IFEval's `{"id": ..., **kwargs}`."""

    @property
    def turns(self) -> tuple[Message, ...]:
        """The conversation up to the answer; plain text as the user's turn."""
        return self.messages or (Message(role="user", content=self.text),)

    @property
    def plain_prompt(self) -> str:
        """What is asked, without any template; turns one below the other."""
        return self.text or "\n".join(turn.content for turn in self.messages)


class Generation(Record):
    """One completion."""

    example_id: str
    prompt: str
    """What the model was given, special tokens visible."""
    text: str
    """The completion without its end-of-turn token."""
    stop_reason: StopReason
    prompt_tokens: int
    completion_tokens: int
    seconds: float | None = None
    """Of the batch that it was generated in, divided by the batch's size; None where it was not timed."""
    sample: int = 0
    """Which of several samples of the same prompt."""

    @property
    def is_answered(self) -> bool:
        """Whether there is an answer to be scored, and be it an empty one."""
        return self.stop_reason not in ("prompt_too_long", "not_asked")


class Score(Record):
    """One scorer's verdict on one generation."""

    example_id: str
    metric: str
    value: float | None
    """None: could not be scored; never counted as zero."""
    failure: str = ""
    """Machine-readable kind of failure, such as `runs_on` or `json_invalid`."""


class Estimate(Record):
    """A mean over examples with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int
    unscored: int = 0


class SuiteResult(Record):
    """What one suite found out about one model."""

    suite: str
    kind: str = ""
    """The suite's own name, where results are called otherwise."""
    version: int
    digest: str
    """Of the suite's name, version, options and examples."""
    metrics: dict[str, Estimate]
    slice_metrics: dict[str, Estimate] = {}
    """The same in every slice, as `metric.slice`."""
    scores: tuple[Score, ...]
    clusters: dict[str, str]
    """Example id -> cluster."""
    slices: dict[str, tuple[str, ...]]
    """Example id -> slices."""
    seconds: float

    def is_kind(self, name: str) -> bool:
        """Whether it comes of the suite of this name, whatever its results are called."""
        return (self.kind or self.suite) == name


class TracePoint(Record):
    """What the trainer logged at one optimizer step."""

    step: int
    epoch: float
    seconds: float
    """Since training began."""
    values: dict[str, float | NonFinite]


class Batch(Record):
    """The rows that one optimizer step was taken on."""

    step: int
    rows: tuple[str, ...]
    """Their ids."""


class Probe(Record):
    """NLL of every example of a fixed set at one step, in eval mode."""

    step: int
    split: ProbeSplit
    nll: tuple[float | NonFinite, ...]
    """Nats per supervised token, one value an example, always in the same order."""
    tokens: tuple[int, ...]
    """Supervised tokens of each example."""


class ExtractionItem(Record):
    """Whether greedy decoding completes an answer, word for word, from its first half."""

    split: ProbeSplit
    example_id: str
    prefix: str
    expected: str
    generated: str
    is_verbatim: bool


class Contamination(Record):
    """Which examples of a suite occur in the training rows of a cell."""

    num_examples: int
    exact: tuple[str, ...] = ()
    """Ids of examples whose prompt, or prompt with answer, is a training row's, word for word."""
    near: tuple[str, ...] = ()
    """Ids of examples with a near-duplicate (MinHash Jaccard >= 0.8) among the training rows."""
    shared: tuple[str, ...] = ()
    """Ids of examples whose answer shares 13 consecutive words with a training answer."""


class TrainedAnswers(Record):
    """A sample of the answers that a cell was trained on."""

    answers: tuple[str, ...]


class Dropped(Record):
    """One row that a split lost, and why."""

    split: SplitName
    where: str
    """File and line, or dataset and position."""
    id: str
    reason: str
    """One word, such as `overlap`, `empty_answer`, `filter`, `truncated_answer` or `template_rejected`."""
    message: str


class SplitSummary(Record):
    """What became of the rows of one split."""

    source: str
    digest: str
    rows_read: int
    rows_used: int
    truncated: int
    """Rows cut at `max_length`."""
    dropped_unsupervised: int
    """Rows without any supervised token left."""
    dropped: dict[str, int] = {}
    """Rows that were left out, by reason, before and after tokenization."""
    tokens: int
    supervised_tokens: int


class TrainResult(Record):
    """What a training run did."""

    steps: int
    planned_steps: int
    epochs: float
    seconds: float
    train_loss: float | NonFinite
    """Last logged training loss."""
    best_step: int | None
    """Step with the lowest validation loss."""
    best_eval_loss: float | None
    eval_loss: float | NonFinite | None
    checkpoints: dict[str, str]
    """`last` and `best` -> path inside the cell folder."""
    evaluated: Literal["last", "best"] = "last"
    """Which of them is evaluated: the best where `load_best_model_at_end` asks for it."""
    splits: dict[str, SplitSummary]
    device: str
    dtype: str
    num_parameters: int
    num_trainable_parameters: int
    peak_memory_gib: float | None
    settings: dict[str, str]
    """Every TRL, PEFT and model setting as it was in force."""
    environment: dict[str, str]
    """Versions, platform and git commit."""
    facts: dict[str, str] = {}
    """What must be the same in two cells that are compared: rows, tokens, batch, attention, precision, versions."""
    stopped_early: bool = False
    """Whether early stopping ended it before the planned steps."""
    stopped_on: str = ""
    """The sentence of the check that ended it before the planned steps, as `stop_on` asks; else empty."""

    @property
    def evaluated_checkpoint(self) -> str:
        """Path inside the cell folder of the checkpoint that is evaluated."""
        return self.checkpoints[self.evaluated]

    @property
    def evaluated_step(self) -> int:
        """Its optimizer step."""
        return int(self.evaluated_checkpoint.rpartition("-")[2])


class Finding(Record):
    """One warning sign: did it fire, how bad is it, on what evidence, and what to do."""

    check: str
    outcome: Outcome
    severity: Severity
    message: str
    advice: str = ""
    statistic: float | None = None
    threshold: float | None = None
    source: str = ""
    """Where the threshold comes from."""
    evidence: tuple[str, ...] = ()
    """Steps, examples or strings that show it."""

    @property
    def is_warning(self) -> bool:
        """Whether it fired as more than an info."""
        return self.outcome == "fired" and self.severity != "info"


def warning_names(findings: Iterable[Finding]) -> str:
    """The checks that fired as more than an info, once each, as `diverged, memorization`."""
    return ", ".join(dict.fromkeys(finding.check for finding in findings if finding.is_warning))


class CellResult(Record):
    """All that is known of one trained cell or one reference."""

    cell: str
    name: str
    group: str
    """Digest of the config without its seed: cells that differ in the seed alone share it."""
    seed: int | None
    """None for a reference."""
    base: str = ""
    """Digest of the base model: a cell is compared with the reference that shares it."""
    reference: ReferenceKind | None = None
    """None for a cell."""
    overrides: dict[str, Any]
    status: Literal["finished", "failed", "killed"]
    """killed: stopped by a signal; `harness run` goes on with it."""
    stage: str = ""
    """Where it ended."""
    error: Shown = ""
    traceback: Shown = ""
    mlflow_run_id: str = ""
    suites: tuple[SuiteResult, ...] = ()
    suite_errors: dict[str, Shown] = {}
    """Suite -> why it couldn't be asked; the others count."""
    train: TrainResult | None = None

    def metrics(self) -> dict[str, Estimate]:
        """`suite.metric` -> estimate."""
        return {f"{suite.suite}.{name}": value for suite in self.suites for name, value in suite.metrics.items()}

    def slice_metrics(self) -> dict[str, Estimate]:
        """`suite.metric.slice` -> estimate."""
        return {f"{suite.suite}.{name}": value for suite in self.suites for name, value in suite.slice_metrics.items()}

    def metrics_with(self, criterion: str) -> dict[str, Estimate]:
        """The metrics, and the slice that is ranked by if it is one."""
        slices = self.slice_metrics()
        return self.metrics() | ({criterion: slices[criterion]} if criterion in slices else {})
