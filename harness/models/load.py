"""Loads a base model or a trained checkpoint with its tokenizer, template and special tokens in agreement."""

import hashlib
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.config import ModelConfig, RunConfig
from harness.data.tokenize import TokenPlan
from harness.errors import ModelError
from harness.models.templates import apply_template
from harness.models.trusted import check_kernel, check_no_pickle, check_weights
from harness.resources import EMBEDDED_PREFIX, embedded, is_there

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

SAMPLE_BYTES, NUM_SAMPLES = 1 << 16, 256
FINGERPRINTED = ("*.json", "*.jinja", "*.txt", "*.model", "*.py", "*.safetensors")


class LoadedTokenizer(NamedTuple):
    """A tokenizer with its template and special tokens in agreement."""

    tokenizer: "PreTrainedTokenizerBase"
    tokens: TokenPlan


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is ready to train or to generate."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    tokens: TokenPlan

    @property
    def stop_ids(self) -> list[int]:
        """The tokens that end a turn first, then the base's own end of text."""
        end_of_text = self.model.generation_config.eos_token_id if self.model.generation_config else None
        others = end_of_text if isinstance(end_of_text, list) else [end_of_text]
        return list(dict.fromkeys([*self.tokens.stop_ids, *(i for i in others if i is not None)]))

    @property
    def context(self) -> int:
        """Longest sequence that the model takes."""
        return int(getattr(self.model.config, "max_position_embeddings", 1 << 20))


def model_source(config: ModelConfig) -> str:
    """What `from_pretrained` is given.

    Raises: ModelError: it is a folder without a model.
    """
    if config.name.startswith(EMBEDDED_PREFIX):
        if config.name != f"{EMBEDDED_PREFIX}base":
            raise ModelError(f"model.name {config.name!r}: the only embedded model is embedded:base")
        return str(embedded("base"))
    looks_local = config.name.startswith(("/", "./", "../", "~")) or is_there(Path(config.name))
    if looks_local:
        check_no_pickle(Path(config.name).expanduser(), f"model.name {config.name!r}")
    if looks_local and not (Path(config.name).expanduser() / "config.json").is_file():
        raise ModelError(f"model.name {config.name!r}: there is no model (config.json) in that folder; check the path")
    return str(Path(config.name).expanduser()) if looks_local else config.name


