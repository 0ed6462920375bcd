"""What is wrong with a chat template, found by rendering sample conversations through it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from jinja2.exceptions import SecurityError

from harness.data.formats import Conversation
from harness.data.grammar import LOOKUP_TOOL, TOOL_RESULT
from harness.data.template_source import ProblemKind, TemplateProblem, check_source
from harness.data.tokenize import MaskSource, TokenPlan, prompt_ids, renderer, tokenize
from harness.errors import TemplateError
from harness.models.templates import SAMPLE, default_template, plan_tokens, supervised_runs, verify_mask
from harness.records import Message, Record, TemplateInputs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SYSTEM, REASONING = "Answer in the manner of a park ranger.", "Maps first, then the sign at the bridge."
SYSTEM_TURN = Message(role="system", content=SYSTEM)
CALL = {"id": "abcdef123", "type": "function", "function": {"name": "lookup", "arguments": {"key": "Wombat length"}}}
WITH_TOOL = Conversation(
    id="tools",
    messages=(
        SAMPLE[0],
        Message(role="assistant", tool_calls=(CALL,)),
        Message(role="tool", name="lookup", tool_call_id="abcdef123", content=TOOL_RESULT),
        SAMPLE[3],
    ),
    inputs=TemplateInputs(tools=(LOOKUP_TOOL,)),
)
THINKING = Conversation(
    id="thinking", messages=(SAMPLE[0], SAMPLE[1].model_copy(update={"reasoning_content": REASONING}))
)


class TemplateReport(Record):
    """What a template does to conversations."""

    template: str
    tokenizer: str
    renders: bool
    mask: MaskSource
    mask_verified: bool
    """Whether decoding the supervised tokens gives back the assistant's turns with their end tokens, nothing else."""
    end_of_turn: tuple[str, ...] = ()
    generation_prompt: str = ""
    problems: tuple[TemplateProblem, ...] = ()
    sample: str = ""
    """A rendered conversation."""
    supervised: tuple[str, ...] = ()
    """What of it the loss looks at."""


def check_template(tokenizer: "PreTrainedTokenizerBase", template: str, tokenizer_name: str) -> TemplateReport:
    """Everything that can be found out about the template of a tokenizer; tokens that it needs are added to it.

    Args:
        tokenizer: with the template set.
        template: its name, for the report.
        tokenizer_name: where the tokenizer comes from.
    """
    report = TemplateReport(
        template=template, tokenizer=tokenizer_name, renders=False, mask="refused", mask_verified=False
    )
    if tokenizer.chat_template is None:
        return _failed(report, "render_error", "there is no chat template; name one, such as chatml or a .jinja file")
    if wrong := check_source(default_template(tokenizer)):
        return report.model_copy(update={"problems": (wrong,)})
    render = renderer(tokenizer)
    turns = [turn.as_turn() for turn in SAMPLE]
    try:
        sample = render(turns)
    except TemplateError as error:
        kind: ProblemKind = "unsafe" if isinstance(error.__cause__, SecurityError) else "render_error"
        return _failed(report, kind, str(error))
    report = report.model_copy(update={"sample": sample})
    lost = [turn.content for turn in SAMPLE if turn.content not in sample]
    if lost:
        return _failed(report, "render_error", f"it leaves out {lost[0]!r}")
    report = report.model_copy(update={"renders": True})
    try:
        tokens = plan_tokens(tokenizer)
    except TemplateError as error:
        return _failed(report, "end_of_turn_not_supervised", str(error))
    return _checked(tokenizer, tokens, report)


def _failed(report: TemplateReport, kind: ProblemKind, message: str) -> TemplateReport:
    problem = TemplateProblem(kind=kind, severity="error", message=message)
    return report.model_copy(update={"problems": (*report.problems, problem)})


