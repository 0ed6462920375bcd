"""What must be the same in two trainings that are compared, as it was in force."""

from typing import TYPE_CHECKING

import torch
from trl import SFTConfig

from harness.config import RunConfig
from harness.records import SplitSummary

if TYPE_CHECKING:
    from transformers import PreTrainedModel

VERSIONS = ("torch", "transformers", "trl", "peft", "accelerate")


def comparable_facts(
    config: RunConfig, model: "PreTrainedModel", arguments: SFTConfig, train: SplitSummary, environment: dict[str, str]
) -> dict[str, str]:
    """Name -> value, for `harness.comparability`; tokens seen are added by the caller, who has the curve."""
    batch = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    losses = {reason: count for reason, count in train.dropped.items() if reason not in ("limit", "filter", "mix")}
    packing = (
        f"{arguments.packing_strategy}" if arguments.packing else "padding-free" if arguments.padding_free else "none"
    )
    return {
        "rows used": str(train.rows_used),
        "rows dropped": ", ".join(f"{count} {reason}" for reason, count in sorted(losses.items())) or "none",
        "supervised tokens": str(train.supervised_tokens),
        "effective batch": str(batch),
        "attention": str(getattr(model.config, "_attn_implementation", "unknown")),
        "packing": packing,
        "base dtype": _base_dtype(config, model),
        "adapter dtype": _adapter_dtype(config, model),
        "device": model.device.type,
        "gpu": environment.get("gpu", "none"),
        **{name: environment[name] for name in VERSIONS if name in environment},
    }


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _base_dtype(config: RunConfig, model: "PreTrainedModel") -> str:
    """Of most weights that come from the base; quantized ones are named by their kind."""
    if config.quantization is not None:
        return "4-bit" if config.quantization.get("load_in_4bit") else "8-bit"
    sizes: dict[torch.dtype, int] = {}
    for name, parameter in model.named_parameters():
        if "lora_" not in name:
            sizes[parameter.dtype] = sizes.get(parameter.dtype, 0) + parameter.numel()
    return _short(max(sizes, key=lambda dtype: sizes[dtype]))


def _adapter_dtype(config: RunConfig, model: "PreTrainedModel") -> str:
    if config.adapter is None:
        return "none"
    trained = {_short(parameter.dtype) for parameter in model.parameters() if parameter.requires_grad}
    return ", ".join(sorted(trained))
