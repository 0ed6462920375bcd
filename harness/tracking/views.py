"""A saved view of the MLflow experiment page: the swept fields and main metrics as columns, the best run first, charts."""

import json
import time
from collections.abc import Collection
from typing import Any, NamedTuple

from harness.gates import sign_of
from harness.tracking.connection import client, deliver

VIEW = "harness"
# As the UI's own "Save view" writes it.
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
# Opens the view, and the UI's pages on model training instead of those on applications.
VIEW_QUERY = f"viewStateShareKey={VIEW}&workflowType=machine_learning"
CURVES = {
    "Loss": ("loss", "train_probe_loss", "eval_loss"),
    "Learning rate": ("learning_rate",),
    "Gradient norm": ("grad_norm",),
    "Token accuracy": ("mean_token_accuracy", "eval_mean_token_accuracy"),
}
COST = ("train_seconds",)


class Shown(NamedTuple):
    """What the view shows, by its names in MLflow."""

    criterion: str
    metrics: tuple[str, ...]
    """Beside the criterion."""
    params: tuple[str, ...]
    """The swept ones."""
    axes: tuple[str, ...]
    """Those of them that every cell has."""


def logged_name(metric: str, whole: Collection[str]) -> str:
    """What MLflow calls a metric: those of one slice stand in a group of their own."""
    return metric if metric in whole else f"slices/{metric}"


def save_view(experiment_id: str, shown: Shown) -> None:
    """Writes the view where it changed; the UI lists it under Views, and `viewStateShareKey` in an address opens it."""
    state = json.dumps(_state(shown))
    store = client()

    def send() -> None:
        known = store.get_experiment(experiment_id).tags.get(VIEW_TAG)
        if known is not None and json.loads(known)["state"] == state:
            return
        now = int(1000 * time.time())
        store.set_experiment_tag(
            experiment_id,
            VIEW_TAG,
            json.dumps({"name": "Ranking", "createdAt": now, "updatedAt": now, "state": state}),
        )

    deliver("view", send)


def _state(shown: Shown) -> dict[str, Any]:
    columns = [
        *(f"params.`{name}`" for name in shown.params),
        *(f"metrics.`{name}`" for name in (shown.criterion, *shown.metrics, *COST)),
        "tags.`harness.warnings`",
    ]
    charts, sections = _charts(shown)
    return {
        "searchFilter": "",
        "orderByKey": f"metrics.`{shown.criterion}`",
        "orderByAsc": sign_of(shown.criterion) < 0,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": columns,
        "runsHiddenMode": "FIRST_20_RUNS",
        "hideEmptyCharts": True,
        # The UI would sort the sections by name.
        "isAccordionReordered": True,
        "compareRunCharts": charts,
        "compareRunSections": sections,
    }


def _charts(shown: Shown) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Bars of the main metrics, what the sweep does to them, and curves; the UI adds a chart for any other metric."""
    charts = [_chart("BAR", "Ranking", metricKey=name, displayName=name) for name in (shown.criterion, *shown.metrics)]
    if shown.axes:
        axes = {"selectedParams": list(shown.axes), "selectedMetrics": [shown.criterion]}
        charts.append(_chart("PARALLEL", "Ranking", name="sweep", showAllRuns=True, **axes))
    charts += [
        _chart("LINE", "Curves", metricKey=names[0], selectedMetricKeys=list(names), displayName=title, xAxisKey="step")
        for title, names in CURVES.items()
    ]
    folded = ("Model metrics", "slices", "sweep", "System metrics")
    sections = [_section(name, is_open=True) for name in ("Ranking", "Curves")]
    return charts, [*sections, *(_section(name, is_open=False) for name in folded)]


def _chart(kind: str, section: str, *, name: str = "", **settings: object) -> dict[str, Any]:
    identity = {"uuid": f"{section}/{name or settings['displayName']}", "metricSectionId": section, "type": kind}
    return {**identity, "runsCountToCompare": 20, "deleted": False, "isGenerated": False, **settings}


def _section(name: str, *, is_open: bool) -> dict[str, Any]:
    return {
        "uuid": name,
        "name": name,
        "display": is_open,
        "isReordered": False,
        "deleted": False,
        "isGenerated": not is_open,
    }
