"""Does an answer follow the verifiable instructions of its prompt? IFEval's checks, by lm-evaluation-harness's own code.

Zhou et al. 2023, https://arxiv.org/abs/2311.07911.
"""

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from harness.errors import EvalError
from harness.records import Example
from harness.scoring.measurement import Measurement
from harness.scoring.thinking import without_thinking
from harness.scoring.verdict import Verdict

Mode = Literal["strict", "loose"]
MAX_CHARACTERS = 20_000
# Their regular expressions and tokenizers take minutes on 100 kB of hostile text.
SLOW = frozenset({
    "detectable_content:number_placeholders", "detectable_content:postscript", "detectable_format:number_bullet_lists",
    "detectable_format:title", "length_constraints:number_sentences", "change_case:capital_word_frequency",
})  # fmt: skip
INSTALL = "IFEval's checks need lm-evaluation-harness; install it with `pip install 'sft-harness[benchmarks]'`"
NO_SENTENCES = (
    "IFEval counts sentences with NLTK's punkt_tab, which isn't here and can't be downloaded; run `python -m nltk.downloader "
    "punkt_tab` where there is a network and copy the folder nltk_data into your home"
)


class _Followed(NamedTuple):
    """Whether one instruction is followed, or else why that can't be told."""

    name: str
    is_followed: bool
    unscored: str = ""


def ifeval_strict(measured: Measurement) -> Verdict | None:
    """1 where the answer follows every instruction of its prompt, else 0; the failure names the first that it doesn't."""
    return _judge(measured, "strict")


def ifeval_loose(measured: Measurement) -> Verdict | None:
    """As strict, forgiving a first or last line too many and asterisks: an upper bound."""
    return _judge(measured, "loose")


def _judge(measured: Measurement, mode: Mode) -> Verdict | None:
    example, text = measured.example, without_thinking(measured.generation.text)
    if not example.instructions:
        return None
    with _quietly():
        followed = [_followed(example, instruction, text, mode) for instruction in example.instructions]
    # One that is surely not followed decides, whatever can't be told of the others.
    if failure := next((found.name for found in followed if not (found.is_followed or found.unscored)), ""):
        return Verdict(0.0, failure)
    unscored = next((found.unscored for found in followed if found.unscored), "")
    return Verdict(None, unscored) if unscored else Verdict(1.0)


def _followed(example: Example, instruction: Mapping[str, Any], text: str, mode: Mode) -> _Followed:
    utils, known = _checks()
    name, options = str(instruction.get("id", "")), {key: value for key, value in instruction.items() if key != "id"}
    if problem := _problem(known, name, options, text):
        return _Followed(name, False, problem)
    follows = utils.test_instruction_following_strict if mode == "strict" else utils.test_instruction_following_loose
    asked = utils.InputExample(key=0, instruction_id_list=[name], prompt=_prompt(example), kwargs=[options])
    try:
        return _Followed(name, bool(follows(asked, text).follow_all_instructions))
    except LookupError as error:
        if type(error) is not LookupError:
            raise
        return _Followed(name, False, "nltk_data_missing")
    except RecursionError:
        return _Followed(name, False, "nested_too_deep")


def _problem(known: Mapping[str, Any], name: str, options: Mapping[str, Any], text: str) -> str:
    """Why an instruction can't be checked, or ""."""
    if name not in known:
        return "instruction_unknown"
    if len(text) > MAX_CHARACTERS and name in SLOW:
        return "too_long_to_check"
    instruction = known[name](name)
    try:
        instruction.build_description(**{key: value for key, value in options.items() if value})
    except (TypeError, ValueError, AttributeError):
        return "instruction_malformed"
    used = instruction.get_instruction_args() or {}
    is_drawn = any(_is_drawn(options.get(key), used[key]) for key in instruction.get_instruction_args_keys())
    return "instruction_undetermined" if is_drawn else ""


def _is_drawn(given: Any, used: Any) -> bool:
    """Whether lm-eval drew an option at random, as it does where one is missing or unfit (the letter `!`, say)."""
    if isinstance(given, str) and isinstance(used, str):
        return given.strip().lower() != used.strip().lower()
    return not given or (isinstance(given, int | float) and given != used)


def _prompt(example: Example) -> str:
    return example.text or next((turn.content for turn in reversed(example.messages) if turn.role == "user"), "")


def _checks() -> tuple[Any, Mapping[str, Any]]:
    """lm-eval's module of checks, and its instructions by name.

    Raises: EvalError: it isn't installed.
    """
    try:
        import langdetect
        from lm_eval.tasks.ifeval import utils
        from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT
    except ImportError as error:
        raise EvalError(f"{INSTALL} ({error})") from error
    # Without a seed, the same short answer is told to be of this language or of that.
    langdetect.DetectorFactory.seed = 0
    return utils, INSTRUCTION_DICT


def check_ifeval() -> None:
    """Makes sure that IFEval's checks can run here; downloads NLTK's punkt_tab where it is missing.

    Raises: EvalError: lm-evaluation-harness or punkt_tab is missing.
    """
    with _quietly():
        _checks()
        import nltk

        try:
            nltk.data.find("tokenizers/punkt_tab")
        except LookupError as error:
            if not nltk.download("punkt_tab", quiet=True):
                raise EvalError(NO_SENTENCES) from error


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keeps NLTK's and lm-eval's prints out of stdout, and the texts whose language is unknown out of the log."""
    noisy = logging.getLogger("lm_eval")
    level = noisy.level
    noisy.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        noisy.setLevel(level)
