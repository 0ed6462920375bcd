"""From YAML text to an ExperimentConfig, with file and line in every complaint."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from harness.config import DataConfig, ExperimentConfig, RunConfig
from harness.errors import ConfigError
from harness.eval_config import EvalConfig, ReferenceConfig
from harness.library_fields import did_you_mean
from harness.resources import bundled, is_file, is_there
from harness.secrets import holds_secret, is_secret_name
from harness.yaml_text import Location, Parsed, read_yaml, value_of


def find_experiment(name: str) -> Path:
    """The file itself, else the bundled experiment of that name.

    Raises: ConfigError: there is neither.
    """
    path = Path(name)
    if is_file(path):
        return path
    shipped = bundled("experiments") / f"{name}.yaml"
    if "/" not in name and is_file(shipped):
        return shipped
    known = sorted(path.stem for path in bundled("experiments").glob("*.yaml"))
    hint = did_you_mean(name, known) or f"; bundled experiments are {', '.join(known)}"
    raise ConfigError(f"{name}: there is no such experiment file{hint}")


def load_experiment(path: Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """The experiment in a YAML file.

    Args:
        path: of the file.
        overrides: `dotted.key=value`, the value as YAML.

    Raises: ConfigError: one line for each thing that is wrong, with file and line.
    """
    content, lines = _parse(path)
    for override in overrides:
        _apply_override(content, override)
    resolve_files(
        {key: content[key] for key in ("evals", "launch", "references") if isinstance(content.get(key), list | dict)},
        path.parent,
    )
    try:
        return ExperimentConfig.model_validate(content)
    except ValidationError as error:
        problems = problems_of(error, ExperimentConfig)
        raise ConfigError("\n".join(f"{path}:{line_of(lines, at)}: {text}" for at, text in problems)) from error


def line_of(lines: Mapping[Location, int], location: Location) -> int:
    """The line of a key, or of the nearest key above it that the file has."""
    while location and location not in lines:
        location = location[:-1]
    return lines.get(location, 1)


def experiment_lines(path: Path) -> dict[Location, int]:
    """Key path -> line number in an experiment file."""
    return _parse(path)[1]


def _parse(path: Path) -> Parsed:
    parsed = read_yaml(path)
    if not isinstance(parsed.content, dict):
        raise ConfigError(f"{path}:1: an experiment is a mapping of sections such as model:, data: and grid:")
    return parsed


def _apply_override(content: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {override}: write it as dotted.key=value")
    value = value_of(text, f"--set {key}")
    if key != "tracking.uri" and (is_secret_name(key) or holds_secret(text)):
        raise ConfigError(f"--set {key}: the value is a password or a token; put it into the environment instead")
    set_dotted(content, key, value)


def set_dotted(content: dict[str, Any], key: str, value: object) -> None:
    """Sets `a.b.c` in nested dicts, making those on the way.

    Raises: ConfigError: something on the way is not a section.
    """
    *parents, last = key.split(".")
    for parent in parents:
        content = content.setdefault(parent, {}) if content.get(parent) is not None else _new_section(content, parent)
        if not isinstance(content, dict):
            raise ConfigError(f"{key}: {parent} is a single value, so nothing below it can be set")
    content[last] = value


def _new_section(content: dict[str, Any], name: str) -> dict[str, Any]:
    section: dict[str, Any] = {}
    content[name] = section
    return section


def resolve_files(content: dict[str, Any], folder: Path) -> None:
    """Makes paths that are written relative to the experiment file findable from the working folder.

    A path that exists in the working folder stays as it is.
    """

    def resolved(value: object) -> object:
        if isinstance(value, list):
            return [resolved(item) for item in value]
        if not isinstance(value, str) or not value or is_there(Path(value)) or _matches(Path(), value):
            return value
        # A Hub id such as `org/data` must not become a folder that happens to lie beside the file.
        in_folder = is_file(folder / value) or _matches(folder, value)
        looks_local = value.startswith("./") and is_there(folder / value)
        return str(folder / value) if in_folder or looks_local else value

    def within(section: object, *keys: str) -> None:
        for item in section if isinstance(section, list) else [section]:
            for key in keys:
                if isinstance(item, dict) and key in item:
                    within(item[key], "path")
                    item[key] = resolved(item[key])

    within(content.get("template"), "name")
    within(content.get("launch"), "accelerate_config")
    within(content.get("data"), "train", "validation", "test")
    for suite in content.get("evals") or []:
        within(suite, "data", "include_path")
    for reference in content.get("references") or []:
        within(reference, "predictions")


def _matches(folder: Path, pattern: str) -> bool:
    """Whether a relative glob finds anything."""
    return "*" in pattern and not Path(pattern).is_absolute() and next(folder.glob(pattern), None) is not None


def problems_of(error: ValidationError, model: type[BaseModel]) -> Iterator[tuple[Location, str]]:
    """Location and one sentence for everything that is wrong: the dotted path, what, and the nearest valid name."""
    for detail in error.errors():
        location = tuple(detail["loc"])
        message = detail["msg"].removeprefix("Value error, ")
        if detail["type"] == "value_error" and "\t" in message:
            # Settings of a library: one line each, the name before the tab.
            for line in message.split("\n"):
                name, _, text = line.partition("\t")
                yield (*location, name), f"{_dotted((*location, name))} {text}"
        else:
            yield location, _sentence(location, detail, message, model)


def _dotted(location: Location) -> str:
    return ".".join(str(part) for part in location) or "the experiment"


def _sentence(location: Location, detail: ErrorDetails, message: str, model: type[BaseModel]) -> str:
    dotted = _dotted(location)
    if detail["type"] == "extra_forbidden":
        known = _fields_at(location[:-1], model)
        return f"{dotted} is not a known field{did_you_mean(str(location[-1]), known)}"
    if detail["type"] == "missing":
        return f"{dotted} is missing; add it"
    if detail["type"] == "value_error":
        return f"{dotted}: {message}"
    return f"{dotted}: {message[:1].lower()}{message[1:]}, not {detail['input']!r}"


def _fields_at(location: Location, model: type[BaseModel]) -> list[str]:
    """Names of the fields of the section at a location."""
    sections: dict[str, type[BaseModel]] = {"evals": EvalConfig, "data": DataConfig, "references": ReferenceConfig}
    current: type[BaseModel] = model
    for part in location:
        if isinstance(part, int):
            continue
        field = current.model_fields.get(part) or RunConfig.model_fields.get(part)
        annotation = field.annotation if field else None
        nested = [
            t
            for t in (annotation, *getattr(annotation, "__args__", ()))
            if isinstance(t, type) and issubclass(t, BaseModel)
        ]
        current = nested[0] if nested else sections.get(part, current)
    return list(current.model_fields)
