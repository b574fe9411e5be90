"""The notebook runs from its first cell to its last."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks" / "quickstart.ipynb"

nbformat = pytest.importorskip("nbformat", reason="the notebook needs nbclient: pip install nbclient ipykernel")
nbclient = pytest.importorskip("nbclient", reason="the notebook needs nbclient: pip install nbclient ipykernel")
pytest.importorskip("ipykernel", reason="the notebook needs ipykernel: pip install nbclient ipykernel")


def test_no_output_is_stored() -> None:
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_notebook_runs(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert 'Path("runs/notebook")' in cells[0].source
    cells[0].source = cells[0].source.replace('Path("runs/notebook")', f"Path({str(tmp_path)!r})")
    where = {"metadata": {"path": str(NOTEBOOK.parent)}}  # as Jupyter starts it
    nbclient.NotebookClient(notebook, kernel_name="python3", timeout=800, resources=where).execute()
    printed = {cell.source.split("\n")[-1]: str(cell.outputs) for cell in cells}
    assert "'flag': 'review'" in printed["answer"]
    assert "image/png" in printed["overlay(film, heatmap)"]
    assert (tmp_path / "report" / "index.html").exists() and (tmp_path / "baseline" / "model.safetensors").exists()
    assert "PNEUMONIA" in str(cells[-1].outputs)
