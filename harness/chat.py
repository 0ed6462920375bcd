"""Talking to a trained cell: who is meant, and the conversation so far."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from harness.config import RunConfig
from harness.data.splits import load_splits
from harness.errors import ConfigError
from harness.export import load_trained
from harness.grid import CellSpec
from harness.model_card import is_hub_id
from harness.models.load import load_base
from harness.models.respondent import Sampling
from harness.records import Message, warning_names
from harness.resources import EMBEDDED_PREFIX
from harness.store import known_experiments, read_record
from harness.targets import FoundCell, find_cell

if TYPE_CHECKING:
    from harness.models.chatting import Answer, ChatModel, Prompt, Show

MODEL_FILES = ("config.json", "adapter_config.json")


class Partner(NamedTuple):
    """Who is talked to."""

    name: str
    model: "ChatModel"
    template: str
    """Its name; `none` where prompts are plain text."""
    warnings: str = ""
    """Warning signs of its training, by name."""


def open_partner(target: str) -> Partner:
    """The model of a cell, of an untouched base that was evaluated, of a folder that transformers loads, or of the Hub.

    Raises: HarnessError: there is none, or it can't be loaded.
    """
    folder = Path(target).expanduser()
    if folder.is_dir() and any((folder / name).is_file() for name in MODEL_FILES):
        return _as_it_comes(target, folder.resolve().name)
    if target.startswith(EMBEDDED_PREFIX):
        return _as_it_comes(target, target)
    try:
        found = find_cell(target)
    except ConfigError:
        # EXPERIMENT/CELL and a repository of the Hub look alike.
        if not is_hub_id(target) or target.partition("/")[0] in known_experiments():
            raise
        return _as_it_comes(target, target)
    return _cell(target, found)


def _as_it_comes(target: str, name: str) -> Partner:
    from harness.models.chatting import ChatModel, load_model

    model = ChatModel(load_model(target))
    return Partner(name, model, "of its own" if model.has_template else "none")


def _cell(target: str, found: FoundCell) -> Partner:
    from harness.models.chatting import ChatModel

    result = found.result
    if result.reference not in (None, "base", "model"):
        raise ConfigError(f"{target} is a reference of the kind {result.reference}, with no model here to talk to; name a cell or `base`")  # fmt: skip
    config = read_record(found.folder.spec, CellSpec).cell.config
    if result.reference is None:
        loaded = load_trained(found, config)
    else:
        loaded = load_base(config, plain_rows=_has_plain_rows(config))
    model = ChatModel(loaded)
    template = Path(config.template.name).name if model.has_template else "none"
    # What the checks say of a reference is about answers that nobody trained.
    warned = warning_names(found.findings) if result.reference is None else ""
    return Partner(result.name, model, template, warned)


def _has_plain_rows(config: RunConfig) -> bool:
    """Whether a base is asked without any template: only `auto` leaves that to the rows."""
    if config.template.name != "auto":
        return config.template.name == "none"
    return load_splits(config.data).is_plain


class Dialogue:
    """One conversation with one partner; what couldn't be asked leaves no trace in it."""

    def __init__(self, partner: Partner, sampling: Sampling, system: str = "") -> None:
        self.partner = partner
        self.last: Answer | None = None
        self._sampling = sampling
        self._system = system
        self._turns: list[Message] = []
        self._tries = 0

    @property
    def max_new_tokens(self) -> int:
        """Of one answer, as far as the context leaves room."""
        return self._sampling.max_new_tokens

    def ask(self, text: str, show: "Show") -> "Answer":
        """The answer to the next turn.

        Raises: TemplateError: the template refuses the conversation.
        """
        self._turns.append(Message(role="user", content=text))
        self._tries = 0
        return self._answer(show)

    def ask_again(self, show: "Show") -> "Answer | None":
        """Another answer to the last turn, which differs where answers are sampled; None where there was none."""
        if not self._turns:
            return None
        self._turns.pop()
        self._tries += 1
        return self._answer(show)

    def _answer(self, show: "Show") -> "Answer":
        try:
            answer = self.partner.model.answer(self._turns_with_system(), self._seeded(), show)
        except BaseException:
            self._turns.pop()
            raise
        if answer.ended == "prompt_too_long":
            self._turns.pop()
        else:
            self.last = answer
            self._turns.append(Message(role="assistant", content=answer.text))
        return answer

    def _seeded(self) -> Sampling:
        return self._sampling._replace(seed=self._sampling.seed + self._tries)

    def _turns_with_system(self) -> Sequence[Message]:
        return [*([Message(role="system", content=self._system)] if self._system else []), *self._turns]

    def prompt(self) -> "Prompt | None":
        """What the last answer was given to; None before the first."""
        return self.last.prompt if self.last else None

    def reset(self, system: str | None = None) -> None:
        """Begins anew, with another system prompt where one is given."""
        self._turns, self.last = [], None
        if system is not None:
            self._system = system
