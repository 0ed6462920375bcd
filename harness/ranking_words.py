"""What a reader must know before believing an order, in sentences."""

from collections.abc import Iterator

import numpy as np

from harness.config import RankingConfig
from harness.configurations import MIN_SIDE, Contest
from harness.ranking_rows import Standing
from harness.stats import MIN_PAIRS

SEEDS_UNKNOWN = (
    "Seed variance unknown: every configuration was trained with one seed, so this is a ranking of these checkpoints, "
    "not of these configurations. List more `seeds` to rank configurations."
)
SEEDS_TOO_FEW = (
    "Seed variance unknown: some configurations were trained with one seed, and the others have too few to lend them theirs "
    "(four of one, or two of each of two, are enough), so this is a ranking of these checkpoints, not of these configurations."
)
SYSTEMS = (
    "These systems were imported as they are: the order takes the noise of test examples into account, and no other."
)
TOO_FEW = (
    "Only {} examples{} were scored for every cell, and {} are needed to compare: no difference is claimed. Look for prompts that "
    "are too long for a model's context, or raise `limit`."
)


def method(config: RankingConfig, contest: Contest, standing: Standing) -> str:
    """How the order was found, in one sentence."""
    if not contest.configurations:
        return "No configuration passed the gates: there is nothing to order."
    if standing.spread is None:
        return "By the mean alone: too few examples to compare."
    noise = standing.spread.noise
    crossed = (
        f"variance crossed over training seeds and examples (seed sd {np.sqrt(noise.variance):.4f}, {noise.freedom:.0f} degrees of freedom)"
        if noise
        else "variance over examples alone"
    )
    test = f"Step-down max-T over all pairs at {config.alpha:g}, {config.resamples:,} draws, {crossed}"
    agreement = f"; {standing.agreement}" if standing.agreement else ""
    if len(contest.configurations) == 1:
        return f"One configuration, so that nothing is compared: {crossed}."
    ties = "ties are listed by fewer warnings, less training time (20 % count as equal), fewer trainable parameters, higher score"
    return f"{test}{agreement}; {ties}."


def caveats(config: RankingConfig, contest: Contest, standing: Standing) -> tuple[str, ...]:
    """What limits the ranking, most important first."""
    return tuple(_caveats(config, contest, standing)) if contest.configurations else ()


def _caveats(config: RankingConfig, contest: Contest, standing: Standing) -> Iterator[str]:
    if not contest.can_compare:
        yield _too_few(contest)
        return
    yield _seeds(contest, standing)
    if contest.num_lost:
        yield (
            f"{contest.num_lost} examples count for nobody, because some configuration has no score for them; "
            "unscored is never zero."
        )
    if len(contest.configurations) > 1:
        yield _selected(config, contest, standing)
    if contest.confirm_share and not contest.can_confirm:
        yield _too_few_to_confirm(contest)


def _too_few_to_confirm(contest: Contest) -> str:
    if len(contest.confirm.ids) < MIN_SIDE:
        return (
            f"Only {len(contest.confirm.ids)} examples were kept for confirmation and {MIN_SIDE} are needed: no number is "
            "confirmed. Raise `limit` or ranking.confirm_share."
        )
    return (
        f"The {len(contest.confirm.ids)} examples that were kept for confirmation stem from {contest.confirm.num_clusters} sources, "
        f"too few or too unequal in size ({MIN_PAIRS} equal ones are needed): no number is confirmed. Raise ranking.confirm_share."
    )


def _too_few(contest: Contest) -> str:
    num_items, num_clusters = len(contest.items.ids), contest.items.num_clusters
    fewest = MIN_SIDE if contest.confirm_share else MIN_PAIRS
    if num_items >= fewest:
        if num_clusters >= MIN_PAIRS:
            return (
                f"The {num_items} examples stem from {num_clusters} sources of very unequal size, which tell as much as "
                f"{contest.items.num_independent:.1f} of equal size, and {MIN_PAIRS} are needed to compare: no difference is claimed."
            )
        return (
            f"The {num_items} examples stem from {num_clusters} sources that are independent of each other, and {MIN_PAIRS} "
            "are needed to compare: no difference is claimed."
        )
    kept = f" (beside {len(contest.confirm.ids)} kept for confirmation)" if contest.confirm_share else ""
    return TOO_FEW.format(num_items, kept, fewest)


def _seeds(contest: Contest, standing: Standing) -> str:
    assert standing.spread is not None
    if not any(contest.has_seeds):
        return SYSTEMS
    trained = [configuration for configuration in contest.configurations if configuration.is_trained]
    fewest = min(len(configuration.results) for configuration in trained)
    most = max(len(configuration.results) for configuration in trained)
    if standing.spread.noise is None:
        return SEEDS_UNKNOWN if most == 1 else SEEDS_TOO_FEW
    seeds = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    lent = "; those with one are lent the noise of the others" if fewest == 1 else ""
    few = f"; with {fewest} seed{'s' if fewest > 1 else ''} a single winner is seldom found" if fewest < 5 else ""
    return (
        f"The order and the intervals of the criterion take the noise of training seeds ({seeds} a configuration{lent}) and of "
        f"test examples into account, those of the other metrics that of examples alone{few}."
    )


def _selected(config: RankingConfig, contest: Contest, standing: Standing) -> str:
    assert standing.selection is not None and standing.spread is not None
    optimism = standing.selection.optimism
    is_optimistic = (
        f"is optimistic by about {optimism:.3f}"
        if optimism >= 0.0005
        else "is hardly optimistic, as no other came near"
    )
    if standing.spread.noise is None and any(contest.has_seeds):
        is_optimistic += "; the luck of its seed comes on top"
    selected = f"The best score was selected on the {len(contest.items.ids)} examples that it is stated for and {is_optimistic}."
    if not contest.confirm_share:
        return f"{selected} Set ranking.confirm_share to keep examples apart that confirm it."
    if not contest.can_confirm:
        return selected
    if not any(contest.has_seeds):
        rest = "The confirmed number is free of that."
    elif standing.spread.noise is None:
        rest = "The confirmed number is free of the luck of examples, not of seeds: `harness run --confirm` trains fresh ones."
    elif standing.selection.optimism_of_seeds < 0.0005:
        rest = "The confirmed number is free of the luck of examples."
    else:
        rest = (
            f"The confirmed number is free of the luck of examples; that of the seeds it was chosen with, about "
            f"{standing.selection.optimism_of_seeds:.3f}, stays, and `harness run --confirm` lessens it with fresh seeds."
        )
    return f"{selected} {rest}"
