"""What is wrong with a chat template, found by rendering sample conversations through it."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from jinja2.exceptions import SecurityError

from harness.data.formats import Conversation
from harness.data.grammar import TOOL_RESULT, learn_grammar
from harness.data.template_source import ProblemKind, TemplateProblem, check_source
from harness.data.tokenize import MaskSource, Tokenized, TokenPlan, prompt_ids, renderer, tokenize
from harness.errors import TemplateError
from harness.models.template_samples import (
    IN_TWO_STEPS,
    REASONING,
    REPEATED,
    SAMPLE,
    SYSTEM,
    SYSTEM_TURN,
    THINKING,
    THOUGHT_OVER,
    TWO_CALLS,
    WITH_TOOL,
)  # fmt: skip
from harness.models.templates import check_cost, give_tools, plan_tokens, sample_for, supervised_runs, verify_mask
from harness.records import Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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
    named = tokenizer.chat_template
    for text in named.values() if isinstance(named, dict) else (named,):
        if wrong := check_source(text):
            return report.model_copy(update={"problems": (wrong,)})
    try:
        check_cost(tokenizer)
    except TemplateError as error:
        return _failed(report, "unsafe", str(error))
    give_tools(tokenizer)
    try:
        taken = sample_for(tokenizer).messages
        sample = renderer(tokenizer)([turn.as_turn() for turn in taken])
    except TemplateError as error:
        kind: ProblemKind = "unsafe" if isinstance(error.__cause__, SecurityError) else "render_error"
        return _failed(report, kind, f"{error}{_hint(tokenizer, str(error))}")
    report = report.model_copy(update={"sample": sample})
    if lost := next((turn.content for turn in taken if turn.content not in sample), ""):
        message = f"it leaves out {lost!r}, or doesn't write it word for word{_hint(tokenizer)}"
        return _failed(report, "render_error", message)
    try:
        learn_grammar(renderer(tokenizer))
    except TemplateError as error:
        return _failed(report, "render_error", str(error))
    report = report.model_copy(update={"renders": True})
    try:
        tokens = plan_tokens(tokenizer)
    except TemplateError as error:
        return _failed(report, "end_of_turn_not_supervised", str(error))
    return _checked(tokenizer, tokens, report)


def _failed(report: TemplateReport, kind: ProblemKind, message: str) -> TemplateReport:
    problem = TemplateProblem(kind=kind, severity="error", message=message)
    return report.model_copy(update={"problems": (*report.problems, problem)})


def _hint(tokenizer: "PreTrainedTokenizerBase", message: str = "") -> str:
    """What the template misses: a token, a variable, or parts in place of text."""
    if missing := re.search(r"'(\w+)' is undefined", message):
        name = missing[1]
        is_token = name.endswith("_token")
        return f"; the tokenizer has no {name}" if is_token else f"; rows must give it as chat_template_kwargs.{name}"
    turns = [{"role": turn.role, "content": [{"type": "text", "text": turn.content}]} for turn in SAMPLE]
    try:
        text = renderer(tokenizer)(turns)
    except TemplateError:
        return ""
    takes_parts = all(turn.content in text for turn in SAMPLE)
    return "; it takes content only as a list of parts, as templates for images do" if takes_parts else ""


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
    done = _tokenized(tokenizer, tokens, sample_for(tokenizer))
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


def _tokenized(tokenizer: "PreTrainedTokenizerBase", tokens: TokenPlan, row: Conversation) -> Tokenized | None:
    """None where no mask can be had."""
    if tokens.mask == "refused":
        return None
    try:
        return tokenize(row, tokenizer, tokens, assistant_only=True, max_length=None)
    except TemplateError:
        return None


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
        REPEATED,
        Conversation(id="shown, then learned", messages=(SAMPLE[0], SAMPLE[1].model_copy(update={"is_supervised": False}), *SAMPLE[2:])),
    ]  # fmt: skip
    with_system = Conversation(id="system", messages=(SYSTEM_TURN, *SAMPLE))
    if SYSTEM in (_renders(tokenizer, with_system) or ""):
        samples.append(with_system)
    if not tools_dropped(tokenizer):
        samples.append(WITH_TOOL)
        if all(part in (_renders(tokenizer, IN_TWO_STEPS) or "") for part in ("Wombat length", "Emu height")):
            samples.append(IN_TWO_STEPS)
        if "Emu height" in (_renders(tokenizer, TWO_CALLS) or ""):
            samples.append(TWO_CALLS)
    if REASONING in (_renders(tokenizer, THINKING) or ""):
        samples += [THINKING, THOUGHT_OVER]
    # A template may take one exchange and no more.
    return [sample for sample in samples if _renders(tokenizer, sample) is not None]


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
        text = renderer(tokenizer)([turn.as_turn() for turn in (SYSTEM_TURN, *sample_for(tokenizer).messages)])
    except TemplateError as error:
        yield TemplateProblem(kind="system_message_refused", message=f"system messages are refused: {error.__cause__}")
        return
    if SYSTEM not in text:
        yield TemplateProblem(kind="system_message_dropped", message="system messages are dropped without a word")


def tools_dropped(tokenizer: "PreTrainedTokenizerBase") -> str:
    """What of a conversation with a tool gets lost, or "" where nothing does."""
    text = _renders(tokenizer, WITH_TOOL)
    if text is None:
        return "all of it, for tool calls are refused"
    parts = {"the tool's schema": "Looks a key up.", "the call": "Wombat length", "the tool's answer": TOOL_RESULT}
    return ", ".join(name for name, part in parts.items() if part not in text)


def _feature_problems(tokenizer: "PreTrainedTokenizerBase") -> Iterator[TemplateProblem]:
    """What simple templates can't do; matters where the data have it."""
    if lost := tools_dropped(tokenizer):
        yield TemplateProblem(
            kind="tools_dropped", severity="info", message=f"of a conversation with tools it loses: {lost}"
        )
    elif "Emu height" not in (_renders(tokenizer, TWO_CALLS) or "Emu height"):
        yield TemplateProblem(
            kind="tools_dropped", severity="info", message="of two calls in one turn it writes only the first"
        )
    if REASONING not in (_renders(tokenizer, THINKING) or ""):
        yield TemplateProblem(
            kind="thinking_dropped", severity="info", message="reasoning_content of the last answer is not rendered"
        )


