"""What is said of names that stand for no single cell."""

from pathlib import Path

import pytest

from harness.errors import ConfigError
from harness.store import experiment_folder, write_record
from harness.targets import find_cell
from tests.helpers import cell_result


@pytest.mark.parametrize("name", ["lora", "grid/lora"])
def test_a_configuration_with_several_seeds_names_its_cells(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = experiment_folder("grid")
    folder.config.parent.mkdir(parents=True)
    folder.config.write_text("{}")
    for seed in (0, 1):
        result = cell_result(f"lora,seed={seed}", group="g", seed=seed)
        write_record(folder.cell(result.cell).result, result)
    with pytest.raises(ConfigError, match=r"several seeds; name one of its cells: lora,seed=0, lora,seed=1$"):
        find_cell(name)
