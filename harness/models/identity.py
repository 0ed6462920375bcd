"""What makes a model's answers its own: the key under which they are kept."""

import importlib.metadata
from pathlib import Path

from harness.config import RunConfig
from harness.models.load import LoadedTokenizer, model_fingerprint, weight_dtype
from harness.resources import digest, file_digest

ENGINE = ("torch", "transformers", "peft")
DECODING = 2
"""Version of how generation is called: raise it when answers could change."""


def answers_key(config: RunConfig, tokenizer: LoadedTokenizer, checkpoint: Path | None) -> str:
    """Digest of the base, the sha256 of the checkpoint's weights, the template, the precision and the engine's versions.

    Args:
        config: of the cell.
        tokenizer: with the cell's template.
        checkpoint: folder of the trained weights; None for an untouched base.
    """
    weights = sorted(checkpoint.glob("*.safetensors")) if checkpoint else []
    return digest(
        [
            model_fingerprint(config.model),
            config.model.model_dump(mode="json"),
            config.quantization,
            str(weight_dtype(config)),
            DECODING,
            [[path.name, file_digest(path)] for path in weights],
            tokenizer.tokenizer.chat_template,
            list(tokenizer.tokens.stop_ids),
            [importlib.metadata.version(name) for name in ENGINE],
        ]
    )
