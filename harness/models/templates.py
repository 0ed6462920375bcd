"""Chat templates: which one a cell uses, the tokens that it needs, and where its loss mask comes from."""

import dataclasses
import importlib.util
import logging
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from harness.config import TemplateConfig
from harness.data.formats import Conversation
from harness.data.grammar import learn_grammar
from harness.data.masks import CONTROL_TOKEN, Grammar
from harness.data.template_source import check_source, excess
from harness.data.tokenize import IGNORED, MaskSource, TokenPlan, renderer, tokenize
from harness.errors import TemplateError
from harness.models.template_samples import SAMPLE
from harness.records import Message
from harness.resources import is_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

BUILT_IN = ("chatml", "chatml_thinking", "chatml_tools", "llama3")
MARKERS = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
COMMENT = re.compile(r"\{#.*?#\}", re.DOTALL)
# Some templates take it for granted that tools are a list; transformers gives None where there are none.
NO_TOOLS = "{%- set tools = tools or [] -%}"
# An end such as `[e~[` or `<seed:eos>`: text that nobody writes, which is made a token where the tokenizer lacks it.
LIKE_A_TOKEN = re.compile(r"[<\[]\S{1,60}[>\]\[]")
PAD_CANDIDATES = ("<|pad|>", "<pad>", "[PAD]", "<|padding|>", "<|finetune_right_pad_id|>", "<|endoftext|>")


def template_file(name: str) -> Path | None:
    """The file of a built-in template or of a `.jinja` path; None where there is none."""
    path = Path(__file__).parent.parent / "templates" / f"{name}.jinja" if name in BUILT_IN else Path(name)
    return path if is_file(path) and path.suffix in (".jinja", ".j2") else None


def template_text(config: TemplateConfig) -> str | None:
    """The Jinja source that a config names; None where it is the model's own or none.

    Raises: TemplateError: there is no such template.
    """
    if config.name in ("auto", "model", "none"):
        return None
    path = template_file(config.name)
    if path is None:
        raise TemplateError(
            f"template.name {config.name!r} is not auto, model, none, {', '.join(BUILT_IN)} or a .jinja file that exists"
        )
    return path.read_text(encoding="utf-8").rstrip("\n")


def template_key(config: TemplateConfig) -> str:
    """What tells two templates apart: the source where the config names one, else the word for the model's own or none."""
    return template_text(config) or config.name


def apply_template(tokenizer: "PreTrainedTokenizerBase", config: TemplateConfig, *, plain_rows: bool) -> TokenPlan:
    """Sets the template and every special token on the tokenizer.

    Args:
        tokenizer: changed in place.
        config: which template.
        plain_rows: the data are prompt/completion text, so that no template is a good answer.

    Raises: TemplateError: conversations are to be trained, but there is no template, or it can't be rendered.
    """
    text = template_text(config)
    if text is not None:
        if wrong := check_source(text):
            raise TemplateError(f"template {config.name} can't be rendered: {wrong.message} ({wrong.kind})")
        tokenizer.chat_template = text
    if config.name == "model" and not tokenizer.chat_template:
        raise TemplateError("template.name is model, but the model has no chat template; set template.name to chatml")
    if config.name == "none" or (config.name == "auto" and plain_rows):
        tokenizer.chat_template = None
    if tokenizer.chat_template is None and not plain_rows:
        raise TemplateError(
            "the data are conversations, but there is no chat template; set template.name to chatml or to a .jinja file"
        )
    return plan_tokens(tokenizer)