def _prompt_problems(tokenizer: "PreTrainedTokenizerBase", tokens: TokenPlan) -> Iterator[TemplateProblem]:
    """Is what the model is asked with in inference what it saw before the answer in training?"""
    trained = _tokenized(tokenizer, tokens, Conversation(id="sample", messages=SAMPLE[:2]))
    if trained is None:
        return
    asked = prompt_ids(tokenizer, SAMPLE[:1])
    if trained.input_ids[: len(asked)] != asked:
        yield _mismatch(tokenizer, asked, trained.input_ids)
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


def _mismatch(tokenizer: "PreTrainedTokenizerBase", asked: list[int], trained: list[int]) -> TemplateProblem:
    shared = next((i for i, (a, b) in enumerate(zip(trained, asked, strict=False)) if a != b), len(trained))
    prompt, text = tokenizer.decode(asked), tokenizer.decode(trained)
    found = tokenizer.decode(trained[shared : shared + 8])
    if text.startswith(prompt):
        message = (
            f"the text of the prompt is the same, but the tokenizer joins its end with the answer's start: training has {found!r} "
            f"where inference asks with {tokenizer.decode(asked[shared:])!r}"
        )
    else:
        message = f"inference asks with {tokenizer.decode(asked[shared:])!r}, where training has {found!r}"
    return TemplateProblem(kind="generation_prompt_mismatch", message=message)


def _history_problems(tokenizer: "PreTrainedTokenizerBase", tokens: TokenPlan) -> Iterator[TemplateProblem]:
    """Does an answer stay as it is when the conversation goes on?"""
    changed = [
        name
        for name, row in (
            ("answers", Conversation(id="", messages=SAMPLE)),
            ("answers with reasoning", THOUGHT_OVER),
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


def is_prefix_preserving(tokenizer: "PreTrainedTokenizerBase", tokens: TokenPlan, row: Conversation) -> bool:
    """Whether a conversation up to its first answer is rendered alike, alone and with the turns that follow."""
    assert tokens.grammar is not None, "there is a template"
    first = next(i for i, turn in enumerate(row.messages) if turn.role == "assistant") + 1
    render = renderer(tokenizer, tokens.training_template)
    try:
        short = render([turn.as_turn() for turn in row.messages[:first]], **row.inputs.options())
        whole = render([turn.as_turn() for turn in row.messages], **row.inputs.options())
    except TemplateError:
        return True
    answer = row.messages[first - 1].content.strip()
    # What ends a conversation may differ from what ends a turn.
    upto = short[: short.rindex(answer) + len(answer)] if answer and answer in short else short.rstrip()
    return whole.startswith(upto)


def _token_problems(tokens: TokenPlan) -> Iterator[TemplateProblem]:
    assert tokens.grammar is not None, "there is a template"
    if tokens.grammar.closing and tokens.mask == "derived":
        yield TemplateProblem(
            kind="final_turn_left_open", severity="info",
            message=f"it doesn't end the last turn; the harness adds {tokens.grammar.closing.strip()} in training",
        )  # fmt: skip
    for note in tokens.notes:
        if note.startswith("the pad token"):
            yield TemplateProblem(kind="pad_is_end_of_turn", severity="info", message=note)
