"""What the ranking says to somebody who has to choose: the answer, its numbers, and what to do next."""

from collections.abc import Sequence
from typing import NamedTuple

from harness.config import ExperimentConfig
from harness.gates import shown, sign_of, signed
from harness.ranking import Ranking, RankingRow
from harness.records import CellResult, Estimate, Record
from harness.reports.visible import some
from harness.resources import bundled

MIN_SEEDS = 3
LEAST_SHOWN = 0.0005
NO_CELL = "No cell passed the gates, so nothing is recommended."


class Step(Record):
    """One thing to do next."""

    text: str
    command: str = ""
    """As typed into a shell; empty where there is none."""


class Fact(NamedTuple):
    """One number of the first screen."""

    label: str
    value: str
    note: str
    """How sure it is, and on how much it rests."""


def best_rows(ranking: Ranking) -> list[RankingRow]:
    """The best set, in the order of the ranking."""
    return [row for row in ranking.rows if row.in_best_set]


def answer_sentence(ranking: Ranking) -> str:
    """The answer in one sentence, with its uncertainty."""
    best = best_rows(ranking)
    if not best:
        return NO_CELL
    top, others = best[0], len(ranking.rows) - 1
    if len(best) > 1:
        return f"{some([row.name for row in best])} can't be told apart; {top.name} {_why_first(ranking, best)} ({_number(ranking, top)})."
    versus = (
        f"better than {'the other one' if others == 1 else f'each of the {others} others'}"
        if others
        else "the only one that passed the gates"
    )
    is_one_seed = top.seed_count == 1 and top.train_seconds is not None and others
    seeds = ", as far as one seed can tell" if is_one_seed else ""
    return f"{top.name} is best: {versus}{seeds} ({_number(ranking, top)})."


def _why_first(ranking: Ranking, best: Sequence[RankingRow]) -> str:
    """Inside a tie the order is not that of the values."""
    sign = sign_of(ranking.criterion)
    values = [sign * row.metrics[ranking.criterion].value for row in best]
    if values[0] == max(values):
        return "has the highest value" if sign > 0 else "has the lowest value"
    return "comes first by fewer warning signs, lower cost and size"


def _number(ranking: Ranking, top: RankingRow) -> str:
    if top.confirmed is not None:
        value = f"{shown(top.confirmed)} on {top.confirmed.n} examples that took no part in choosing{_seeds(top)}"
    else:
        value = f"{shown(top.metrics[ranking.criterion])}, n = {top.metrics[ranking.criterion].n}{_seeds(top)}"
    versus = f"; {signed(top.difference_to_base)} against the base" if top.difference_to_base else ""
    return f"{ranking.criterion} {value}{versus}"


def facts(ranking: Ranking) -> list[Fact]:
    """The numbers behind the answer: value, confirmation, distance to the base and to the runner-up, best set."""
    best = best_rows(ranking)
    if not best:
        return []
    top = best[0]
    value = top.metrics[ranking.criterion]
    unscored = f", {value.unscored} unscored" if value.unscored else ""
    selected = ""
    if len(ranking.rows) > 1:
        by = f" by about {ranking.optimism:.3f}" if (ranking.optimism or 0) >= LEAST_SHOWN else ""
        selected = f"; selected on these examples, so optimistic{by}"
    found = [Fact(ranking.criterion, shown(value), f"n = {value.n}{unscored}{_seeds(top)}{selected}")]
    if top.confirmed is not None:
        note = f"on {top.confirmed.n} examples that took no part in choosing{_seeds(top)}"
        found.insert(0, Fact(f"{ranking.criterion}, confirmed", shown(top.confirmed), note))
    if top.difference_to_base is not None:
        found.append(Fact("against the base", signed(top.difference_to_base), _verdict(top.difference_to_base)))
    runner_up = ranking.rows[1] if len(ranking.rows) > 1 else None
    if runner_up is not None and runner_up.difference_to_best is not None:
        ahead = _negated(runner_up.difference_to_best)
        found.append(Fact("against the runner-up", signed(ahead), f"{runner_up.name}; {_verdict(ahead)}"))
    share = f"{len(best)} of {len(ranking.rows)}"
    excluded = f"; {len(ranking.excluded)} not ranked" if ranking.excluded else ""
    found.append(Fact("best set", share, f"nothing ranked is surely better than {'these' if len(best) > 1 else 'this'}{excluded}"))  # fmt: skip
    return found


