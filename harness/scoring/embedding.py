"""How near an answer is to its reference in meaning, by sentence embeddings."""

import importlib
import importlib.util
from functools import lru_cache
from typing import Any

from harness.errors import EvalError
from harness.scoring.thinking import without_thinking

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
MAX_CHARS = 20_000
"""Of each text; the models read a few hundred words at most."""


def check_embeddings() -> None:
    """Raises: EvalError: sentence-transformers is not installed."""
    if importlib.util.find_spec("sentence_transformers") is None:
        raise EvalError("embedding_similarity needs sentence-transformers; pip install 'sft-harness[embeddings]'")


def embedding_similarity(answer: str, reference: str, model: str = DEFAULT_MODEL) -> float:
    """Cosine of the two texts' embeddings, in [-1, 1]; thinking is left out.

    Args:
        answer: the generation.
        reference: what it should mean.
        model: name or folder of a sentence-transformers model.

    Raises: EvalError: the library is not installed, or the model can't be loaded.
    """
    check_embeddings()
    texts = [without_thinking(text)[:MAX_CHARS].encode(errors="replace").decode() for text in (answer, reference)]
    first, second = _model(model).encode(texts, normalize_embeddings=True, show_progress_bar=False)
    return min(max(float(first @ second), -1.0), 1.0)


@lru_cache(maxsize=1)
def _model(name: str) -> Any:
    library = importlib.import_module("sentence_transformers")
    try:
        return library.SentenceTransformer(name, device="cpu")
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise EvalError(f"the embedding model {name!r} can't be loaded: {reason}") from error
