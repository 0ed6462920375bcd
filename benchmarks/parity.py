"""Proves every training technique against a plain TRL script with the same settings: `python benchmarks/parity.py`.

Both sides train the embedded base for 20 steps in float32 on CPU. The plain script lets TRL template, mask, cut and
pack by itself, and calls nothing of the harness. Writes `parity.md` beside this file; exit status 1 where a loss differs.
"""

import contextlib
import io
import json
import logging
import math
import multiprocessing
import os
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import datasets
import torch
import transformers
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, EarlyStoppingCallback
from trl import SFTConfig, SFTTrainer

from harness.config import RunConfig
from harness.data.splits import load_splits
from harness.grid import Cell
from harness.records import TracePoint
from harness.store import CellFolder, read_lines
from harness.train.sft import train

PACKAGE = Path(__file__).parent.parent / "harness"
FILES = PACKAGE / "embedded" / "files"
SEED = 7
TOLERANCE = 1e-5
COMMON = {
    "learning_rate": 2e-3,
    "max_steps": 20,
    "per_device_train_batch_size": 4,
    # TRL's eval_loss is a mean of batch means; in one batch it is the mean over tokens, as the harness has it.
    "per_device_eval_batch_size": 32,
    "max_length": 256,
    "gradient_checkpointing": False,
}
# The plain script evaluates at the end alone; a checkpoint and an evaluation in between would take time and show nothing.
OURS = {"eval_steps": 20}
LORA = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"}
PACKED = {"packing": True, "max_length": 128, "per_device_train_batch_size": 2}
SIZES = {"train": 64, "validation": 32, "test": 4}
Rows = Literal["messages", "completion", "joined_completion", "chat_completion", "text"]


class Technique(NamedTuple):
    """One line of the table: settings as a user writes them, the same for both sides."""

    name: str
    training: Mapping[str, Any] = {}
    adapter: Mapping[str, Any] | None = None
    model: Mapping[str, Any] = {}
    rows: Rows = "messages"
    script: Mapping[str, Any] = {}
    """What the plain script must say besides, because the harness decides it."""
    beside: str = "full fine-tune"
    """The line that differs in this technique alone; its distance shows what a missed setting would look like."""
    patience: int | None = None
    """Evaluations without improvement after which the training stops."""
    known: str = ""
    """Why the two sides differ, where they should."""


class Curve(NamedTuple):
    """What came of a training."""

    losses: tuple[float, ...]
    """One an optimizer step."""
    eval_loss: float
    """After the last step, nats per supervised token."""


def _lora(name: str, training: Mapping[str, Any] = {}, **adapter: Any) -> Technique:
    return Technique(f"LoRA, {name}", training, {**LORA, **adapter}, beside="LoRA")


def _full(name: str, /, **training: Any) -> Technique:
    return Technique(name, training)


def _packed(name: str, *, beside: str = "full fine-tune", script: Mapping[str, Any] = {}, **training: Any) -> Technique:
    return Technique(name, {**PACKED, **training}, script=script, beside=beside)


# Splitting strategies would cut validation rows too; the harness evaluates them whole.
WHOLE = {"eval_packing": False}
WRAPPED = {"packing_strategy": "wrapped"}
# The harness's own defaults, which decide what "no improvement" means.
STOPS = {"eval_strategy": "steps", "eval_on_start": True, "save_strategy": "steps", "save_steps": 2,
         "save_total_limit": 2, "metric_for_best_model": "eval_loss", "greater_is_better": False}  # fmt: skip
SGD = {"optim": "sgd", "learning_rate": 0.1}

