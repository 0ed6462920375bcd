"""Names and types of the settings that TRL, PEFT and bitsandbytes take, read from their installed source.

Importing TRL takes seconds; parsing the few files that define its settings takes milliseconds, so that `harness plan`
can check every setting against the installed version.
"""

import ast
import difflib
import importlib.util
from collections.abc import Hashable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

# Names that tutorials still use, and what to write instead.
RETIRED_TRAINING = {
    "warmup_ratio": "warmup_steps, where a number below 1 is a share of all steps",
    "max_seq_length": "max_length",
    "evaluation_strategy": "eval_strategy",
    "use_mps_device": "nothing: the device is chosen from the hardware",
    "no_cuda": "use_cpu",
    "group_by_length": "train_sampling_strategy: group_by_length",
    "overwrite_output_dir": "nothing: every cell has a folder of its own",
    "logging_dir": "nothing: logs go to MLflow",
    "tokenizer": "model.name: the tokenizer comes with the model",
    "setup_chat_format": "template.name: chatml",
    "dataset_batch_size": "nothing: it was removed from TRL",
    "num_of_sequences": "nothing: it was removed from TRL",
    "chars_per_token": "nothing: it was removed from TRL",
    "response_template": "assistant_only_loss: true",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "neftune_alpha": "neftune_noise_alpha",
    "peft_config": "the section adapter:",
}
OWNED_TRAINING = {
    "output_dir": "every cell has a folder of its own",
    "seed": "it is set by the top-level list `seeds`",
    "data_seed": "it is set by the top-level list `seeds`",
    "auto_find_batch_size": "a batch that memory doesn't hold is halved, with the same effective batch",
    "report_to": "all runs are logged to MLflow",
    "run_name": "runs are named after their cell",
    "logging_nan_inf_filter": "non-finite losses are always kept as evidence",
    "resume_from_checkpoint": "an interrupted cell resumes by itself when you run again",
    "chat_template_path": "the template is set by `template.name`",
    "eos_token": "the end-of-turn token comes from the template",
    "pad_token": "the padding token comes from the model and the template",
    "model_init_kwargs": "the model is set by the section `model`",
    "trust_remote_code": "it is set by `model.trust_remote_code`",
    "dataset_kwargs": "rows are prepared before training, so that they can be checked and counted",
    "dataset_text_field": "the text field is found by `data.format`",
    "hub_token": "a token in a file reaches copies of it; set HF_TOKEN in the environment",
    "push_to_hub": "checkpoints stay in the cell's folder and in MLflow",
    "do_train": "`harness run` decides",
    "do_eval": "`harness run` decides",
    "do_predict": "`harness run` decides",
}
# A value that would be ignored, or that breaks what is measured.
REFUSED_VALUES: Mapping[tuple[str, object], str] = {
    ("truncation_mode", "keep_end"): "can't be keep_end: rows are cut at their end, in all that reads them",
    ("eval_packing", True): "can't be true: every validation row is evaluated alone; false is what happens",
    ("eval_steps", None): "can't be null; give a number of steps, or leave it out for ten evaluations",
}
OWNED_ADAPTER = {"task_type": "it is always CAUSAL_LM", "inference_mode": "it is always false in training"}
KNOWN_PRIMITIVES = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,), "None": (type(None),),
                    "dict": (dict,), "list": (list,), "tuple": (list,)}  # fmt: skip


class LibraryField(NamedTuple):
    """One setting of a library."""

    annotation: str
    accepts: tuple[type, ...]
    """Python types that YAML may give; empty where the annotation is not made of plain types alone."""
    default: object = ...
    """As the library states it; Ellipsis where it is not a plain value."""
    help: str = ""
    """What the library says of it."""


class FieldSet(NamedTuple):
    """The settings of one library class."""

    owner: str
    """As users know it, such as "TRL's SFTConfig"."""
    fields: Mapping[str, LibraryField]
    retired: Mapping[str, str]
    owned: Mapping[str, str]

    def problem(self, name: str, value: object) -> str:
        """What is wrong with one setting, or ""."""
        if name in self.owned:
            return f"can't be set here: {self.owned[name]}"
        if isinstance(value, Hashable) and (name, value) in REFUSED_VALUES:
            return REFUSED_VALUES[name, value]
        if name in self.fields:
            return _type_problem(self.fields[name], value)
        if name in self.retired:
            return f"was retired; use {self.retired[name]}"
        return f"is not a field of {self.owner}{did_you_mean(name, self.fields)}"


