"""Which language a text is written in."""

import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

FENCED = re.compile(r"^[ \t]*(```+|~~~+).*?(?:^[ \t]*\1|\Z)", re.DOTALL | re.MULTILINE)
JSON_START = re.compile(r"\{\s*\"|\[\s*[\[{\"]")
MIN_LETTERS = 20
MIN_CONFIDENCE = 0.2
MAX_CHARS = 20_000
UNDETERMINED = "und"


def language(text: str) -> str:
    """ISO 639-1 code of the text's language, outside of code blocks.

    `und`: fewer than 20 letters (a Chinese or Japanese character counts as three), code, JSON, or no language is likely.
    """
    # The classifier encodes the text, which a lone surrogate doesn't survive.
    prose = FENCED.sub(" ", text[:MAX_CHARS]).encode(errors="replace").decode()
    if JSON_START.match(prose.lstrip()) or _num_letters(prose) < MIN_LETTERS:
        return UNDETERMINED
    code, _ = _identifier().classify(prose)
    return str(code) if len(code) == 2 else UNDETERMINED


def _num_letters(text: str) -> int:
    return sum(3 if letter >= "\u2e80" else 1 for letter in text if letter.isalpha())


@lru_cache(maxsize=1)
def _identifier() -> "LanguageIdentifier":
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True, min_confidence=MIN_CONFIDENCE)
    # Without the languages that have no two letters: most are creoles and dialects that short English is taken for.
    # zxx is the model's class for code, numbers and markup.
    identifier.set_languages([code for code in identifier.labels if len(code) == 2 or code == "zxx"])
    return identifier
