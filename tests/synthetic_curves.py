"""Made-up trainings: healthy ones of many kinds, and faults planted into them."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.diagnose.evidence import Evidence, Point, Sibling
from harness.records import Probe

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Recipe:
    """What a training is like."""

    num_steps: int
    every: int
    """Steps between two logged losses, each the mean over them."""
    start: float
    floor: float
    quick: float
    """Steps after which most of the fall is over."""
    noise: float
    """Standard deviation of the log of a batch's difficulty."""
    epochs: float


def recipe(rng: np.random.Generator) -> Recipe:
    """A healthy training: a base that knows the rows or not, easy or hard rows, any length and logging.

    The noise is at most twice what the real healthy curves show: 0.28 of the level, 0.17 nats.
    """
    num_steps = int(np.exp(rng.uniform(np.log(60), np.log(6000))))
    every = int(rng.choice([every for every in (1, 1, 5, 10, 50) if num_steps / every >= 25]))
    start = float(np.exp(rng.uniform(np.log(0.4), np.log(5.0))))
    share = float(rng.choice([rng.uniform(0.85, 0.94), rng.uniform(0.3, 0.85), rng.uniform(0.05, 0.3)]))
    noise = float(rng.uniform(0.02, min(0.3, 0.35 / start)))
    return Recipe(
        num_steps, every, start, start * share, num_steps * float(rng.uniform(0.01, 0.15)), noise, float(rng.choice([0.5, 1, 2, 3])),
    )  # fmt: skip


def expected_loss(made: Recipe, rng: np.random.Generator) -> Array:
    """Mean loss at every step: a warm-up, then a power law or an exponential with a slow decline."""
    at = np.arange(made.num_steps) / made.quick
    at = np.maximum(at - rng.uniform(0, 0.5), 0)
    power = (1 + 3 * at) ** -rng.uniform(0.6, 1.2)
    exponential = 0.9 * np.exp(-at) + 0.1 * (1 - np.arange(made.num_steps) / made.num_steps)
    shape = power if rng.random() < 0.5 else exponential
    return made.floor + (made.start - made.floor) * shape


def batch_noise(made: Recipe, rng: np.random.Generator) -> Array:
    """Factor of mean 1 for every step: how hard its batch is, in one of four shapes."""
    sd, size = made.noise, made.num_steps
    normal = rng.standard_normal(size)
    kind = rng.integers(4)
    if kind == 0:
        return np.maximum(1 + min(sd, 0.2) * normal, 0.2)
    if kind == 1:
        return np.exp(sd * normal - sd**2 / 2)
    if kind == 2:
        return rng.gamma(1 / sd**2, sd**2, size)
    slow = np.convolve(rng.standard_normal(size), np.full(5, 1 / np.sqrt(5)), mode="same")
    return np.exp(0.7 * sd * normal + 0.2 * sd * slow)


def logged(values: Array, every: int) -> list[Point]:
    """Means over the steps since the last log, as the Trainer logs them."""
    count = len(values) // every
    means = values[: count * every].reshape(count, every).mean(axis=1)
    return [Point((i + 1) * every, float(mean)) for i, mean in enumerate(means)]


def healthy(seed: int) -> Evidence:
    """A healthy training: losses, gradient norms, evaluations of the same rows, epochs, schedule."""
    rng = np.random.default_rng(seed)
    return trained(recipe(rng), rng)


