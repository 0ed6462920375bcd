"""What differs between two runs beside their scores: settings, findings, curves."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.compared import Curve, FindingDifference, SettingDifference, SettingSource
from harness.compared_runs import Part, Side
from harness.config import RunConfig
from harness.diagnose.evidence import as_float
from harness.records import Finding, TracePoint

MAX_POINTS = 200
# Where a run lies and how it talks decides nothing; seeds are named apart.
NOISE = frozenset({
    "training.output_dir", "training.logging_dir", "training.run_name", "training.hub_token", "training.seed",
    "training.data_seed", "training.report_to", "training.disable_tqdm", "training.local_rank", "training.log_level",
    "template.in_force",
})  # fmt: skip
UNTRAINED_SECTIONS = ("model", "template")
"""What can differ where one of the two was not trained."""
SEVERITIES = ("error", "warning", "info")


def config_diff(a: Side, b: Side) -> dict[str, SettingDifference]:
    """Dotted field -> what differs, swept fields first; of predictions nothing is known."""
    found: dict[str, SettingDifference] = {}
    is_trained = a.is_trained and b.is_trained
    ours, theirs = _asked_for(a), _asked_for(b)
    if ours and theirs:
        swept = [key for side in (a, b) for part in side.parts for key in part.result.overrides]
        for key in dict.fromkeys((*swept, *ours, *theirs)):
            if is_trained or key.partition(".")[0] in UNTRAINED_SECTIONS:
                _add(found, key, ours.get(key), theirs.get(key), "asked")
    if not is_trained:
        return found
    known = {*ours, *theirs, *NOISE}
    # The libraries' defaults of a section that only one of the two has say nothing more.
    one_sided = {section for section in ("adapter", "quantization") if _has(ours, section) != _has(theirs, section)}
    of_runs = [_facts(side, "settings") for side in (a, b)]
    for key in dict.fromkeys((*of_runs[0], *of_runs[1])):
        if key not in known and not key.startswith("data.") and key.partition(".")[0] not in one_sided:
            _add(found, key, of_runs[0].get(key), of_runs[1].get(key), "in force")
    environments = [_facts(side, "environment") for side in (a, b)]
    facts = [_facts(side, "facts") | _measures(side) for side in (a, b)]
    for key in dict.fromkeys((*facts[0], *facts[1])):
        if key not in environments[0]:
            _add(found, f"facts.{key}", facts[0].get(key), facts[1].get(key), "fact")
    for key in dict.fromkeys((*environments[0], *environments[1])):
        _add(found, f"environment.{key}", environments[0].get(key), environments[1].get(key), "environment")
    return found


def _add(found: dict[str, SettingDifference], key: str, a: Any, b: Any, source: SettingSource) -> None:
    if a != b:
        found[key] = SettingDifference(a=a, b=b, source=source)


def _has(fields: Mapping[str, Any], section: str) -> bool:
    return any(key.startswith(f"{section}.") for key in fields)


def _asked_for(side: Side) -> dict[str, Any]:
    """Dotted field -> value, as the experiment file gave it; seeds share it."""
    config = side.parts[0].config
    return dict(_flat(config)) if config is not None else {}


def _flat(config: RunConfig) -> Iterator[tuple[str, Any]]:
    for section, value in config.model_dump(mode="json").items():
        if isinstance(value, dict):
            yield from ((f"{section}.{key}", _without_none(item)) for key, item in value.items())
        elif value is not None:
            yield section, _without_none(value)


def _without_none(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_none(item) for item in value]
    return {k: _without_none(v) for k, v in value.items() if v is not None} if isinstance(value, dict) else value


def _facts(side: Side, field: str) -> dict[str, Any]:
    """Name -> value of a record of strings; a list where seeds differ in it."""
    trained = [part.result.train for part in side.parts if part.result.train]
    each: list[Mapping[str, str]] = [getattr(train, field) for train in trained]
    names = dict.fromkeys(name for values in each for name in values)
    return {name: _one_or_all([values.get(name) for values in each]) for name in names}


def _measures(side: Side) -> dict[str, Any]:
    trained = [part.result.train for part in side.parts if part.result.train]
    return {
        "optimizer steps": _one_or_all([train.steps for train in trained]),
        "trainable parameters": _one_or_all([train.num_trainable_parameters for train in trained]),
        "evaluated checkpoint": _one_or_all([train.evaluated for train in trained]),
    }


def _one_or_all(values: Sequence[Any]) -> Any:
    distinct = list(dict.fromkeys(values))
    return distinct[0] if len(distinct) == 1 else distinct


def findings_diff(a: Side, b: Side) -> tuple[FindingDifference, ...]:
    """Checks that fired in one of two trained runs otherwise than in the other, the worst first."""
    if not (a.is_trained and b.is_trained):
        return ()
    found = []
    for check in dict.fromkeys(finding.check for side in (a, b) for part in side.parts for finding in part.findings):
        ours, theirs = _of_check(a, check), _of_check(b, check)
        if any(f.outcome == "fired" for f in (*ours, *theirs)) and _told(ours) != _told(theirs):
            found.append(
                FindingDifference(
                    check=check, a=_told(ours), b=_told(theirs), message_a=_message(ours), message_b=_message(theirs)
                )
            )
    return tuple(sorted(found, key=lambda entry: min(_weight(entry.a), _weight(entry.b))))


def _of_check(side: Side, check: str) -> list[Finding]:
    return [finding for part in side.parts for finding in part.findings if finding.check == check]


def _told(findings: Sequence[Finding]) -> str:
    """`warning`, `clear`, or `error (2 of 3 seeds)`."""
    fired = [finding for finding in findings if finding.outcome == "fired"]
    if not fired:
        return findings[0].outcome.replace("_", " ") if findings else "not looked for"
    worst = min((finding.severity for finding in fired), key=SEVERITIES.index)
    return worst if len(findings) == 1 else f"{worst} ({len(fired)} of {len(findings)} seeds)"


def _message(findings: Sequence[Finding]) -> str:
    return next((finding.message for finding in findings if finding.outcome == "fired"), "")


def _weight(told: str) -> int:
    severity = told.partition(" ")[0]
    return SEVERITIES.index(severity) if severity in SEVERITIES else len(SEVERITIES)


def curves(sides: Sequence[Side]) -> tuple[tuple[Curve, ...], tuple[str, ...]]:
    """Train and eval loss of every trained run over supervised tokens, and what to know of them.

    Traces count epochs and all tokens; supervised tokens are the epochs times those of the training split, exact at the
    end of every epoch.
    """
    drawn: list[Curve] = []
    notes: list[str] = []
    trained = [side for side in sides if side.is_trained]
    for side in trained:
        for part in side.parts:
            per_epoch = _supervised_tokens(part)
            if per_epoch is None or not part.trace:
                notes.append(f"{part.result.name} left no curve.")
                continue
            found = [_curve(side, part, "loss", per_epoch), _curve(side, part, "eval_loss", per_epoch)]
            drawn += [curve for curve in found if curve.points]
            if lost := sum(_is_lost(point) for point in part.trace):
                notes.append(f"{part.result.name}: {lost} losses were not finite and can't be drawn.")
    if len({(_setting(side, "template.in_force"), _setting(side, "template.mask")) for side in trained}) > 1:
        notes.append(
            "Templates or masks differ, so that the losses are means over different tokens: compare their shapes only."
        )
    return tuple(drawn), tuple(notes)


def _setting(side: Side, name: str) -> str:
    train = side.parts[0].result.train
    return train.settings.get(name, "") if train else ""


def _supervised_tokens(part: Part) -> int | None:
    train = part.result.train
    return train.splits["train"].supervised_tokens if train and "train" in train.splits else None


def _is_lost(point: TracePoint) -> bool:
    return any(isinstance(point.values.get(name), str) for name in ("loss", "eval_loss"))


def _curve(side: Side, part: Part, name: str, per_epoch: int) -> Curve:
    series = [
        (point.epoch * per_epoch, as_float(point.values[name]))
        for point in part.trace
        if name in point.values and not isinstance(point.values[name], str)
    ]
    stride = -(-len(series) // MAX_POINTS) or 1
    # The last value is the one that is asked for first.
    kept = [*series[:-1:stride], *series[-1:]]
    return Curve(
        run=side.name,
        seed=part.result.seed if len(side.parts) > 1 else None,
        of="train" if name == "loss" else "eval",
        points=tuple(kept),
    )