TECHNIQUES = (
    Technique("full fine-tune", beside=""),
    Technique("LoRA", adapter=LORA),
    _lora("two modules, modules_to_save", target_modules=["q_proj", "v_proj"], modules_to_save=["norm"]),
    _lora("saved embeddings", modules_to_save=["embed_tokens"]),
    _lora("lora_dropout 0.1", lora_dropout=0.1),
    _lora("rsLoRA", use_rslora=True),
    _lora("DoRA", use_dora=True),
    _lora("PiSSA", init_lora_weights="pissa"),
    _lora("packing bfd", PACKED),
    _lora("gradient checkpointing", {"gradient_checkpointing": True}),
    _lora("NEFTune", {"neftune_noise_alpha": 5.0}),
    _packed("packing bfd"),
    _packed("packing bfd, rows cut", max_length=64),
    _packed("packing bfd, eval_packing false", eval_packing=False, beside="packing bfd"),
    _packed("packing bfd, one epoch", max_steps=-1, num_train_epochs=1, beside=""),
    _packed("packing bfd_split, rows cut", packing_strategy="bfd_split", max_length=40, script=WHOLE),
    _packed("packing wrapped", **WRAPPED, script=WHOLE),
    _packed("packing wrapped, rows cut", **WRAPPED, max_length=40, script=WHOLE),
    _packed("packing wrapped, shuffle_dataset", **WRAPPED, shuffle_dataset=True, script=WHOLE, beside="packing wrapped"),
    _packed("packing wrapped, torch_compile", **WRAPPED, torch_compile=True, script=WHOLE, beside="packing wrapped"),
    _full("padding_free", padding_free=True, max_length=None),
    _full("cut at max_length", max_length=40),
    _full("shuffle_dataset", shuffle_dataset=True),
    _full("group_by_length", train_sampling_strategy="group_by_length"),
    Technique("num_train_epochs 1.25", {"max_steps": -1, "num_train_epochs": 1.25}, beside=""),
    _full("batch 8", per_device_train_batch_size=8),
    _full("gradient accumulation 2x4", per_device_train_batch_size=2, gradient_accumulation_steps=4),
    _full("gradient checkpointing", gradient_checkpointing=True),
    _full("NEFTune", neftune_noise_alpha=5.0),
    _full("loss_type dft", loss_type="dft"),
    _full("loss_type chunked_nll", loss_type="chunked_nll"),
    _full("label smoothing 0.1", label_smoothing_factor=0.1),
    _full("cosine, warmup_steps 5", lr_scheduler_type="cosine", warmup_steps=5),
    _full("linear, warmup_steps 0.2", lr_scheduler_type="linear", warmup_steps=0.2),
    _full("constant_with_warmup", lr_scheduler_type="constant_with_warmup", warmup_steps=3),
    _full("weight_decay 0.1", weight_decay=0.1),
    _full("max_grad_norm 0.1", max_grad_norm=0.1),
    _full("adamw_torch", optim="adamw_torch"),
    _full("adafactor", optim="adafactor"),
    _full("sgd", **SGD),
    _full("sgd, batch 8", **SGD, per_device_train_batch_size=8),
    _full("sgd, gradient accumulation 2x4", **SGD, per_device_train_batch_size=2, gradient_accumulation_steps=4),
    _full("sgd, gradient checkpointing", **SGD, gradient_checkpointing=True),
    _full("sgd, padding_free", **SGD, padding_free=True, max_length=None),
    Technique("sgd, eager attention", SGD, model={"attn_implementation": "eager"}),
    Technique("eager attention", model={"attn_implementation": "eager"}),
    Technique("sdpa attention", model={"attn_implementation": "sdpa"}),
    Technique("bfloat16 weights", model={"dtype": "bfloat16"}),
    _full("bf16 autocast", bf16=True),
    Technique("early stopping", {"max_steps": 40, "eval_steps": 2, "learning_rate": 6e-3, "lr_scheduler_type": "constant"},
              script=STOPS, patience=2, beside=""),
    _full("conversations, whole", assistant_only_loss=False),
    Technique("prompt/completion text", rows="completion", beside=""),
    Technique("prompt/completion text, whole", {"completion_only_loss": False}, rows="completion",
              beside="prompt/completion text"),
    Technique("prompt/completion turns", rows="chat_completion"),
    Technique("plain text, whole", {"completion_only_loss": False}, rows="text", script={"completion_only_loss": None}, beside=""),
    Technique("evaluation in batches of 8", {"per_device_eval_batch_size": 8}, known="TRL's eval_loss is a mean of batch "
              "means, which depends on the batches; the harness has the mean over all supervised tokens"),
    Technique("packing bfd, rows cut to nothing", {**PACKED, "max_length": 40}, known="TRL packs rows that are cut before "
              "their answer, so that whole steps learn nothing; the harness leaves them out, as TRL does without packing"),
    Technique("a token across prompt and completion", rows="joined_completion", beside="prompt/completion text", known="TRL tokenizes "
              "prompt and completion as one text, so a token may reach across; the harness tokenizes the prompt alone, as it is "
              "asked at inference"),
)  # fmt: skip
# Two ways to the same gradients. With SGD: Adam divides by the gradient's size and turns rounding into steps.
SAME = (
    ("sgd, gradient accumulation 2x4", "sgd, batch 8"),
    ("sgd, gradient checkpointing", "sgd"),
    ("sgd, padding_free", "sgd"),
    ("sgd, eager attention", "sgd"),
)
NOT_MEASURED = {
    "QLoRA": "needs a CUDA GPU and bitsandbytes",
    "truncation_mode keep_end": "the harness refuses it, and TRL will remove it: rows are cut at their end",
    "use_liger_kernel": "its Triton kernels need a GPU",
    "load_best_model_at_end": "the harness refuses it: the best and the last checkpoint are both kept",
}