def trained(made: Recipe, rng: np.random.Generator) -> Evidence:
    """What a recipe logs."""
    mean = expected_loss(made, rng)
    norms = rng.uniform(0.1, 3) * (1 + 3 * np.exp(-np.arange(made.num_steps) / made.quick)) * np.exp(
        rng.uniform(0.1, 0.4) * rng.standard_normal(made.num_steps)
    )  # fmt: skip
    loss = logged(mean * batch_noise(made, rng), made.every)
    spacing = max(1, made.num_steps // int(rng.integers(5, 15)))
    # Where a base already knows its rows, only an evaluation before training tells a small fall from none.
    knows = made.floor > 0.8 * made.start
    at = range(0 if knows or rng.random() < 0.5 else spacing, made.num_steps + 1, spacing)
    gap = rng.uniform(0.9, 1.15)
    evals = [
        Point(t, float(gap * mean[min(max(t - 1, 0), made.num_steps - 1)] * np.exp(0.003 * rng.standard_normal())))
        for t in at
    ]
    rates = np.cos(np.linspace(0, math.pi / 2, made.num_steps)) * 2e-4
    return Evidence(
        loss=loss,
        grad_norm=[Point(p.step, float(norms[p.step - 1])) for p in loss],
        eval_loss=evals,
        learning_rate=[Point(p.step, float(rates[p.step - 1])) for p in loss],
        epochs=[Point(p.step, made.epochs * p.step / made.num_steps) for p in loss],
        settings={"training.learning_rate": "0.0002", "training.num_train_epochs": "3"},
        planned_steps=made.num_steps,
        is_finished=True,
    )


def with_losses(found: Evidence, change: Callable[[Array], Array]) -> Evidence:
    """The same training with other losses."""
    values = change(np.array([point.value for point in found.loss]))
    loss = [Point(point.step, float(value)) for point, value in zip(found.loss, values, strict=True)]
    return dataclasses.replace(found, loss=loss)


def prefix(found: Evidence, step: int) -> Evidence:
    """What was logged up to a step."""
    cut = {
        name: [point for point in getattr(found, name) if point.step <= step]
        for name in ("loss", "grad_norm", "eval_loss", "learning_rate", "epochs")
    }
    probes = {
        name: [probe for probe in getattr(found, name) if probe.step <= step] for name in ("validation", "train_probe")
    }
    return dataclasses.replace(found, **cut, **probes, is_finished=None)


def _of_size(seed: int) -> tuple[Recipe, np.random.Generator]:
    """A training that learns something and is logged often enough for its faults to show."""
    rng = np.random.default_rng(seed)
    made = recipe(rng)
    start = float(rng.uniform(1.5, 4))
    made = dataclasses.replace(
        made, num_steps=int(rng.integers(200, 2000)), every=int(rng.choice([1, 1, 2, 4])), start=start,
        floor=start * float(rng.uniform(0.2, 0.7)), noise=float(rng.uniform(0.02, 0.15)),
    )  # fmt: skip
    return dataclasses.replace(made, quick=made.num_steps * float(rng.uniform(0.02, 0.1))), rng


def nan_loss(seed: int) -> Evidence:
    made, rng = _of_size(seed)
    at = int(rng.integers(10, 40))
    return with_losses(trained(made, rng), lambda losses: np.where(np.arange(len(losses)) >= at, np.nan, losses))


def blown_up(seed: int) -> Evidence:
    """It leaves its course for good at some step and ends above its start, as when the rate is far too high."""
    made, rng = _of_size(seed)
    at, factor = float(rng.uniform(0.05, 0.6)), float(rng.uniform(1.4, 4))

    def change(losses: Array) -> Array:
        after = np.maximum(np.arange(len(losses)) / len(losses) - at, 0)
        rise = 1 - np.exp(-after / 0.05)
        return losses * (1 - rise) + rise * made.start * factor * losses / np.median(losses)

    return dataclasses.replace(with_losses(trained(made, rng), change), eval_loss=[])


def early_hump(seed: int) -> Evidence:
    """It shoots up at the start, for at least eight logged steps, and comes back."""
    made, rng = _of_size(seed)
    factor = float(rng.uniform(1.2, 3))
    width = max(float(rng.uniform(0.02, 0.1)), 8 * made.every / made.num_steps)

    def change(losses: Array) -> Array:
        at = np.arange(len(losses)) / len(losses) / width
        return losses + factor * made.start * at * np.exp(1 - at)

    return dataclasses.replace(with_losses(trained(made, rng), change), eval_loss=[])


def spiked(seed: int) -> Evidence:
    """One step far out, by ten times the noise and at least by a half."""
    made, rng = _of_size(seed)
    made = dataclasses.replace(made, every=1)
    at = int(rng.integers(40, made.num_steps - 12))
    factor = max(1.5, math.exp(10 * made.noise))
    return with_losses(trained(made, rng), lambda losses: losses * np.where(np.arange(len(losses)) == at, factor, 1))


def exploded(seed: int) -> Evidence:
    """The gradient norm grows tenfold and more at some step, and the loss with it."""
    made, rng = _of_size(seed)
    found = trained(made, rng)
    at = int(len(found.loss) * rng.uniform(0.3, 0.8))
    factor = float(rng.uniform(20, 100))
    norms = [Point(p.step, p.value * (factor if at <= i < at + 8 else 1)) for i, p in enumerate(found.grad_norm)]
    bump = np.zeros(len(found.loss))
    bump[at : at + 25] = np.exp(-np.arange(25) / 8)[: len(bump) - at]
    changed = with_losses(found, lambda losses: losses * (1 + bump * float(rng.uniform(0.6, 2))))
    return dataclasses.replace(changed, grad_norm=norms)


def flat(seed: int) -> Evidence:
    """It learns nothing."""
    made, rng = _of_size(seed)
    made = dataclasses.replace(made, floor=made.start * float(rng.uniform(0.99, 1.0)))
    return dataclasses.replace(trained(made, rng), eval_loss=[])


def overfitted(seed: int) -> Evidence:
    """Training loss falls on while evaluations rise again by 8 % to 60 % from their best."""
    made, rng = _of_size(seed)
    found = trained(dataclasses.replace(made, floor=made.start * 0.2), rng)
    share = np.linspace(0, 1, 10)
    best = int(rng.integers(2, 7))
    low, rise = made.start * 0.6, float(rng.uniform(0.08, 0.6))
    shape = np.where(
        np.arange(10) <= best,
        low + (made.start - low) * (1 - share / share[best]) ** 2,
        low * (1 + rise * (share - share[best]) / (1 - share[best])),
    )
    falling = with_losses(found, lambda losses: losses * np.linspace(1, 0.6, len(losses)))
    evals = [Point(int((s * 0.95 + 0.05) * made.num_steps), float(v)) for s, v in zip(share, shape, strict=True)]
    return dataclasses.replace(falling, eval_loss=evals)


def wide_gap(seed: int) -> Evidence:
    """A single evaluation, 3.5 to 20 times the training loss."""
    made, rng = _of_size(seed)
    found = trained(dataclasses.replace(made, floor=made.start * 0.05), rng)
    tail = float(np.median([point.value for point in found.loss[-len(found.loss) // 5 :]]))
    return dataclasses.replace(found, eval_loss=[Point(made.num_steps, tail * float(rng.uniform(3.5, 20)) + 0.1)])


def slow(seed: int) -> Evidence:
    """Evaluations fall by a tenth of what the training loss does."""
    made, rng = _of_size(seed)
    made = dataclasses.replace(made, floor=made.start * 0.3, quick=made.num_steps * 0.4)
    found = trained(made, rng)
    share = np.linspace(0.1, 1, 9)
    mean = expected_loss(made, np.random.default_rng(0))
    evals = [
        Point(int(s * made.num_steps), float(made.start * (mean[int(s * made.num_steps) - 1] / made.start) ** 0.1))
        for s in share
    ]
    return dataclasses.replace(found, eval_loss=evals)


def summed(seed: int) -> Evidence:
    """The training loss is summed over 2 to 32 accumulated batches."""
    made, rng = _of_size(seed)
    found = dataclasses.replace(trained(made, rng), is_finished=True)
    return with_losses(found, lambda losses: losses * float(rng.choice([2, 4, 8, 16, 32])))


def rough(seed: int) -> Evidence:
    """It jumps by most of a nat from step to step at a loss that stays high."""
    made, rng = _of_size(seed)
    found = trained(dataclasses.replace(made, start=6.0, floor=float(rng.uniform(4, 5.5)), noise=0.02, every=1), rng)
    sd = float(rng.uniform(0.65, 1.5))
    jumpy = with_losses(found, lambda losses: np.maximum(losses + sd * rng.standard_normal(len(losses)), 0.5))
    return dataclasses.replace(jumpy, eval_loss=[])


def probed(seed: int, *, last: float, sibling_last: float, sibling_rate: float) -> Evidence:
    """A training at 2e-4 with 40 probed validation rows, and a sibling at another rate."""
    made, rng = _of_size(seed)
    rows = rng.uniform(0.5, 1.5, 40)

    def probe(step: int, level: float) -> Probe:
        nll = rows * level * np.exp(0.03 * rng.standard_normal(40))
        return Probe(step=step, split="validation", nll=tuple(nll.tolist()), tokens=(10,) * 40)

    return dataclasses.replace(
        trained(made, rng),
        eval_loss=[],
        validation=[probe(0, made.start), probe(made.num_steps, made.start * last)],
        siblings=[Sibling("the other", sibling_rate, probe(made.num_steps, made.start * sibling_last))],
    )


def rate_too_high(seed: int) -> Evidence:
    """A hump at the start, and a sibling at a tenth of the rate that did better."""
    found = probed(seed, last=0.8, sibling_last=0.3, sibling_rate=2e-5)
    return dataclasses.replace(found, loss=early_hump(seed).loss)


def rate_too_low(seed: int) -> Evidence:
    """A sibling at ten times the rate learned far more."""
    return probed(seed, last=0.9, sibling_last=0.3, sibling_rate=2e-3)


def still_falling(seed: int) -> Evidence:
    """Straight down until its last step, by 60 % to 85 % in all."""
    made, rng = _of_size(seed)
    found = trained(made, rng)
    end = float(rng.uniform(0.15, 0.4))
    noise = np.exp(0.05 * rng.standard_normal(len(found.loss)))
    return with_losses(found, lambda losses: made.start * np.linspace(1, end, len(losses)) * noise)


def cut_off(seed: int) -> Evidence:
    """Nothing logged for an hour, half-way."""
    found = healthy(seed)
    half = prefix(found, (found.planned_steps or 0) // 2)
    return dataclasses.replace(half, is_finished=False, idle_seconds=3600.0)


def hardly_begun(seed: int) -> Evidence:
    """A fiftieth of the plan."""
    made, rng = _of_size(seed)
    return dataclasses.replace(trained(made, rng), planned_steps=50 * made.num_steps, is_finished=False)


FAULTS: Mapping[str, tuple[Callable[[int], Evidence], str]] = {
    "nan_loss": (nan_loss, "non_finite"),
    "blown_up": (blown_up, "diverged"),
    "early_hump": (early_hump, "learning_rate_too_high"),
    "rough": (rough, "learning_rate_too_high"),
    "rate_too_high": (rate_too_high, "learning_rate_too_high"),
    "rate_too_low": (rate_too_low, "learning_rate_too_low"),
    "spiked": (spiked, "loss_spike"),
    "exploded": (exploded, "gradient_explosion"),
    "flat": (flat, "underfitting"),
    "overfitted": (overfitted, "overfitting"),
    "wide_gap": (wide_gap, "gap_growth"),
    "slow": (slow, "slow_validation"),
    "summed": (summed, "scale_mismatch"),
    "still_falling": (still_falling, "still_improving"),
    "cut_off": (cut_off, "stalled"),
    "hardly_begun": (hardly_begun, "too_short"),
}
"""Fault -> how it is made, and the check that must fire."""