def check_cost(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raises: TemplateError: a template takes more time, memory or text for a short conversation than any honest one."""
    given = tokenizer.chat_template
    special = {name: value for name, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
    for text in given.values() if isinstance(given, dict) else (given,):
        if text is not None and (lot := _excess(str(text), tuple(sorted(special.items())))):
            raise TemplateError(
                f"the chat template takes {lot} to render a short conversation; take out its loops over anything but messages and tools"
            )


@lru_cache(maxsize=256)
def _excess(text: str, special_tokens: tuple[tuple[str, str], ...]) -> str:
    if text in _built_in_texts():
        return ""
    turns = [turn.as_turn() for turn in SAMPLE]
    variables = {"tools": None, "documents": None, **dict(special_tokens)}
    return excess(text, [turns, turns[:1]], variables)


@lru_cache(maxsize=1)
def _built_in_texts() -> frozenset[str]:
    return frozenset(text for name in BUILT_IN if (text := template_text(TemplateConfig(name=name))) is not None)


def plan_tokens(tokenizer: "PreTrainedTokenizerBase") -> TokenPlan:
    """Adds the tokens that the tokenizer's template needs, and finds out how its answers are told apart.

    Raises: TemplateError: the template can't be rendered, or nothing ends an assistant's turn.
    """
    if tokenizer.chat_template is None:
        if tokenizer.eos_token_id is None:
            raise TemplateError("the tokenizer has no eos token, so a completion can't be ended; choose a template")
        end = int(tokenizer.eos_token_id)
        num_added, notes = _choose_pad(tokenizer, (end,))
        return TokenPlan((end,), _control_tokens(tokenizer, ()), num_added, notes=notes)
    check_cost(tokenizer)
    mended = give_tools(tokenizer)
    grammar = learn_grammar(renderer(tokenizer))
    if not grammar.stops:
        raise TemplateError(
            "nothing ends an assistant's turn in the chat template, so the model can't learn to stop; "
            "write the end token after the answer"
        )
    needed = _rendered_tokens(tokenizer, grammar)
    vocabulary = tokenizer.get_vocab()
    # A piece of the vocabulary may be spelled like the token, and never come out of tokenizing its text.
    missing = [
        token
        for token in needed
        if token not in vocabulary or tokenizer(token, add_special_tokens=False)["input_ids"] != [vocabulary[token]]
    ]
    num_before = len(tokenizer)
    if missing:
        tokenizer.add_special_tokens({"additional_special_tokens": missing})
        logger.info("%d tokens added for the template: %s", len(missing), " ".join(missing))
    num_added = len(tokenizer) - num_before
    stop_ids = tuple(_single_id(tokenizer, stop) for stop in grammar.stops)
    added_pad, notes = _choose_pad(tokenizer, stop_ids)
    # What a user loads must stop where the harness stopped it.
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(stop_ids[0])
    plan = TokenPlan(
        stop_ids, _control_tokens(tokenizer, needed), num_added + added_pad, grammar=grammar,
        notes=(*mended, *notes),
    )  # fmt: skip
    return _with_mask_source(tokenizer, plan)


def sample_for(tokenizer: "PreTrainedTokenizerBase") -> Conversation:
    """A conversation of two exchanges, or of one where the template takes no more."""
    try:
        renderer(tokenizer)([turn.as_turn() for turn in SAMPLE])
    except TemplateError:
        return Conversation(id="sample", messages=SAMPLE[:2])
    return Conversation(id="sample", messages=SAMPLE)


def give_tools(tokenizer: "PreTrainedTokenizerBase") -> tuple[str, ...]:
    """Changes a template that renders only with a list of tools, so that it gets an empty one; says so."""
    text = default_template(tokenizer)
    if "tools" not in text or text.startswith(NO_TOOLS):
        return ()
    turns = [SAMPLE[0].as_turn()]
    try:
        renderer(tokenizer)(turns)
        return ()
    except TemplateError:
        mended = NO_TOOLS + text
    try:
        renderer(tokenizer, mended)(turns)
    except TemplateError:
        return ()
    given = tokenizer.chat_template
    if isinstance(given, dict):
        tokenizer.chat_template = {name: mended if one == text else one for name, one in given.items()}
    else:
        tokenizer.chat_template = mended
    return ("the template renders only with a list of tools; it is given an empty one where there are none",)


def _rendered_tokens(tokenizer: "PreTrainedTokenizerBase", grammar: Grammar) -> tuple[str, ...]:
    """Control tokens that a conversation is rendered with."""
    turns = [turn.as_turn() for turn in sample_for(tokenizer).messages]
    rendered = renderer(tokenizer)(turns) + renderer(tokenizer)(turns[:1], add_generation_prompt=True)
    stops = [stop for stop in grammar.stops if CONTROL_TOKEN.fullmatch(stop) or LIKE_A_TOKEN.fullmatch(stop)]
    return tuple(dict.fromkeys([*CONTROL_TOKEN.findall(rendered), *stops]))


def _control_tokens(tokenizer: "PreTrainedTokenizerBase", needed: Sequence[str]) -> tuple[str, ...]:
    special = {token for token in tokenizer.all_special_tokens if token} | set(needed)
    return tuple(sorted(special - {tokenizer.unk_token}))


def _single_id(tokenizer: "PreTrainedTokenizerBase", stop: str) -> int:
    ids = tokenizer(stop, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise TemplateError(
            f"{stop!r} ends an assistant's turn in the chat template, but is no single token, so generation can't stop at it; "
            "end turns with a special token"
        )
    return int(ids[0])


def _with_mask_source(tokenizer: "PreTrainedTokenizerBase", plan: TokenPlan) -> TokenPlan:
    """The plan with the first way to mask that works: markers, TRL's training template, the answers as they are rendered."""
    template = default_template(tokenizer)
    if MARKERS.search(COMMENT.sub("", template)):
        marked = dataclasses.replace(plan, mask="markers")
        try:
            tokenize(sample_for(tokenizer), tokenizer, marked, assistant_only=True, max_length=None)
        except TemplateError as error:
            # A tokenizer that doesn't tell where its tokens lie can't follow markers.
            logger.info("the template's markers can't be used: %s", error)
        else:
            return marked
    tried: list[tuple[MaskSource, str | None]] = [("derived", None)]
    if trained := trl_training_template(template):
        tried.insert(0, ("training_template", trained))
    reason = ""
    for source, training_template in tried:
        candidate = dataclasses.replace(plan, mask=source, training_template=training_template)
        verdict = verify_mask(tokenizer, candidate, sample_for(tokenizer))
        if verdict.is_right:
            return candidate
        reason = reason or verdict.reason
    return dataclasses.replace(plan, mask="refused", notes=(*plan.notes, reason))


def default_template(tokenizer: "PreTrainedTokenizerBase") -> str:
    """The tokenizer's template; of several named ones the default."""
    template = tokenizer.chat_template
    return str(template.get("default", next(iter(template.values()))) if isinstance(template, dict) else template)


@lru_cache(maxsize=1)
def _trl_pairs() -> dict[str, str]:
    """Original -> training template, for the ones that TRL ships (trl/chat_templates/*_training.jinja)."""
    spec = importlib.util.find_spec("trl")
    folder = (
        Path(spec.submodule_search_locations[0]) / "chat_templates"
        if spec and spec.submodule_search_locations
        else None
    )
    pairs = {}
    for path in folder.glob("*_training.jinja") if folder else ():
        original = path.with_name(path.name.replace("_training.jinja", ".jinja"))
        if original.is_file():
            pairs[original.read_text(encoding="utf-8")] = path.read_text(encoding="utf-8")
    return pairs


def trl_training_template(template: str) -> str | None:
    """TRL's variant with generation markers of a template that it knows, character for character."""
    return _trl_pairs().get(template)


class MaskVerdict(NamedTuple):
    """Whether the supervised tokens are the assistant's turns with their end tokens and nothing else."""

    is_right: bool
    reason: str = ""
    is_end_supervised: bool = True


def verify_mask(tokenizer: "PreTrainedTokenizerBase", tokens: TokenPlan, row: Conversation) -> MaskVerdict:
    """Decodes what the loss would look at and compares it with the turns."""
    assert tokens.grammar is not None, "plain rows have no template to verify"
    try:
        done = tokenize(row, tokenizer, tokens, assistant_only=True, max_length=None)
    except TemplateError as error:
        return MaskVerdict(False, str(error))
    runs = [tokenizer.decode(run) for run in supervised_runs(done.labels)]
    answers = [turn for turn in row.messages if turn.role == "assistant" and turn.is_supervised]
    if len(runs) != len(answers):
        return MaskVerdict(
            False, f"{len(runs)} stretches of tokens are supervised, but the assistant has {len(answers)} turns"
        )
    # SentencePiece decodes its own sign for a space, which DeepSeek writes in its tokens, as a space.
    ends = (*tokens.grammar.ends, *(end.replace("▁", " ") for end in tokens.grammar.ends))
    # A shorter text may be part of anything.
    others = [turn.content for turn in row.messages if turn.role != "assistant" and len(turn.content.strip()) > 5]
    for run, answer in zip(runs, answers, strict=True):
        if reason := _misses(run, answer, tokenizer.decode(done.input_ids)):
            return MaskVerdict(False, reason)
        if said := next((content for content in others if content in run), ""):
            return MaskVerdict(False, f"{said!r} is supervised, which the assistant doesn't say")
        if not run.rstrip().endswith(ends):
            return MaskVerdict(False, f"the end of the turn is not supervised: {run!r}", is_end_supervised=False)
    return MaskVerdict(True)


def _misses(run: str, answer: Message, rendered: str) -> str:
    """What of an answer isn't among its supervised tokens, or is there twice; "" where all is well."""
    said = answer.content.strip()
    if said and run.count(said) != 1:
        is_missing = said not in run
        return f"of the answer {said!r} only {run!r} is supervised" if is_missing else f"{said!r} is supervised twice"
    # Earlier reasoning is often left out of the rendering.
    if answer.reasoning_content in rendered and answer.reasoning_content not in run:
        return f"the reasoning {answer.reasoning_content!r} is not supervised"
    for call in answer.tool_calls:
        function = call["function"]
        for part in (function["name"], *(value for value in function["arguments"].values() if isinstance(value, str))):
            if part not in run:
                return f"{part!r} of a tool call is not supervised, only {run!r}"
    return ""


def supervised_runs(labels: Sequence[int]) -> list[list[int]]:
    """Runs of supervised tokens."""
    runs: list[list[int]] = []
    previous = IGNORED
    for label in labels:
        if label != IGNORED and previous == IGNORED:
            runs.append([])
        if label != IGNORED:
            runs[-1].append(label)
        previous = label
    return runs


def _choose_pad(tokenizer: "PreTrainedTokenizerBase", stop_ids: Sequence[int]) -> tuple[int, tuple[str, ...]]:
    """Pads with a token that never ends a turn: padding that equals it hides the end of turn from the loss.

    Returns: how many tokens were added, and what was mended.
    """
    given = tokenizer.pad_token
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id not in stop_ids:
        return 0, ()
    vocabulary = tokenizer.get_vocab()
    candidates = [*PAD_CANDIDATES, tokenizer.unk_token, tokenizer.eos_token]
    usable = [token for token in candidates if token in vocabulary and vocabulary[token] not in stop_ids]
    num_added = 0
    if usable:
        tokenizer.pad_token = usable[0]
    else:
        num_added = int(tokenizer.add_special_tokens({"pad_token": PAD_CANDIDATES[0]}))
    if given is None:
        return num_added, ()
    return num_added, (
        f"the pad token {given} is also the end of a turn, which padding would hide from the loss; padding with {tokenizer.pad_token} instead",
    )
