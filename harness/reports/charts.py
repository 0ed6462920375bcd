"""Every chart of the report: its identifier, its words and its Vega-Lite specification."""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from harness.reports.adherence_figure import adherence_picture, adherence_rates, adherence_suites
from harness.reports.content import Content
from harness.reports.cost_figures import MEASURES, cost_picture, tradeoff_picture
from harness.reports.curves_figure import curves_picture, drawn_cells
from harness.reports.drawing import Drawing, drawings_of, on_paper
from harness.reports.effect_figures import bounds_of, effect_picture, pair_picture
from harness.reports.figures import Picture, Spec
from harness.reports.ranking_figure import ranking_picture
from harness.store import write_text

MAX_PAIRS = 6
"""So many pairs of swept fields are drawn, those with the strongest interaction."""


class Chart(NamedTuple):
    """One picture, interactive in the page and static elsewhere."""

    id: str
    """Its section (ranking, effects, effect_pairs, curves, adherence, cost, tradeoff), with `-2`, `-3`... where that has more."""
    title: str
    alt: str
    """What the picture shows, in words and numbers."""
    spec: Spec


def charts_of(content: Content) -> dict[str, Chart]:
    """Id -> chart, in the order of the report; a chart that would show nothing is absent."""
    count: dict[str, Iterator[int]] = {}
    charts: dict[str, Chart] = {}
    for section, picture in _pictures(content):
        if picture is not None:
            number = next(count.setdefault(section, itertools.count(1)))
            key = section if number == 1 else f"{section}-{number}"
            charts[key] = Chart(key, *picture)
    return charts


def _pictures(content: Content) -> Iterator[tuple[str, Picture | None]]:
    ranking = content.ranking
    yield "ranking", ranking_picture(ranking)
    for other in ranking.secondary or content.config.ranking.secondary:
        yield "tradeoff", tradeoff_picture(ranking, other)
    for effect in content.effects:
        yield "effects", effect_picture(effect, ranking.criterion, bounds_of(content.effects))
    for pair in content.pairs[:MAX_PAIRS]:
        yield "effect_pairs", pair_picture(pair, ranking.criterion)
    seen = drawn_cells(content.cells, ranking)
    yield "curves", curves_picture(seen, content.traces, content.effects, len(content.cells))
    everyone = [*content.cells, *content.references]
    for suite in adherence_suites(everyone):
        yield "adherence", adherence_picture(adherence_rates(everyone, suite), suite)
    for measure in MEASURES:
        yield "cost", cost_picture(ranking, content.costs, measure)


def drawn(charts: Mapping[str, Chart]) -> dict[str, Drawing]:
    """Id -> pictures of every chart."""
    return dict(zip(charts, drawings_of([chart.spec for chart in charts.values()]), strict=True))


def write_static(drawings: Mapping[str, Drawing], folder: Path) -> list[Path]:
    """Writes `charts/ID.svg` and `charts/ID.png` of every chart, on white.

    Returns: the files.
    """
    files = []
    for name, drawing in drawings.items():
        svg, png = (folder / "charts" / f"{name}.{suffix}" for suffix in ("svg", "png"))
        write_text(svg, on_paper(drawing.svg))
        png.write_bytes(drawing.png)
        files += [svg, png]
    return files
