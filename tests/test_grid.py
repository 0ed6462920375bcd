"""Cells: expansion, names and ids."""

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import ConfigError
from harness.plan import plan_experiment
from tests.conftest import MINIMAL

Write = Callable[..., Path]
GRID = "grid:\n  training.learning_rate: [1e-3, 2e-3]\n  training.num_train_epochs: [1, 2]\n"


def test_grid_is_a_product_and_seeds_replicate_it(write: Write) -> None:
    made = plan_experiment(str(write(MINIMAL + GRID + "seeds: [0, 1, 2]\n")))
    assert len(made.cells) == 2 * 2 * 3
    assert made.cells[0].name == "learning_rate=0.001,num_train_epochs=1,seed=0"
    assert len({cell.group for cell in made.cells}) == 4
    assert made.packs == tuple((cell.id,) for cell in made.cells)


def test_no_grid_is_one_cell(write: Write) -> None:
    assert [cell.name for cell in plan_experiment(str(write(MINIMAL))).cells] == ["default"]


def test_variants_stand_beside_the_grid(write: Write) -> None:
    made = plan_experiment(
        str(write(MINIMAL + GRID + "variants:\n  lora:\n    adapter: {r: 8}\n    training: {max_steps: 5}\n"))
    )
    lora = made.cells[-1]
    assert lora.name == "lora"
    assert lora.config.adapter == {"r": 8}
    assert lora.config.training == {"learning_rate": 1e-3, "max_steps": 5}
    assert lora.overrides == {"adapter.r": 8, "training.max_steps": 5}


def test_same_file_gives_same_ids(write: Write) -> None:
    path = str(write(MINIMAL + GRID))
    assert [c.id for c in plan_experiment(path).cells] == [c.id for c in plan_experiment(path).cells]


def test_a_changed_cell_changes_its_own_id_only(write: Write) -> None:
    before = plan_experiment(str(write(MINIMAL + GRID))).cells
    after = plan_experiment(str(write(MINIMAL + GRID.replace("2e-3", "3e-3")))).cells
    assert [a.id == b.id for a, b in zip(before, after, strict=True)] == [True, True, False, False]


def test_changed_data_changes_the_id_and_moved_data_does_not(write: Write) -> None:
    row = '{"prompt": "p%d", "completion": "c"}\n'
    rows = "".join(row % i for i in range(60))
    yaml = "name: x\nmodel: {name: embedded:base}\ndata: {train: rows.jsonl}\n"
    write(rows, "rows.jsonl")
    first = plan_experiment(str(write(yaml))).cells[0].id
    write(rows, "sub/rows.jsonl")
    moved = plan_experiment(str(write(yaml.replace("rows.jsonl", "sub/rows.jsonl")))).cells[0].id
    write(rows + row % 99, "rows.jsonl")
    changed = plan_experiment(str(write(yaml))).cells[0].id
    assert first == moved
    assert first != changed


def test_twin_cells_are_refused(write: Write) -> None:
    path = write(MINIMAL + "variants:\n  a: {training.max_steps: 5}\n  b: {training: {max_steps: 5}}\n")
    with pytest.raises(ConfigError, match="cells a and b are the same"):
        plan_experiment(str(path))


def test_files_are_found_beside_the_experiment(write: Write, tmp_path: Path) -> None:
    write('{"prompt": "a", "completion": "b"}\n', "deep/rows.jsonl")
    path = write("name: x\nmodel: {name: embedded:base}\ndata: {train: rows.jsonl}\n", "deep/e.yaml")
    assert plan_experiment(str(path)).cells[0].config.data.train[0].path == str(tmp_path / "deep" / "rows.jsonl")
