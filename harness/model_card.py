"""The card of a trained model in the Hub's format, from records alone."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from harness.cards.measured import difference_to_base, limits, metrics
from harness.cards.sections import dataset, template, training
from harness.cards.subject import CardSubject, data_report, languages
from harness.collect import collect, rank_experiment
from harness.config import RunConfig
from harness.data.files import FILE_SUFFIXES
from harness.eval_config import SourceConfig
from harness.gates import shown, signed
from harness.grid import CellSpec
from harness.markdown import block, code, details, escaped
from harness.ranking import Ranking
from harness.recorded import recorded_plan
from harness.records import CellResult, warning_names
from harness.store import ExperimentFolder, read_record, restored_root
from harness.targets import FoundCell, training_of

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def subject_of(found: FoundCell) -> CardSubject:
    """A cell with the base and the ranking of its experiment.

    Raises: ConfigError: it is a reference, or wasn't trained to its end.
    """
    training_of(found.result)
    folder = ExperimentFolder(found.folder.path.parent.parent)
    results = [read_record(path, CellResult) for path in folder.path.glob("cells/*/result.json")]
    return CardSubject(
        spec=read_record(found.folder.spec, CellSpec),
        result=found.result,
        folder=found.folder,
        findings=found.findings,
        base=_base_of(found.result, results),
        ranking=_ranking(folder),
    )


def _ranking(folder: ExperimentFolder) -> Ranking | None:
    """The last ranking; made anew of records that were fetched from a tracking server, which come without it."""
    if folder.ranking.exists():
        return read_record(folder.ranking, Ranking)
    if folder.path.parent != restored_root():
        return None
    made = recorded_plan(folder)
    return rank_experiment(made, collect(made))


def _base_of(result: CellResult, results: Sequence[CellResult]) -> CellResult | None:
    """The untouched base; where it was asked through several templates, the one that was asked most like the cell."""
    asked = {(suite.suite, suite.digest) for suite in result.suites}
    bases = [r for r in results if r.reference == "base" and r.status == "finished" and r.base == result.base]
    return max(bases, key=lambda r: sum((suite.suite, suite.digest) in asked for suite in r.suites), default=None)


def card_text(subject: CardSubject, *, merged: bool = False) -> str:
    """The whole README.md of a model, its metadata block included.

    Args:
        subject: what is told of.
        merged: whether an adapter was merged into the base.
    """
    from huggingface_hub import ModelCard, ModelCardData

    config = subject.config
    is_adapter = config.adapter is not None and not merged
    has_hub_base = is_hub_id(config.model.name)
    related: dict[str, Any] = {"base_model_relation": "adapter" if is_adapter else "finetune"} if has_hub_base else {}
    data = ModelCardData(
        base_model=config.model.name if has_hub_base else None,
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["trl", "sft", "sft-harness", *(["lora"] if config.adapter is not None else [])],
        language=languages(data_report(subject)) or None,
        datasets=[source.path for source in config.data.train if is_hub_id(source.path)] or None,
        model_name=f"{subject.spec.experiment}: {subject.result.name}",
        eval_results=list(_eval_results(subject)) or None,
        **related,
    )
    text = _without_folders("\n".join(_body(subject, is_adapter=is_adapter)), subject)
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}\n"))


def is_hub_id(name: str) -> bool:
    """Whether a model or dataset is named by its Hub id, not by a file or folder."""
    return REPOSITORY.fullmatch(name) is not None and not name.endswith(FILE_SUFFIXES) and not Path(name).exists()


def _body(subject: CardSubject, *, is_adapter: bool) -> Iterator[str]:
    yield f"# {escaped(subject.spec.experiment)}: {escaped(subject.result.name)}"
    yield from ("", *_summary(subject, is_adapter=is_adapter))
    parts = {
        "How to load": _how_to_load(subject, is_adapter=is_adapter),
        "Performance metrics": metrics(subject),
        "Known limitations": limits(subject),
        "Dataset characteristics": dataset(subject),
        "Template": template(subject),
        "Training parameters": training(subject),
        "How it was made": _how_it_was_made(subject),
    }
    for title, lines in parts.items():
        yield from ("", f"## {title}", "", *lines)


def _summary(subject: CardSubject, *, is_adapter: bool) -> Iterator[str]:
    train, config = subject.train, subject.config
    kind = "A LoRA adapter for" if is_adapter else "A fine-tune of"
    rows = train.splits["train"]
    yield (
        f"{kind} {code(config.model.name)}, trained on {rows.rows_used:,} rows ({rows.supervised_tokens:,} supervised tokens) "
        f"for {train.epochs:.3g} epochs."
    )
    if asked := _question(subject):
        yield f"It comes from an experiment that asked: {escaped(asked)}"
    yield ""
    criterion = subject.ranking.criterion if subject.ranking else ""
    if value := subject.result.metrics_with(criterion).get(criterion):
        difference = difference_to_base(subject, criterion)
        beside = f"; difference to the untouched base {signed(difference)}" if difference else ""
        yield f"- **{escaped(criterion)}** {shown(value)} on {value.n} examples{beside}"
    warned = warning_names(subject.findings)
    yield f"- warning signs: {escaped(warned)}; see [known limitations](#known-limitations)" if warned else "- warning signs: none found"  # fmt: skip


def _question(subject: CardSubject) -> str:
    path = ExperimentFolder(subject.folder.path.parent.parent).config
    return str(json.loads(path.read_text(encoding="utf-8"))["config"]["description"]) if path.is_file() else ""


def _how_to_load(subject: CardSubject, *, is_adapter: bool) -> Iterator[str]:
    yield (
        "`FOLDER` is the folder or repository that this file lies in, as `harness export` writes it"
        f"{' (an adapter needs `peft` installed)' if is_adapter else ''}."
    )
    yield from ("", "```python")
    # With an adapter, transformers takes the generation config of the base, which knows nothing of the end of a turn.
    needs, given = (", GenerationConfig", ", generation_config=stops") if is_adapter else ("", "")
    yield f"from transformers import AutoModelForCausalLM, AutoTokenizer{needs}"
    yield ""
    yield 'tokenizer = AutoTokenizer.from_pretrained("FOLDER")'
    yield 'model = AutoModelForCausalLM.from_pretrained("FOLDER")'
    if is_adapter:
        yield 'stops = GenerationConfig.from_pretrained("FOLDER")'
    if subject.train.settings.get("template.in_force") == "none":
        yield 'inputs = tokenizer("...", return_tensors="pt")'
    else:
        yield 'turns = [{"role": "user", "content": "..."}]'
        yield 'inputs = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)'
    yield f"output = model.generate(**inputs{given}, do_sample=False, max_new_tokens=256)"
    yield 'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))'
    yield "```"


def _how_it_was_made(subject: CardSubject) -> Iterator[str]:
    environment, spec = subject.train.environment, subject.spec
    version = escaped(environment.get("sft-harness", "of unknown version"))
    yield f"- [sft-harness](https://pypi.org/project/sft-harness/) {version}: {code(f'harness run {spec.experiment}.yaml')}"
    yield f"- cell {code(spec.cell.id)}, {code(spec.cell.name)}"
    yield f"- MLflow run {code(subject.result.mlflow_run_id or 'none')}"
    yield f"- Python {escaped(environment.get('python', 'unknown'))}, git commit: {escaped(environment.get('git_commit', 'unknown'))}"
    yield from details("An experiment file that trains this model again", block(_experiment_file(spec), "yaml"))


def _experiment_file(spec: CellSpec) -> str:
    config = spec.cell.config.model_dump(mode="json", exclude_defaults=True)
    evals = [item.model_dump(mode="json", exclude_defaults=True) for item in spec.evals]
    content = {"name": spec.experiment, **config, "seeds": [spec.cell.seed], "evals": evals}
    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _eval_results(subject: CardSubject) -> "Iterator[EvalResult]":
    """Every metric as the Hub's model index has it."""
    from huggingface_hub import EvalResult

    options = {item.label: item for item in subject.spec.evals}
    for suite in subject.result.suites:
        own = options[suite.suite].data if suite.suite in options else None
        sources = (own,) if own else subject.config.data.test if suite.is_kind("held_out") else ()
        hub = [source for source in sources or () if is_hub_id(source.path)]
        for name, value in suite.metrics.items():
            yield EvalResult(
                task_type="text-generation",
                dataset_type=hub[0].path if hub else suite.suite,
                dataset_name=hub[0].path if hub else suite.suite,
                dataset_config=hub[0].name if hub else None,
                dataset_split=hub[0].split if hub else None,
                dataset_revision=hub[0].revision if hub else None,
                metric_type=name,
                metric_name=f"{suite.suite}.{name}",
                metric_value=round(value.value, 6),
            )


def _without_folders(text: str, subject: CardSubject) -> str:
    """The text with files named from their own folder on: where they lie on somebody's disk is nobody's business."""
    config: RunConfig = subject.config
    parts = (config.data.train, config.data.validation, config.data.test)
    sources: Sequence[SourceConfig] = [source for part in parts for source in part or ()]
    sources = [*sources, *(item.data for item in subject.spec.evals if item.data is not None)]
    named = [config.model.name, config.template.name, *(source.path for source in sources)]
    paths = [Path(name).expanduser() for name in named]
    folders = {str(path.parent) for path in paths if path.is_absolute()} | {str(Path.cwd()), str(Path.home())}
    # The working folder of the run, which may have been another one.
    folders |= {str(parent) for parent in Path(subject.train.settings.get("training.output_dir", "")).parents[5:6]}
    for folder in sorted(folders - {"/", "."}, key=len, reverse=True):
        text = text.replace(f"{folder}/", "").replace(f"{escaped(folder)}/", "")
    return text
