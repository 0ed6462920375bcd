"""The JSON Schema of the experiment file, for editors that complete and check it.

Made from the sections' own types and docstrings and from the installed TRL, PEFT and transformers, so that it says what
`harness plan` says. Where the loader takes a shorthand (a suite by its name, a dataset by its path), so does the schema.
"""

import importlib.metadata
from collections.abc import Mapping
from typing import Any

from harness.config import ExperimentConfig, RunConfig
from harness.library_fields import FieldSet, lora_config_fields, quantization_fields, sft_config_fields
from harness.suite import known_suites

Schema = dict[str, Any]
LIBRARIES = ("trl", "transformers", "peft")
DRAFT = "https://json-schema.org/draft/2020-12/schema"
JSON_TYPES: Mapping[type, str] = {
    int: "integer", float: "number", bool: "boolean", str: "string", dict: "object", list: "array", tuple: "array",
    type(None): "null",
}  # fmt: skip
REFERENCE_NAMES = ("base", "few_shot")
SECTIONS_OF_MODELS = ("model", "template", "data")


def experiment_schema() -> Schema:
    """The schema of an experiment file, for the libraries that are installed."""
    schema = ExperimentConfig.model_json_schema()
    run = RunConfig.model_json_schema()
    definitions: Schema = {**run["$defs"], **schema.pop("$defs")}
    for name in (*SECTIONS_OF_MODELS, "training", "adapter", "quantization"):
        schema["properties"][name] = {**run["properties"][name], **_described(schema["properties"][name])}
    _add_libraries(schema["properties"], definitions)
    _allow_shorthands(schema["properties"], definitions)
    schema["properties"] |= _swept(schema["properties"], definitions)
    # A model or data that only the grid names are no mistake.
    for name in ("ModelConfig", "DataConfig"):
        definitions[name].pop("required")
    schema.pop("required")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)
    return {
        "$schema": DRAFT, "$comment": f"Made by `harness schema` with {versions}.", **schema,
        "title": "Experiment file of sft-harness", "allOf": _requirements(), "$defs": definitions,
    }  # fmt: skip


def _described(schema: Schema) -> Schema:
    return {"description": schema["description"]} if "description" in schema else {}


def _add_libraries(properties: Schema, definitions: Schema) -> None:
    """The settings of the libraries, in the sections that hand them on."""
    for name, fields in (
        ("training", sft_config_fields()), ("adapter", lora_config_fields()), ("quantization", quantization_fields()),
    ):  # fmt: skip
        definitions[name] = {"type": "object", "properties": _library_properties(fields), "additionalProperties": False}
        section = {"$ref": f"#/$defs/{name}"}
        whole = section if name == "training" else {"anyOf": [section, {"type": "null"}]}
        properties[name] = {**whole, **_described(properties[name])}


def _library_properties(fields: FieldSet) -> Schema:
    found = {}
    for name, field in fields.fields.items():
        if name in fields.owned:
            continue
        types = sorted({JSON_TYPES[kind] for kind in field.accepts})
        if "number" in types:
            types = [kind for kind in types if kind != "integer"]
        entry: Schema = {"type": types[0] if len(types) == 1 else types} if types else {}
        if field.default is not ...:
            entry["default"] = field.default
        found[name] = {**entry, "description": field.help or f"Field of {fields.owner}."}
    return found


def _allow_shorthands(properties: Schema, definitions: Schema) -> None:
    source = {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/SourceConfig"}]}
    sources = {"anyOf": [*source["anyOf"], {"type": "array", "items": source, "minItems": 1}]}
    data, evals = definitions["DataConfig"]["properties"], definitions["EvalConfig"]
    data["train"] = {**sources, **_described(data["train"])}
    for name in ("validation", "test"):
        data[name] = {"anyOf": [*sources["anyOf"], {"type": "null"}], **_described(data[name])}
    evals["properties"]["data"] = {
        "anyOf": [*source["anyOf"], {"type": "null"}],
        **_described(evals["properties"]["data"]),
    }
    tasks = evals["properties"]["lm_eval"]
    evals["properties"]["lm_eval"] = {"anyOf": [{"type": "string"}, tasks], **_described(tasks)}
    evals["anyOf"] = [{"required": ["suite"]}, {"required": ["lm_eval"]}]
    evals.pop("required")
    # Suites of the user's own have names that no schema knows.
    suite = {"type": "string", "examples": list(known_suites())}
    properties["evals"]["items"] = {"anyOf": [suite, {"$ref": "#/$defs/EvalConfig"}]}
    named = {"enum": list(REFERENCE_NAMES)}
    properties["references"]["items"] = {"anyOf": [named, {"$ref": "#/$defs/ReferenceConfig"}]}
    checks = properties["stop_on"]
    several = {"type": "array", "items": checks["items"]}
    properties["stop_on"] = {**_described(checks), "anyOf": [checks["items"], several], "default": checks["default"]}


def _swept(properties: Schema, definitions: Schema) -> Schema:
    """The sections that name dotted fields: `grid` with lists of values, `variants` with one value each."""
    fields: Schema = {}
    for name in RunConfig.model_fields:
        section = properties[name]
        fields[name] = {key: value for key, value in section.items() if key != "default"}
        if place := _definition_of(section):
            known = definitions[place]["properties"]
            fields |= {f"{name}.{field}": {"$ref": f"#/$defs/{place}/properties/{field}"} for field in known}
    # Below a field of a library, such as `training.lr_scheduler_kwargs.num_cycles`, nothing is known.
    deeper: Schema = {rf"^({'|'.join(RunConfig.model_fields)})\.\w+\.": {}}
    values = {name: {"type": "array", "items": inner, "minItems": 1} for name, inner in fields.items()}
    grid = {
        "type": "object", "properties": values, "additionalProperties": False,
        "patternProperties": {key: {"type": "array", "minItems": 1} for key in deeper},
    }  # fmt: skip
    variant = {"type": "object", "properties": fields, "patternProperties": deeper, "additionalProperties": False}
    variants = {"type": "object", "additionalProperties": variant}
    return {
        "grid": {**grid, **_described(properties["grid"])},
        "variants": {**variants, **_described(properties["variants"])},
    }


def _definition_of(section: Schema) -> str:
    """Where the mapping that a section is, alone or beside null, is defined; empty where it is none."""
    named = (choice["$ref"] for choice in (section, *section.get("anyOf", ())) if "$ref" in choice)
    return str(next(named, "")).rpartition("/")[2]


def _requirements() -> list[Schema]:
    """Predictions alone need neither model nor data, but to know what they answer."""
    predictions = {"type": "object", "required": ["predictions"]}
    is_alone = {
        "required": ["references"],
        "properties": {"references": {"type": "array", "minItems": 1, "items": predictions}},
        "not": {"anyOf": [{"required": [name]} for name in ("model", "data")]},
    }
    sweeps = {"anyOf": [{"required": ["grid"]}, {"required": ["variants"]}]}
    whole = {"properties": {"model": {"required": ["name"]}, "data": {"required": ["train"]}}}
    return [
        {"if": is_alone, "then": {"required": ["name", "evals"]}, "else": {"required": ["name", "model", "data"]}},
        {"if": {"not": sweeps}, "then": whole},
    ]
