"""Why answers miss their form, as far as the kinds of failure and the settings tell."""

from collections import Counter
from collections.abc import Mapping

from harness.diagnose.answers import is_retention, this_run
from harness.diagnose.evidence import Evidence, probe_mean

STILL_HIGH = 0.5
TOKENS = ("pad_token", "stop_token")
ADVICE: Mapping[str, str] = {
    "leak": "Control tokens or role names stand inside answers: look for them in the training answers (`harness data`), and check "
    "that the tokenizer knows the template's tokens as special ones. What else it could be: an end-of-turn token that isn't the one "
    "that generation stops at.",
    "thinking": "Thinking blocks are missing, open or not asked for: render training rows as you ask, with the same enable_thinking, and "
    "train rows of both kinds where you want both. What else it could be: max_new_tokens that end inside the block.",
    "json": "Answers aren't the JSON that was asked for: add rows with this schema, and take fences and prose out of the training "
    "answers. What else it could be: JSON that max_new_tokens cut off.",
    "tool": "Tool calls are missing or malformed: add rows with calls of such tools, and render the tools in training as in inference "
    "(`harness template` shows both). What else it could be: a call that max_new_tokens cut off.",
    "prose": "Answers put prose around what was asked for: take it out of the training answers, or add rows without it.",
    "continuation": "A begun answer isn't continued but opened anew or repeated: train rows whose answers begin in the prompt, or don't "
    "use continue_final_message with this model.",
    "empty": "Answers are empty: look for empty training answers (`harness data`), and whether the model has come apart (see diverged, "
    "repetition).",
    "other": "Train longer or with more rows of the failing kind; look at the generations table.",
}
"""What to do about each family of failures but the endings, whose causes the settings tell."""


def cause_of(failures: Counter[str], evidence: Evidence) -> str:
    """What to do about the most common kind of failure, what may be behind it, and what else it could be."""
    groups: Counter[str] = Counter()
    for failure, count in failures.items():
        groups[_group(failure)] += count
    if not groups:
        return "Look at the generations table: no kind of failure was recorded."
    most = groups.most_common(1)[0][0]
    return f"{_ending(evidence) if most == 'ending' else ADVICE[most]}{this_run(evidence)}{_base(evidence)}"


def _group(failure: str) -> str:
    """The family of a failure, by how its name begins."""
    if failure in ("runs_on", "wrong_end_token"):
        return "ending"
    if failure in ("special_token_in_answer", "role_header_in_answer"):
        return "leak"
    prefixes = {
        "thinking": "thinking", "no_answer_after_thinking": "thinking", "prose_before_thinking": "thinking", "json": "json",
        "tool": "tool", "prose": "prose", "continuation": "continuation", "empty": "empty",
    }  # fmt: skip
    if "tool_call" in failure:
        return "tool"
    return next((group for prefix, group in prefixes.items() if failure.startswith(prefix)), "other")


def _ending(evidence: Evidence) -> str:
    parts = ["The model doesn't end its turn."]
    said = {item.name: item for item in evidence.verification.items} if evidence.verification else {}
    parts += [
        f"The saved checkpoint: {said[name].message}" for name in TOKENS if name in said and not said[name].passed
    ]
    if len(parts) == 1:
        parts.append(_endless(evidence))
    limit = max(
        (g.completion_tokens for label, found in evidence.generations.items() if not is_retention(evidence, label) for g in found
         if g.stop_reason == "length"), default=0,
    )  # fmt: skip
    named = f" of {limit}" if limit else ""
    parts.append(f"What else it could be: max_new_tokens{named}, too short for the answers, or too little training.")
    return " ".join(parts)


def _endless(evidence: Evidence) -> str:
    if not evidence.settings:
        return "An untuned base goes on so, and so does a model whose loss mask left the end-of-turn token out."
    return _hardly_trained(evidence) or f"{_right_but_endless(evidence)}{_outside_the_mask(evidence)}"


def _hardly_trained(evidence: Evidence) -> str:
    if len(evidence.validation) < 2:
        return ""
    before, after = probe_mean(evidence.validation[0]), probe_mean(evidence.validation[-1])
    if not after > STILL_HIGH * before:
        return ""
    return f"It has hardly learned anything yet: validation NLL went from {before:.2f} to {after:.2f} nats (see underfitting)."


def _right_but_endless(evidence: Evidence) -> str:
    """What it means that answers begin with the reference and go on."""
    for suite in evidence.suites.values():
        begins, whole = suite.metrics.get("starts_with_reference"), suite.metrics.get("exact_match")
        if begins is not None and whole is not None and begins.low > whole.high:
            return f"{begins.value:.0%} of the answers begin with the reference, {whole.value:.0%} are all of it: only their end was not learned. "
    return ""


def _outside_the_mask(evidence: Evidence) -> str:
    template, mask = (
        evidence.settings.get("template.name", "").split("/")[-1],
        evidence.settings.get("template.mask", ""),
    )
    shown = f"`harness template {template}`" if template else "`harness template`"
    return (
        f"Most likely the end-of-turn token is outside the loss mask{f' ({mask})' if mask else ''}; {shown} shows it. It is outside where pad "
        "equals eos, or where it stands outside of {% generation %}."
    )


def _base(evidence: Evidence) -> str:
    """Whether the base fails in the same way, so that training changed too little rather than the wrong thing."""
    for label, suite in evidence.suites.items():
        base = evidence.base.get(label)
        if base is None or "all" not in base.metrics or "all" not in suite.metrics:
            continue
        ours, theirs = suite.metrics["all"], base.metrics["all"]
        if ours.low <= theirs.high:
            return f" The untouched base does no worse ({theirs.value:.1%}): training has not taught this form."
        return f" The untouched base: {theirs.value:.1%}."
    return ""
