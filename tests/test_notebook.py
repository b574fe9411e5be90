"""The notebook runs from its first cell to its last, as a newcomer runs it."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_quickstart_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # threads of tests side by side would wait for each other
    notebook = nbformat.read(ROOT / "notebooks" / "quickstart.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # none is committed
    for name in ("models", "data", "docs", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output
    )
    assert "roc_auc 0.987 [0.978, 0.993]" in printed
    assert (tmp_path / "runs" / "notebook" / "report" / "index.html").exists()
