"""What a cell would train and how much memory that takes, worked out without loading a weight."""

import importlib.util
import json
import warnings
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from harness.config import RunConfig
from harness.errors import ModelError
from harness.models.load import load_config
from harness.records import Record

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

GIB = 2**30
# Bytes of optimizer state per trained parameter; AdamW keeps two float32 moments.
OPTIMIZER_BYTES = {
    "adafactor": 0.1,
    "sgd": 0,
    "adamw_bnb_8bit": 2,
    "adamw_8bit": 2,
    "paged_adamw_8bit": 2,
    "lion_32bit": 4,
}
# NF4: half a byte, and a scale for every 64 weights (in float32, or quantized itself).
NF4_BYTES, NF4_DOUBLE_QUANT_BYTES = 0.5 + 4 / 64, 0.5 + 1 / 64 + 4 / (64 * 256)


class Footprint(Record):
    """Parameters, and memory in GiB on one device: an estimate from shapes, without the libraries' own overhead."""

    num_parameters: int
    num_trainable_parameters: int
    weights_gib: float
    gradients_gib: float
    optimizer_gib: float
    activations_gib: float
    """Of one micro-batch of `max_length` tokens a row, logits included."""

    saved_gib: float
    """Weights of one checkpoint: all of them, or the adapter's alone; the optimizer's state lies beside them."""

    @property
    def total_gib(self) -> float:
        """All of it."""
        return self.weights_gib + self.gradients_gib + self.optimizer_gib + self.activations_gib


def footprint(config: RunConfig) -> Footprint:
    """Builds the model on PyTorch's meta device with its adapter and adds up its shapes.

    Raises: ModelError: PEFT refuses the adapter (its targets match nothing, say), or nothing would be trained.
    """
    key = config.model_dump_json(include={"model", "adapter", "quantization"})
    linear, rest, trainable, shape = _counted(key)
    if not trainable:
        raise ModelError(
            "nothing would be trained: the adapter has no trainable parameter; check adapter.target_modules"
        )
    is_adapter = config.adapter is not None
    bytes_per_weight = {"float32": 4, "bfloat16": 2, "float16": 2}.get(config.model.dtype, 2 if is_adapter else 4)
    weights = (linear + rest) * float(bytes_per_weight)
    if config.quantization and config.quantization.get("load_in_4bit"):
        is_double = config.quantization.get("bnb_4bit_use_double_quant", False)
        weights = linear * (NF4_DOUBLE_QUANT_BYTES if is_double else NF4_BYTES) + rest * 2.0
    elif config.quantization:
        weights = linear * 1.0 + rest * 2.0
    if is_adapter:
        weights += trainable * 4
    optimizer = OPTIMIZER_BYTES.get(str(config.training.get("optim", "adamw_torch")), 8)
    return Footprint(
        num_parameters=linear + rest,
        num_trainable_parameters=trainable,
        weights_gib=weights / GIB,
        gradients_gib=trainable * 4 / GIB,
        optimizer_gib=trainable * optimizer / GIB,
        activations_gib=_activation_bytes(config, shape) / GIB,
        saved_gib=(trainable * 4 if is_adapter else weights) / GIB,
    )


class _Shape(Record):
    layers: int
    hidden: int
    vocabulary: int
    context: int


def _activation_bytes(config: RunConfig, shape: _Shape) -> float:
    """About 34 bytes a token, layer and hidden unit (Korthikanti et al. 2022, without the attention matrix), two with checkpointing."""
    tokens = int(config.training.get("per_device_train_batch_size") or 8) * min(
        config.max_length or shape.context, shape.context
    )
    per_layer = tokens * shape.hidden * 34
    kept = tokens * shape.hidden * 2 * shape.layers
    layers = kept + per_layer if config.training.get("gradient_checkpointing", True) else per_layer * shape.layers
    # Logits in the compute dtype, in float32 for the loss, and their gradient.
    return layers + tokens * shape.vocabulary * 10


@lru_cache(maxsize=32)
def _counted(key: str) -> tuple[int, int, int, _Shape]:
    """Weights of linear layers, other weights, trainable parameters and the model's shape."""
    import torch
    from transformers import AutoModelForCausalLM

    config = RunConfig.model_validate({**json.loads(key), "data": {"train": "none"}})
    found = load_config(config.model)
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = AutoModelForCausalLM.from_config(found, trust_remote_code=config.model.trust_remote_code)
        except (ValueError, NotImplementedError) as error:
            reason = str(error).splitlines()[0]
            raise ModelError(
                f"model {config.model.name!r} can't be trained as a causal language model: {reason}"
            ) from error
    head = model.get_output_embeddings()
    linear = sum(
        parameter.numel()
        for module in model.modules()
        if isinstance(module, torch.nn.Linear) and module is not head
        for parameter in module.parameters(recurse=False)
    )
    total = sum(parameter.numel() for parameter in model.parameters())
    trainable = _adapted(model, config.adapter) if config.adapter is not None else total
    return linear, total - linear, trainable, _shape(found)


def _shape(config: "PretrainedConfig") -> _Shape:
    text = config.get_text_config()
    return _Shape(
        layers=int(getattr(text, "num_hidden_layers", 1)),
        hidden=int(getattr(text, "hidden_size", 1)),
        vocabulary=int(text.vocab_size),
        context=int(getattr(text, "max_position_embeddings", None) or 1 << 20),
    )


def _adapted(model: "torch.nn.Module", adapter: dict[str, Any]) -> int:
    """Trainable parameters after PEFT has put its adapter in."""
    from peft import LoraConfig, get_peft_model

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **adapter), low_cpu_mem_usage=True)
    except (TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"PEFT refuses the adapter: {reason}") from error
    return sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)


def has_bitsandbytes() -> bool:
    """Whether QLoRA's library is installed."""
    return importlib.util.find_spec("bitsandbytes") is not None