def model_fingerprint(config: ModelConfig) -> str:
    """Digest of a local model: its small files whole, its weights sampled; the Hub id and revision of any other.

    Samples all over the weights and their sizes tell two models apart without reading gigabytes.
    """
    folder = Path(model_source(config))
    if not folder.is_dir():
        return f"{config.name}@{config.revision}"
    digest = hashlib.sha256()
    for path in sorted(path for pattern in FINGERPRINTED for path in folder.glob(pattern)):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}".encode())
        with path.open("rb") as file:
            for start in range(0, size, max(SAMPLE_BYTES, size // NUM_SAMPLES)):
                file.seek(start)
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def load_tokenizer(config: RunConfig, *, plain_rows: bool) -> LoadedTokenizer:
    """The base's tokenizer with the cell's template applied.

    Raises: ModelError: it can't be reached, or the model's weights are pickled. TemplateError: see `apply_template`.
    """
    from transformers import AutoTokenizer

    options = _hub_options(config.model)
    # What preflight loads of every model, references too: a pickle is named before any weights are fetched.
    check_weights(model_source(config.model), config.model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(model_source(config.model), **options)
    except (OSError, ValueError) as error:
        raise ModelError(_unreachable(config.model, error)) from error
    return LoadedTokenizer(tokenizer, apply_template(tokenizer, config.template, plain_rows=plain_rows))


def tokenizer_at(name: str, config: ModelConfig | None = None) -> "PreTrainedTokenizerBase":
    """The tokenizer of a model or of a folder that holds nothing else, as it comes.

    Raises: ModelError: there is none.
    """
    from transformers import AutoTokenizer

    folder = Path(name).expanduser()
    source = str(folder) if folder.is_dir() else model_source(ModelConfig(name=name))
    try:
        # Said, for transformers would ask the user otherwise.
        options = _hub_options(config) if config else {"trust_remote_code": False}
        return AutoTokenizer.from_pretrained(source, **options)
    except (OSError, ValueError) as error:
        raise ModelError(_unreachable(ModelConfig(name=name), error)) from error


def _hub_options(config: ModelConfig) -> dict[str, Any]:
    return {"revision": config.revision or "main", "trust_remote_code": config.trust_remote_code}


def _unreachable(config: ModelConfig, error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return (
            f"model {config.name!r} brings Python of its own, which runs only with trust_remote_code: true of that model; set it "
            "if you trust where the model comes from"
        )
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"model {config.name!r} can't be loaded: {reason.rstrip('.')}; check its name, your connection and `hf auth login`, "
        "or give the path of a local folder"
    )


def load_config(config: ModelConfig) -> "PretrainedConfig":
    """The model's own config.

    Raises: ModelError: it can't be reached, or names code that isn't trusted.
    """
    from transformers import AutoConfig

    try:
        found = AutoConfig.from_pretrained(model_source(config), **_hub_options(config))
    except (OSError, ValueError) as error:
        raise ModelError(_unreachable(config, error)) from error
    check_kernel(config, found)
    return found


def choose_device() -> "torch.device":
    """This process's own GPU (the first where it is the only process), else the CPU."""
    import torch

    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def weight_dtype(config: RunConfig) -> "torch.dtype":
    """float32 on CPU and for full fine-tunes (mixed precision keeps float32 weights); bfloat16 under an adapter on GPU."""
    import torch

    if config.model.dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[config.model.dtype]
    on_gpu = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if on_gpu and config.adapter is not None else torch.float32


def load_base(config: RunConfig, *, plain_rows: bool) -> LoadedModel:
    """The untouched base with the cell's template; embeddings grow where the template needs new tokens.

    New rows are drawn around the mean of the old ones (transformers' mean resizing).
    Raises: ModelError: the model can't be loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM

    load_config(config.model)
    tokenizer, tokens = load_tokenizer(config, plain_rows=plain_rows)
    options: dict[str, Any] = {**_hub_options(config.model), "dtype": weight_dtype(config), "use_safetensors": True}
    if config.model.attn_implementation:
        options["attn_implementation"] = config.model.attn_implementation
    if config.quantization is not None:
        options["quantization_config"] = _quantization(config.quantization)
    try:
        model = AutoModelForCausalLM.from_pretrained(model_source(config.model), **options)
    except (OSError, ValueError) as error:
        raise ModelError(_unreachable(config.model, error)) from error
    # New rows are drawn at random: the same ones in training and when an adapter is loaded again.
    torch.manual_seed(0)
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=True)
    loaded = LoadedModel(model, tokenizer, tokens)
    model.config.pad_token_id = tokenizer.pad_token_id
    if model.generation_config is not None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id
        # Saved with every checkpoint, so that it stops by itself wherever it is loaded.
        model.generation_config.eos_token_id = loaded.stop_ids
    if config.quantization is None:
        model.to(choose_device())
    return loaded


def _quantization(settings: dict[str, Any]) -> object:
    try:
        importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise ModelError(
            "quantization needs bitsandbytes; install it with `pip install 'sft-harness[qlora]'`"
        ) from error
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(**settings)


def load_checkpoint(config: RunConfig, folder: Path, *, plain_rows: bool) -> LoadedModel:
    """A trained checkpoint: the saved full model, or the base with the saved adapter.

    Raises: ModelError: the folder holds neither.
    """
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    if config.adapter is not None:
        check_no_pickle(folder, str(folder))
        base = load_base(config, plain_rows=plain_rows)
        adapted = PeftModel.from_pretrained(base.model, str(folder))
        return LoadedModel(adapted, base.tokenizer, base.tokens)
    check_no_pickle(folder, str(folder))
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} holds no checkpoint; delete the cell's folder and run again")
    tokenizer, tokens = load_tokenizer(config, plain_rows=plain_rows)
    options: dict[str, Any] = {"dtype": weight_dtype(config), "trust_remote_code": config.model.trust_remote_code}
    if config.model.attn_implementation:
        options["attn_implementation"] = config.model.attn_implementation
    model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, **options)
    model.to(choose_device())
    return LoadedModel(model, tokenizer, tokens)


def merged_checkpoint(config: RunConfig, folder: Path, *, plain_rows: bool) -> LoadedModel:
    """The base with a trained adapter merged into its weights, which are loaded unquantized for it.

    Raises: ModelError: the folder holds no adapter.
    """
    whole = config.model_copy(update={"quantization": None})
    adapted = load_checkpoint(whole, folder, plain_rows=plain_rows)
    return LoadedModel(adapted.model.merge_and_unload(), adapted.tokenizer, adapted.tokens)