def _checked(tokenizer: "PreTrainedTokenizerBase", tokens: TokenPlan, report: TemplateReport) -> TemplateReport:
    assert tokens.grammar is not None, "there is a template"
    found = [
        *_mask_problems(tokenizer, tokens),
        *_system_problems(tokenizer),
        *_feature_problems(tokenizer),
        *_prompt_problems(tokenizer, tokens),
        *_history_problems(tokenizer, tokens),
        *_token_problems(tokens),
    ]
    verified = tokens.mask != "refused" and not any(
        p.kind in ("wrong_mask", "end_of_turn_not_supervised") for p in found
    )
    done = tokens.mask != "refused" and tokenize(
        Conversation(id="sample", messages=SAMPLE), tokenizer, tokens, assistant_only=True, max_length=None
    )
    return report.model_copy(
        update={
            "mask": tokens.mask,
            "mask_verified": verified,
            "end_of_turn": tokens.grammar.stops,
            "generation_prompt": tokens.grammar.generation_prompt,
            "problems": tuple(found),
            "supervised": tuple(tokenizer.decode(run) for run in supervised_runs(done.labels)) if done else (),
        }
    )


def _renders(tokenizer: "PreTrainedTokenizerBase", row: Conversation) -> str | None:
    """The conversation as text; None where the template refuses it."""
    try:
        return renderer(tokenizer)([turn.as_turn() for turn in row.messages], **row.inputs.options())
    except TemplateError:
        return None


def mask_samples(tokenizer: "PreTrainedTokenizerBase") -> list[Conversation]:
    """Conversations whose masks are verified: short, long, with a system message and with tools where the template takes them."""
    samples = [
        Conversation(id="one answer", messages=SAMPLE[:2]),
        Conversation(id="two answers", messages=SAMPLE),
        Conversation(id="shown, then learned", messages=(SAMPLE[0], SAMPLE[1].model_copy(update={"is_supervised": False}), *SAMPLE[2:])),
    ]  # fmt: skip
    with_system = Conversation(id="system", messages=(SYSTEM_TURN, *SAMPLE))
    if SYSTEM in (_renders(tokenizer, with_system) or ""):
        samples.append(with_system)
    if not tools_dropped(tokenizer):
        samples.append(WITH_TOOL)
    return samples


def _mask_problems(tokenizer: "PreTrainedTokenizerBase", tokens: TokenPlan) -> Iterator[TemplateProblem]:
    if tokens.mask == "refused":
        yield TemplateProblem(
            kind="wrong_mask", severity="error", message=f"no loss mask can be had: {tokens.notes[-1]}"
        )
        return
    verdicts = [verify_mask(tokenizer, tokens, row) for row in mask_samples(tokenizer)]
    wrong = [verdict for verdict in verdicts if not verdict.is_right]
    if any(not verdict.is_end_supervised for verdict in wrong):
        yield TemplateProblem(
            kind="end_of_turn_not_supervised",
            message="the token that ends a turn is not in the loss, so the model never learns to stop; put it inside the "
            "{% generation %} block",
        )
    other = next((verdict for verdict in wrong if verdict.is_end_supervised), None)
    if other:
        yield TemplateProblem(kind="wrong_mask", severity="error", message=other.reason)


def _system_problems(tokenizer: "PreTrainedTokenizerBase") -> Iterator[TemplateProblem]:
    try:
        text = renderer(tokenizer)([turn.as_turn() for turn in (SYSTEM_TURN, *SAMPLE)])
    except TemplateError as error:
        yield TemplateProblem(kind="system_message_refused", message=f"system messages are refused: {error.__cause__}")
        return
    if SYSTEM not in text:
        yield TemplateProblem(kind="system_message_dropped", message="system messages are dropped without a word")


def tools_dropped(tokenizer: "PreTrainedTokenizerBase") -> str:
    """What of a conversation with a tool gets lost, or "" where nothing does."""
    text = _renders(tokenizer, WITH_TOOL)
    if text is None:
        return "conversations with tool calls are refused"
    parts = {"the tool's schema": "Looks a key up.", "the call": "Wombat length", "the tool's answer": TOOL_RESULT}
    return ", ".join(name for name, part in parts.items() if part not in text)


def _feature_problems(tokenizer: "PreTrainedTokenizerBase") -> Iterator[TemplateProblem]:
    """What simple templates can't do; matters where the data have it."""
    if lost := tools_dropped(tokenizer):
        yield TemplateProblem(
            kind="tools_dropped", severity="info", message=f"of a conversation with tools it loses: {lost}"
        )
    if REASONING not in (_renders(tokenizer, THINKING) or ""):
        yield TemplateProblem(
            kind="thinking_dropped", severity="info", message="reasoning_content of the last answer is not rendered"
        )


