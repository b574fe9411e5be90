"""How commands start: what takes seconds to import is not imported for nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("datasets", "pandas", "pyarrow", "scipy", "sklearn", "kornia", "captum", "matplotlib", "onnx", "gradio")
COMPILER = ("torch._dynamo", "sympy", "torch.distributed.tensor")
RUN = """
import runpy, sys
sys.argv = [name, *given]
try:
    runpy.run_module("pneumo_hf", run_name="__main__")
finally:
    print(*sys.modules, file=sys.stderr)
"""


def modules_of(*given: str) -> set[str]:
    """Run a command, and return what it has imported at its end."""
    code = f"name, given = 'pneumo-hf', {list(given)}\n{RUN}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("command", [[], ["predict"], ["evaluate"]])
def test_help_imports_nothing_large(command: list[str]) -> None:
    assert not modules_of(*command, "--help") & {*HEAVY, *COMPILER, "torch", "transformers", "numpy", "PIL"}


def test_predict_imports_what_it_calls(tiny_run: Path, films_folder: Path, tmp_path: Path) -> None:
    film, output = next((films_folder / "test" / "NORMAL").iterdir()), tmp_path / "preds.csv"
    found = modules_of("predict", "--model", str(tiny_run), str(film), "--device", "cpu", "--output", str(output))
    assert output.read_text().count("\n") == 2
    assert "torch" in found and not found & {*HEAVY, *COMPILER}


def test_after_a_light_import_torchs_compiler_and_distributed_are_there() -> None:
    code = (
        "from pneumo_hf.runtime import import_for_scoring; import_for_scoring(); import torch, torch._dynamo, sys; "
        "assert 'transformers.modeling_utils' in sys.modules and torch.distributed.is_available(); "
        "from scipy.optimize import linear_sum_assignment; assert linear_sum_assignment([[1.0]])[0] == [0]; "
        "from transformers import Trainer, ResNetForImageClassification; "
        "assert torch.compile(torch.nn.ReLU(), backend='eager')(torch.ones(1)) == 1"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