def did_you_mean(name: str, known: Mapping[str, object] | list[str] | tuple[str, ...]) -> str:
    """`; did you mean X?` where a known name is near, else the empty string."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    # Letters in another order are the likeliest slip.
    close.sort(key=lambda other: sorted(other) != sorted(name))
    return f"; did you mean {close[0]}?" if close else ""


def _type_problem(field: LibraryField, value: object) -> str:
    if not field.accepts:
        return ""
    # bool is an int in Python, but `learning_rate: true` is a slip.
    fits = bool in field.accepts if isinstance(value, bool) else isinstance(value, field.accepts)
    return "" if fits else f"must be {field.annotation}, not {value!r}"


@lru_cache
def sft_config_fields() -> FieldSet:
    """Settings of the installed TRL's SFTConfig, those it inherits included."""
    fields = _dataclass_fields("transformers/training_args.py", "TrainingArguments")
    fields |= _dataclass_fields("trl/trainer/base_config.py", "_BaseConfig")
    fields |= _dataclass_fields("trl/trainer/sft_config.py", "SFTConfig")
    return FieldSet("TRL's SFTConfig", fields, RETIRED_TRAINING, OWNED_TRAINING)


@lru_cache
def lora_config_fields() -> FieldSet:
    """Settings of the installed PEFT's LoraConfig."""
    fields = _dataclass_fields("peft/config.py", "PeftConfig") | _dataclass_fields(
        "peft/tuners/lora/config.py", "LoraConfig"
    )
    return FieldSet("PEFT's LoraConfig", fields, {"lora_r": "r", "rank": "r", "alpha": "lora_alpha"}, OWNED_ADAPTER)


@lru_cache
def quantization_fields() -> FieldSet:
    """Settings of the installed transformers' BitsAndBytesConfig."""
    tree = ast.parse(_source("transformers/utils/quantization_config.py"))
    init = next(
        item
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == "BitsAndBytesConfig"
        for item in node.body
        if isinstance(item, ast.FunctionDef) and item.name == "__init__"
    )
    fields = {argument.arg: LibraryField("", ()) for argument in init.args.args if argument.arg != "self"}
    return FieldSet("transformers' BitsAndBytesConfig", fields, {}, {})


def _source(relative: str) -> str:
    package = relative.split("/", maxsplit=1)[0]
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None, f"{package} is a dependency"
    return (Path(spec.origin).parent.parent / relative).read_text(encoding="utf-8")


def _dataclass_fields(relative: str, class_name: str) -> dict[str, LibraryField]:
    tree = ast.parse(_source(relative))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == class_name)
    fields = {}
    for item in body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and not item.target.id.startswith("_"):
            fields[item.target.id] = _with_metadata(_library_field(item.annotation), item.value)
    return fields


def _with_metadata(field: LibraryField, value: ast.expr | None) -> LibraryField:
    """The field with its default and help, from `= 3` or `= field(default=3, metadata={"help": ...})`."""
    if not isinstance(value, ast.Call):
        return field._replace(default=_literal(value))
    stated = {keyword.arg: keyword.value for keyword in value.keywords}
    metadata = stated.get("metadata")
    entries = zip(metadata.keys, metadata.values, strict=True) if isinstance(metadata, ast.Dict) else ()
    texts = [_literal(text) for key, text in entries if key is not None and _literal(key) == "help"]
    help_text = texts[0] if texts and isinstance(texts[0], str) else ""
    return field._replace(default=_literal(stated.get("default")), help=" ".join(help_text.split()))


def _literal(node: ast.expr | None) -> object:
    try:
        return ast.literal_eval(node) if node is not None else ...
    except ValueError:
        return ...


def _library_field(annotation: ast.expr) -> LibraryField:
    text = ast.unparse(annotation).replace("Optional[", "None | ").replace("Union[", "").rstrip("]")
    names: list[str] = []
    for part in ast.unparse(annotation).split(" | "):
        names.append(part.split("[")[0].strip())
    if not all(name in KNOWN_PRIMITIVES for name in names):
        return LibraryField(text, ())
    accepts = tuple(kind for name in names for kind in KNOWN_PRIMITIVES[name])
    return LibraryField(" or ".join(name for name in names if name != "None"), accepts)
