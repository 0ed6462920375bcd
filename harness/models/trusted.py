"""What of a model is trusted: weights in safetensors, and code only where the experiment file says so."""

import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from harness.config import ModelConfig
from harness.errors import ModelError
from harness.resources import is_there

if TYPE_CHECKING:
    from transformers import PretrainedConfig

PICKLE = re.compile(r".+\.(?:bin|pt|pth|ckpt|pkl|pickle)")
ADAPTER = re.compile(r"adapter_model\b")
# What a trainer leaves beside weights, and nobody loads with them.
BESIDE_WEIGHTS = re.compile(r"training_args\.bin|optimizer\.(?:pt|bin)|scheduler\.pt|scaler\.pt|rng_state\S*\.pth")

HUB_SECONDS = 10.0
"""For the list of a model's files."""


def check_no_pickle(folder: Path, what: str) -> None:
    """Raises: ModelError: the weights of a folder are pickled alone, and unpickling runs whatever a file says."""
    _check_names(_files_of(folder), what)


def check_weights(source: str, config: ModelConfig) -> None:
    """Makes sure that a model's weights may be loaded, before any of them is fetched.

    Args:
        source: what `from_pretrained` is given; the files of a Hub id are looked up on the Hub or in its cache.
        config: of that model.

    Raises: ModelError: its weights are pickled alone.
    """
    folder = Path(source)
    names = _files_of(folder) if is_there(folder) else _hub_files(source, config.revision)
    _check_names(names, f"model.name {config.name!r}")


def check_kernel(config: ModelConfig, own: "PretrainedConfig") -> None:
    """Raises: ModelError: the model's attention is code from the Hub, and the experiment file doesn't trust the model's."""
    named = config.attn_implementation or str(getattr(own, "_attn_implementation", None) or "")
    # transformers takes `owner/name` for a repository of kernels, whose binaries it would fetch and run.
    if "/" in named and not config.trust_remote_code:
        raise ModelError(
            f"model {config.name!r}: the attention {named!r} is code from the Hub, which runs only with model.trust_remote_code: "
            "true; set model.attn_implementation: sdpa to do without it"
        )


def _check_names(names: tuple[str, ...], what: str) -> None:
    # An adapter is loaded whatever lies beside it: safetensors of the base don't leave its pickle unread.
    adapters = [name for name in names if ADAPTER.match(name)]
    for together in (adapters, [name for name in names if name not in adapters]):
        pickled = [name for name in together if PICKLE.fullmatch(name) and not BESIDE_WEIGHTS.fullmatch(name)]
        if pickled and not any(name.endswith(".safetensors") for name in together):
            named = next((name for name in pickled if name.startswith("pytorch_model")), pickled[0])
            raise ModelError(
                f"{what}: {named} is a pickle, which runs code when it is read; only safetensors are loaded: have its source "
                "save it again with `save_pretrained`"
            )


def _files_of(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(path.name for path in folder.iterdir())) if folder.is_dir() else ()


@lru_cache(maxsize=64)
def _hub_files(name: str, revision: str | None) -> tuple[str, ...]:
    """Names of a Hub model's files; none where neither the Hub nor its cache knows it, which loading tells better."""
    from huggingface_hub import HfApi, is_offline_mode, try_to_load_from_cache

    # The HTTP library under huggingface_hub, whichever that is in its version.
    from transformers.utils.hub import httpx

    try:
        if is_offline_mode():
            kept = try_to_load_from_cache(name, "config.json", revision=revision)
            return _files_of(Path(kept).parent) if isinstance(kept, str) else ()
        # Asked once, where a list of files would be asked for again and again on a broken connection.
        listed = HfApi().model_info(name, revision=revision, timeout=HUB_SECONDS).siblings or []
        return tuple(sorted(file.rfilename for file in listed if "/" not in file.rfilename))
    except (OSError, ValueError, httpx.HTTPError):
        return ()
