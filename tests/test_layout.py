"""The house: each storey imports only from those above it, importing the package is fast, functions fit a screen."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STOREYS = ("config", "imaging", "data", "inference", "evaluation", "training", "hub", "app", "commands", "__main__")
MODULES = sorted((ROOT / "pneumo_hf").rglob("*.py"))
SCREEN = 60  # lines


def imported_storeys(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("pneumo_hf."):
            names.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("pneumo_hf.")}
    return names


@pytest.mark.parametrize(
    "path", [p for p in MODULES if p.parent != ROOT / "pneumo_hf" or p.stem != "__init__"], ids=str
)
def test_storeys_import_only_from_above(path: Path) -> None:
    storey = path.relative_to(ROOT / "pneumo_hf").parts[0].removesuffix(".py")
    assert storey in STOREYS
    assert {STOREYS.index(name) <= STOREYS.index(storey) for name in imported_storeys(path)} <= {True}


def test_no_circles_within_a_storey() -> None:
    graph = {}
    for path in MODULES:
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        tree = ast.parse(path.read_text())
        graph[module] = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
    graph.pop("pneumo_hf.__init__")  # loads its names on first use
    visiting, done = set(), set()

    def visit(module: str) -> None:
        assert module not in visiting, f"a circle through {module}"
        if module in graph and module not in done:
            visiting.add(module)
            for name in graph[module]:
                visit(name)
            visiting.remove(module)
            done.add(module)

    for module in graph:
        visit(module)


@pytest.mark.parametrize("path", [*MODULES, ROOT / "train_hf.py", ROOT / "app.py"], ids=str)
def test_functions_fit_a_screen(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < SCREEN, node.name


def test_importing_the_package_loads_no_torch() -> None:
    code = (
        "import sys, pneumo_hf; sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'datasets')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_public_names() -> None:
    from pneumo_hf import Predictor, load_data, load_xray

    assert all(callable(name) for name in (Predictor, load_data, load_xray))