def _seeds(row: RankingRow) -> str:
    """`, 3 seeds`; nothing of imported predictions, which nobody trained here."""
    return f", {_counted(row.seed_count)}" if row.train_seconds is not None else ""


def _counted(seeds: int) -> str:
    return f"{seeds} seed{'s' if seeds != 1 else ''}"


def _negated(estimate: Estimate) -> Estimate:
    return estimate.model_copy(update={"value": -estimate.value, "low": -estimate.high, "high": -estimate.low})


def _verdict(difference: Estimate) -> str:
    """Whether a paired difference has a sure sign."""
    sure = difference.low > 0 or difference.high < 0
    return f"paired over {difference.n} examples; {'its 95 % interval leaves out zero' if sure else 'not surely different'}"


def experiment_argument(config: ExperimentConfig) -> str:
    """What `harness run` is given: the name of a bundled experiment, else its file."""
    return config.name if (bundled("experiments") / f"{config.name}.yaml").is_file() else f"{config.name}.yaml"


def next_steps(config: ExperimentConfig, ranking: Ranking, cells: Sequence[CellResult]) -> list[Step]:
    """What to do with this answer, the most urgent first."""
    name, best = experiment_argument(config), best_rows(ranking)
    steps = []
    if any(cell.status != "finished" for cell in cells):
        text = "Some cells failed; their reasons are below. Mend them and run again: finished cells are kept."
        steps.append(Step(text=text, command=f"harness run {name}"))
    if any("not trained yet" in row.reason for row in ranking.excluded):
        steps.append(Step(text="Some cells are not trained yet; this ranking is without them.", command=f"harness run {name}"))  # fmt: skip
    if not best:
        text = "Read the reasons for exclusion below; where a gate is stricter than you need, rank with another one."
        return [*steps, Step(text=text, command=f"harness rank {name} --gate 'no error findings'")]
    steps += _more_evidence(config, ranking, best, name)
    return steps if config.is_predictions_alone else [*steps, _promotion(best, config.name)]


def _more_evidence(config: ExperimentConfig, ranking: Ranking, best: Sequence[RankingRow], name: str) -> list[Step]:
    steps = []
    is_choice = len(ranking.rows) > 1
    fewest = min(row.seed_count for row in best)
    can_train = is_choice and not config.is_predictions_alone
    if can_train and fewest < MIN_SEEDS:
        text = (
            f"Train the best set with {config.ranking.confirm_seeds} seeds before you trust the order: seeds differ, "
            f"and {_counted(fewest)} can't show by how much."
        )
        steps.append(Step(text=text, command=f"harness run {name} --confirm"))
    elif can_train and len(best) > 1 and fewest < config.ranking.confirm_seeds:
        text = f"Tell the best set apart with {config.ranking.confirm_seeds} seeds of it alone."
        steps.append(Step(text=text, command=f"harness run {name} --confirm"))
    if len(best) > 1 and ranking.minimum_detectable_difference is not None:
        least = ranking.minimum_detectable_difference
        text = (
            f"Differences below about {least:.3f} can't be seen with {ranking.num_examples} examples; half of that takes "
            f"about four times as many. If less than that wouldn't change your mind, take the cheapest of the best set"
        )
        cheapest = min((row for row in best if row.train_seconds), key=lambda row: row.train_seconds or 0, default=None)
        steps.append(Step(text=f"{text}, {cheapest.name}." if cheapest else f"{text}."))
    if is_choice and not ranking.num_confirm_examples:
        text = (
            "Keep examples apart that take no part in choosing (`ranking.confirm_share: 0.3`), so that the winner's "
            "published number isn't the one that it won with."
        )
        steps.append(Step(text=text))
    if ranking.not_comparable:
        steps.append(
            Step(text="Look at what differs between cells although nobody swept it: it may explain the order.")
        )
    return steps


def _promotion(best: Sequence[RankingRow], name: str) -> Step:
    top = best[0]
    warned = list(dict.fromkeys(finding.check for finding in top.findings if finding.is_warning))
    if warned:
        text = f"Read the warning signs of {top.name} ({some(warned)}) first. Then register it in MLflow, with the evidence."
    else:
        text = f"When that is enough, register {top.name} in MLflow, with the evidence."
    return Step(text=text, command=f"harness promote {top.cell} --as {name}")