def _prompt_problems(tokenizer: "PreTrainedTokenizerBase", tokens: TokenPlan) -> Iterator[TemplateProblem]:
    """Is what the model is asked with in inference what it saw before the answer in training?"""
    if tokens.mask == "refused":
        return
    row = Conversation(id="sample", messages=SAMPLE[:2])
    trained = tokenize(row, tokenizer, tokens, assistant_only=True, max_length=None)
    asked = prompt_ids(tokenizer, SAMPLE[:1])
    if trained.input_ids[: len(asked)] != asked:
        shared = next((i for i, (a, b) in enumerate(zip(trained.input_ids, asked, strict=False)) if a != b), len(asked))
        yield TemplateProblem(
            kind="generation_prompt_mismatch",
            message=f"inference asks with {tokenizer.decode(asked[shared:])!r}, where training has "
            f"{tokenizer.decode(trained.input_ids[shared : shared + 8])!r}",
        )
    bos = tokenizer.bos_token_id
    if bos is not None and trained.input_ids[:2] == [bos, bos]:
        yield TemplateProblem(kind="double_bos", message=f"a conversation begins with {tokenizer.bos_token} twice")
    begun = SAMPLE[1].model_copy(update={"content": SAMPLE[1].content[:10].rstrip()})
    turns = [SAMPLE[0].as_turn(), begun.as_turn()]
    try:
        text = str(tokenizer.apply_chat_template(turns, tokenize=False, continue_final_message=True))
    except Exception as error:  # jinja2, ValueError and KeyError alike mean that it can't be done
        yield TemplateProblem(kind="continue_final_message_broken", severity="info", message=str(error).split(". ")[0])
        return
    if not text.endswith(begun.content):
        yield TemplateProblem(
            kind="continue_final_message_broken", severity="info", message=f"a begun answer ends as {text[-30:]!r}"
        )


def _history_problems(tokenizer: "PreTrainedTokenizerBase", tokens: TokenPlan) -> Iterator[TemplateProblem]:
    """Does an answer stay as it is when the conversation goes on?"""
    changed = [
        name
        for name, row in (
            ("answers", Conversation(id="", messages=SAMPLE)),
            ("answers with reasoning", _thought_over()),
        )
        if not is_prefix_preserving(tokenizer, tokens, row)
    ]
    if changed:
        is_data_dependent = changed == ["answers with reasoning"]
        yield TemplateProblem(
            kind="not_prefix_preserving", severity="info" if is_data_dependent else "warning",
            message=f"earlier {changed[0]} are rendered differently once later turns follow, so multi-turn rows train on "
            "text that inference never sees",
        )  # fmt: skip


def _thought_over() -> Conversation:
    thinking = SAMPLE[1].model_copy(update={"reasoning_content": REASONING})
    return Conversation(id="", messages=(SAMPLE[0], thinking, *SAMPLE[2:]))


def is_prefix_preserving(tokenizer: "PreTrainedTokenizerBase", tokens: TokenPlan, row: Conversation) -> bool:
    """Whether a conversation up to its first answer is rendered alike, alone and with the turns that follow."""
    assert tokens.grammar is not None, "there is a template"
    first = next(i for i, turn in enumerate(row.messages) if turn.role == "assistant") + 1
    render = renderer(tokenizer, tokens.training_template)
    short = render([turn.as_turn() for turn in row.messages[:first]], **row.inputs.options())
    whole = render([turn.as_turn() for turn in row.messages], **row.inputs.options())
    answer = row.messages[first - 1].content.strip()
    # What ends a conversation may differ from what ends a turn.
    upto = short[: short.rindex(answer) + len(answer)] if answer and answer in short else short.rstrip()
    return whole.startswith(upto)


def _token_problems(tokens: TokenPlan) -> Iterator[TemplateProblem]:
    assert tokens.grammar is not None, "there is a template"
    if tokens.grammar.closing and tokens.mask == "derived":
        yield TemplateProblem(
            kind="final_turn_left_open", severity="info",
            message=f"it doesn't end the last turn; the harness adds {tokens.grammar.closing} in training",
        )  # fmt: skip
    for note in tokens.notes:
        if note.startswith("the pad token"):
            yield TemplateProblem(kind="pad_is_end_of_turn", severity="info", message=note)