def rows_of(split: str, kind: Rows) -> list[dict[str, Any]]:
    """The first embedded rows of a split, in the columns of a kind."""
    lines = (FILES / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()[: SIZES[split]]
    rows = []
    for messages in (json.loads(line)["messages"] for line in lines):
        prompt = "\n".join(f"{turn['role']}: {turn['content']}" for turn in messages[:-1]) + "\nassistant:"
        answer = messages[-1]["content"]
        rows.append({
            "messages": {"messages": messages},
            "completion": {"prompt": prompt, "completion": f" {answer}"},
            "joined_completion": {"prompt": f"{prompt} ", "completion": answer},
            "chat_completion": {"prompt": messages[:-1], "completion": messages[-1:]},
            "text": {"text": f"{prompt} {answer}"},
        }[kind])  # fmt: skip
    return rows


def plain_trl(technique: Technique, folder: Path) -> Curve:
    """What a TRL user writes by hand."""
    tokenizer = AutoTokenizer.from_pretrained(FILES / "base")
    settings: dict[str, Any] = {}
    if technique.rows in ("messages", "chat_completion"):
        tokenizer.chat_template = (PACKAGE / "templates" / "chatml.jinja").read_text(encoding="utf-8")
        settings["assistant_only_loss"] = True
    arguments = SFTConfig(**{
        "bf16": False, "save_strategy": "no", **COMMON, **settings, **technique.training, **technique.script, "seed": SEED, "logging_steps": 1,
        "output_dir": str(folder), "report_to": "none", "use_cpu": True, "disable_tqdm": True,
    })  # fmt: skip
    options = {"dtype": torch.float32, **technique.model}
    trainer = SFTTrainer(
        AutoModelForCausalLM.from_pretrained(FILES / "base", **options),
        args=arguments,
        train_dataset=Dataset.from_list(rows_of("train", technique.rows)),
        eval_dataset=Dataset.from_list(rows_of("validation", technique.rows)),
        processing_class=tokenizer,
        peft_config=LoraConfig(task_type="CAUSAL_LM", **technique.adapter) if technique.adapter else None,
        callbacks=[EarlyStoppingCallback(technique.patience)] if technique.patience else None,
    )
    trainer.train()
    # TRL evaluates with the training loss; the harness always with the NLL, so that cells can be compared.
    trainer.args.loss_type, trainer.label_smoother = "nll", None
    eval_loss = trainer.evaluate()["eval_loss"]
    return Curve(tuple(entry["loss"] for entry in trainer.state.log_history if "loss" in entry), eval_loss)


class NullTracker:
    """Takes everything and keeps nothing."""

    run_id = ""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


def harness(technique: Technique, folder: Path) -> Curve:
    """The harness's own code path, from the sections of an experiment file."""
    folder.mkdir(exist_ok=True)
    for split in SIZES:
        lines = (f"{json.dumps(row)}\n" for row in rows_of(split, technique.rows))
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    config = RunConfig.model_validate({
        "model": {"name": "embedded:base", **technique.model},
        "template": {"name": "chatml" if technique.rows in ("messages", "chat_completion") else "none"},
        "data": {split: str(folder / f"{split}.jsonl") for split in SIZES},
        "training": {**COMMON, **OURS, **technique.training},
        "adapter": technique.adapter,
        "early_stopping_patience": technique.patience,
    })  # fmt: skip
    cell = Cell(id="parity", name=technique.name, group="parity", overrides={}, seed=SEED, config=config)
    splits = load_splits(config.data)
    assert (len(splits.train), len(splits.validation)) == (SIZES["train"], SIZES["validation"])
    made = CellFolder(folder)
    result = train(cell, made, NullTracker(), splits)
    losses = tuple(
        float(point.values["loss"]) for point in read_lines(made.trace, TracePoint) if "loss" in point.values
    )
    return Curve(losses, float(result.eval_loss))


def _measured(side: Callable[[Technique, Path], Curve], technique: Technique) -> Curve | str:
    """A curve, or why there is none."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        try:
            return side(technique, Path(folder))
        except Exception as error:  # a technique that can't be used is a line of the table
            return f"{side.__name__}: {type(error).__name__}: {str(error).splitlines()[0]}"


class Line(NamedTuple):
    """One measured line of the table."""

    technique: Technique
    script: Curve | str
    harness: Curve | str

    @property
    def differences(self) -> tuple[float, float]:
        """Largest absolute difference of a step's loss, and that of the eval losses."""
        return distance(self.script, self.harness)

    @property
    def verdict(self) -> str:
        """Same, differs as known, or DIFFERS."""
        if isinstance(self.script, str) or isinstance(self.harness, str):
            return "FAILS: " + next(side for side in (self.script, self.harness) if isinstance(side, str))
        is_same = max(self.differences) <= TOLERANCE
        return "same" if is_same else f"differs: {self.technique.known}" if self.technique.known else "DIFFERS"


def distance(one: Curve | str, other: Curve | str) -> tuple[float, float]:
    """Largest absolute difference of a step's loss, and that of the eval losses; infinite where they can't be compared."""
    if isinstance(one, str) or isinstance(other, str) or len(one.losses) != len(other.losses):
        return math.inf, math.inf
    steps = (abs(a - b) for a, b in zip(one.losses, other.losses, strict=True))
    return max(steps), abs(one.eval_loss - other.eval_loss)


def measure(technique: Technique) -> Line:
    """Both sides, each in a process of its own, so that no seed, thread or mixed precision is left over."""
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        return Line(technique, *(pool.apply(_measured, (side, technique)) for side in (plain_trl, harness)))


def table(lines: Sequence[Line]) -> Iterator[str]:
    """The measured lines as Markdown."""
    yield "| technique | steps | loss, first to last step | largest loss difference | eval loss difference | effect | verdict |"
    yield "|---|---|---|---|---|---|---|"
    curves = {line.technique.name: line.script for line in lines}
    for line in lines:
        loss, evaluated = line.differences
        beside = line.technique.beside
        effect = f"{distance(line.script, curves[beside])[0]:.0e}" if beside in curves else ""
        losses = (0.0,) if isinstance(line.script, str) else line.script.losses
        yield (
            f"| {line.technique.name} | {len(losses)} | {losses[0]:.3f} to {losses[-1]:.3f} | {loss:.1e} | {evaluated:.1e} "
            f"| {effect} | {line.verdict} |"
        )


def same_table(curves: Mapping[str, Curve | str]) -> Iterator[str]:
    """Pairs of the harness's own trainings that must agree."""
    yield "| training | and | largest loss difference | eval loss difference | verdict |"
    yield "|---|---|---|---|---|"
    for one, other in SAME:
        if one in curves and other in curves:
            loss, evaluated = distance(curves[one], curves[other])
            verdict = "same" if max(loss, evaluated) <= TOLERANCE else "DIFFERS"
            yield f"| {one} | {other} | {loss:.1e} | {evaluated:.1e} | {verdict} |"


def page(lines: Sequence[Line], seconds: float) -> str:
    """The page that holds both tables."""
    used = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl", "peft", "accelerate"))
    return "\n".join([
        "# Parity with TRL", "",
        "Every technique, trained by the harness and by a plain TRL script with the same settings, data and seed. In the",
        "script, TRL templates, masks, cuts and packs by itself. Embedded base in float32 on one CPU thread.", "",
        f"Made by `python benchmarks/parity.py` in {seconds / 60:.0f} minutes on {platform.machine()} with Python "
        f"{platform.python_version()}, {used}. Tolerance {TOLERANCE:.0e}.", "",
        *table(lines), "",
        "*Effect* is how far the script's losses are from those without the technique: a setting that is not passed on",
        "would show as this difference. The eval loss is the NLL in one batch on both sides: by itself TRL would evaluate",
        "with the training loss (smoothed, or DFT) and average over batches.", "",
        "Trainings of the harness that must agree with each other:", "",
        *same_table({line.technique.name: line.harness for line in lines}), "",
        "Not measured:", "",
        *(f"- {name}: {reason}." for name, reason in NOT_MEASURED.items()), "",
    ])  # fmt: skip


def main(names: Sequence[str]) -> int:
    """Measures the named techniques, or all; 1 where one is out of tolerance."""
    # Read when CUDA and the tokenizers start, which the processes of the lines do.
    os.environ |= {"CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"}
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    started = time.monotonic()
    lines = []
    for technique in TECHNIQUES:
        if not names or technique.name in names:
            lines.append(measure(technique))
            print(f"{technique.name}: {lines[-1].verdict}", file=sys.stderr, flush=True)
    text = page(lines, time.monotonic() - started)
    print(text)
    if not names:
        Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
    return int("DIFFERS" in text or "FAILS" in text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
