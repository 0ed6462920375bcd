"""What a cell would train and the memory that takes, against loaded models and values worked out by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from harness.config import RunConfig
from harness.errors import ModelError
from harness.models.footprint import GIB, footprint
from harness.models.load import load_base

# Llama 3.1 8B, from its config.json on the Hub.
LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
    "max_position_embeddings": 131072, "tie_word_embeddings": False,
}  # fmt: skip
# A layer: q and o 4096 x 4096, k and v 4096 x 1024, gate, up and down 4096 x 14336.
LINEAR = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
# Embedding and head, two norms a layer and the last one.
REST = 2 * 128256 * 4096 + (2 * 32 + 1) * 4096
# Rank 16 on q (4096 + 4096) and v (4096 + 1024).
LORA_QV = 32 * 16 * (8192 + 5120)
QLORA = {"adapter": {"r": 16, "target_modules": ["q_proj", "v_proj"]}}


def run_config(name: str = "embedded:base", **sections: Any) -> RunConfig:
    return RunConfig.model_validate(
        {"model": {"name": name}, "template": {"name": "chatml"}, "data": {"train": "embedded:train"}, **sections}
    )


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a config and no weights."""
    folder = tmp_path_factory.mktemp("llama")
    (folder / "config.json").write_text(json.dumps(LLAMA))
    return str(folder)


@pytest.mark.parametrize(
    "adapter",
    [
        None,
        {"r": 4, "target_modules": "all-linear"},
        {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
        {"r": 4, "target_modules": "all-linear", "use_dora": True},
        {"r": 4, "target_modules": ["q_proj"], "layers_to_transform": [0]},
        {"r": 4, "target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [1, 2]}},
        {"r": 4, "target_modules": "all-linear", "init_lora_weights": "pissa"},
    ],
    ids=["full", "lora", "modules_to_save", "dora", "one_layer", "tokens", "pissa"],
)
def test_parameters_are_those_of_the_loaded_model(adapter: dict[str, Any] | None) -> None:
    from peft import LoraConfig, get_peft_model

    config = run_config(adapter=adapter)
    model = load_base(config, plain_rows=False).model
    whole = sum(parameter.numel() for parameter in model.parameters())
    if adapter is not None:
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **adapter))
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    found = footprint(config)
    assert (found.num_parameters, found.num_trainable_parameters) == (whole, trained)


def test_targets_that_match_nothing_are_refused_in_one_sentence() -> None:
    with pytest.raises(ModelError, match=r"PEFT refuses the adapter: Target modules \{'query'\} not found") as caught:
        footprint(run_config(adapter={"r": 4, "target_modules": ["query"]}))
    assert "\n" not in str(caught.value)


def test_nf4_weights_of_a_known_shape(llama: str) -> None:
    plain = footprint(run_config(llama, **QLORA, quantization={"load_in_4bit": True}))
    assert plain.num_parameters == LINEAR + REST == 8_030_261_248
    assert plain.num_trainable_parameters == LORA_QV == 6_815_744
    # Half a byte and a float32 scale for 64 weights; embeddings, head and norms in bfloat16; the adapter in float32.
    assert plain.weights_gib * GIB == pytest.approx(LINEAR * (0.5 + 4 / 64) + REST * 2 + LORA_QV * 4)
    assert plain.weights_gib == pytest.approx(5.64, abs=0.01)
    assert (plain.gradients_gib + plain.optimizer_gib) * GIB == pytest.approx(LORA_QV * (4 + 8))
    double = footprint(
        run_config(llama, **QLORA, quantization={"load_in_4bit": True, "bnb_4bit_use_double_quant": True})
    )
    # QLoRA (Dettmers et al. 2023, section 3) saves 0.373 bits a parameter by it.
    assert (plain.weights_gib - double.weights_gib) * GIB * 8 / LINEAR == pytest.approx(0.373, abs=0.001)


def test_eight_bit_is_a_byte_a_linear_weight(llama: str) -> None:
    found = footprint(run_config(llama, **QLORA, quantization={"load_in_8bit": True}))
    assert found.weights_gib * GIB == pytest.approx(LINEAR + REST * 2 + LORA_QV * 4)


def test_a_full_fine_tune_takes_sixteen_bytes_a_parameter(llama: str) -> None:
    """Weights, gradient and two moments of AdamW, each in float32 (Rajbhandari et al. 2020, ZeRO, section 3.1)."""
    found = footprint(run_config(llama))
    states = found.weights_gib + found.gradients_gib + found.optimizer_gib
    assert states * GIB == pytest.approx(16 * (LINEAR + REST))


def test_optimizer_counts(llama: str) -> None:
    small = footprint(run_config(llama, training={"optim": "adamw_bnb_8bit"}))
    assert small.optimizer_gib * 4 == pytest.approx(footprint(run_config(llama)).optimizer_gib)


def test_activations_grow_with_the_batch_and_shrink_with_checkpointing(llama: str) -> None:
    def activations(**training: Any) -> float:
        return footprint(run_config(llama, training={"max_length": 512, **training})).activations_gib

    one, two = (activations(per_device_train_batch_size=size) for size in (1, 2))
    assert two == pytest.approx(2 * one)
    assert activations(per_device_train_batch_size=1, gradient_checkpointing=False) > 2 * one
    assert activations(per_device_train_batch_size=1, max_length=1024) == pytest.approx(2 * one)


def test_dtype_is_what_the_weights_take(llama: str) -> None:
    config = run_config(llama).model_copy(
        update={"model": run_config(llama).model.model_copy(update={"dtype": "bfloat16"})}
    )
    assert footprint(config).weights_gib * GIB == pytest.approx(2 * (LINEAR + REST))


def test_nothing_is_downloaded_or_written(llama: str) -> None:
    footprint(run_config(llama, **QLORA))
    assert [path.name for path in Path(llama).iterdir()] == ["config.json"]
