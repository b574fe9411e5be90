"""The package stays easy to read and quick to start; import-linter holds its layers (pyproject.toml)."""

import ast
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest

from pneumo_hf.config.arguments import GROUPS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pneumo_hf"
MODULES = sorted(PACKAGE.rglob("*.py"))
SOURCES = [*MODULES, ROOT / "train_hf.py", ROOT / "app.py"]
FUNCTION_LINES = 60
MODULE_LINES = 300
COMMANDS = (
    "audit",
    "prepare",
    "evaluate",
    "predict",
    "listen",
    "compare",
    "recalibrate",
    "monitor",
    "tune",
    "export",
    "push",
)
HELPS = ["train_hf.py", "-m pneumo_hf", *(f"-m pneumo_hf {name}" for name in COMMANDS)]
HEAVY = {"torch", "transformers", "datasets", "sklearn", "matplotlib"}
FORMER_WORDS = re.compile(
    r"washed|half the way|goes on|spoilt|anew|\btells\b|\blearnt\b|coarsen|frame_mix|rim\b", re.IGNORECASE
)


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported_modules(path: Path) -> Iterator[str]:
    """What a file imports by `from`, in functions too; of `from package import module` the module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_no_module_imports_itself_through_others() -> None:
    graph = {}
    for path in MODULES:
        if path != PACKAGE / "__init__.py":  # loads its names on first use
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            graph[module] = set(imported_modules(path)) - {module}
    visiting, done = [], set()

    def visit(module: str) -> None:
        assert module not in visiting, " -> ".join([*visiting, module])
        if module in graph and module not in done:
            visiting.append(module)
            for name in graph[module]:
                visit(name)
            visiting.remove(module)
            done.add(module)

    for module in graph:
        visit(module)


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_modules_and_functions_are_short(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= MODULE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < FUNCTION_LINES, node.name


def import_times(*command: str) -> tuple[dict[str, float], str]:
    """Run Python: the seconds that each imported module took, those below it included, and what it printed."""
    command = (sys.executable, "-X", "importtime", *command)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    rows = re.findall(r"^import time: +\d+ \| +(\d+) \| +(\S+)$", done.stderr, re.MULTILINE)
    return {name: int(microseconds) / 1e6 for microseconds, name in rows}, done.stdout


def test_importing_the_package_is_fast_and_loads_nothing_heavy() -> None:
    times, _ = import_times("-c", "import pneumo_hf")
    assert times["pneumo_hf"] < 0.3
    assert not HEAVY & times.keys()


def processor_seconds() -> float:
    """What the child processes that have ended took of the processors: other work on this machine does not count."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("command", HELPS)
def test_help_is_quick_and_shows_each_option_once(command: str) -> None:
    before = processor_seconds()
    times, text = import_times(*command.split(), "--help")
    assert processor_seconds() - before < 2
    assert not HEAVY & times.keys()
    listed = text.split("\noptions:\n")[-1]  # behind the usage
    shown = re.findall(r"^ +(?:-\w, )?(--\w+)", listed, re.MULTILINE)
    assert len(shown) == len(set(shown))
    if command == "train_hf.py":
        assert {f"--{field.name}" for group in GROUPS for field in fields(group)} <= set(shown)


def test_every_command_is_measured_here() -> None:
    from pneumo_hf.__main__ import COMMANDS as offered

    assert set(offered) == set(COMMANDS)


def test_public_names() -> None:
    import pneumo_hf

    assert all(callable(getattr(pneumo_hf, name)) for name in pneumo_hf.__all__)


def test_scripts_import_what_the_package_has() -> None:
    scripts = [path for name in ("data", "docs", "benchmarks") for path in (ROOT / name).glob("*.py")]
    assert len(scripts) > 5
    for path in scripts:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pneumo_hf"):
                module = import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), f"{relative(path)}: {node.module}"


def test_former_words_are_gone() -> None:
    folders = [
        path for name in ("pneumo_hf", "configs", "docs", "benchmarks", "data") for path in (ROOT / name).rglob("*")
    ]
    found = []
    for path in [*folders, ROOT / "README.md"]:
        if not path.is_file() or b"\0" in path.read_bytes() or path == PACKAGE / "config" / "aliases.py":
            continue
        lines = enumerate(path.read_text(errors="replace").splitlines(), start=1)
        found += [f"{relative(path)}:{number}: {line[:90]}" for number, line in lines if FORMER_WORDS.search(line)]
    assert not found, "\n".join(found[:20])
