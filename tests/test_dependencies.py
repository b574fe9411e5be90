"""What is declared is what is imported, and the lists of versions agree with each other."""

import ast
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
PACKAGE_OF = {  # of modules that are called otherwise than the package they come in
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
    "griffe": "griffelib",
    "docx": "python-docx",
}
BROUGHT = {"spaces", "mcp"}  # by the Hub's own machines, by gradio[mcp]


def bounds(requirements: list[str]) -> dict[str, str]:
    """Map each package to its bounds; an extra of our own stands for what it asks for."""
    found: dict[str, str] = {}
    for requirement in requirements:
        name, extras, bound = re.fullmatch(r"([\w-]+)(?:\[([\w,]+)\])?([^#]*)", requirement.strip()).groups()
        if name == "pneumo-hf":
            found |= bounds([inner for extra in extras.split(",") for inner in EXTRAS[extra]])
        else:
            found[name.lower()] = bound.strip()
    return found


def pinned(file: str) -> dict[str, str]:
    lines = (ROOT / file).read_text().splitlines()
    return {
        name.lower().replace("_", "-"): version
        for name, version in (line.split("==") for line in lines if "==" in line)
    }


def imported(*places: str) -> set[str]:
    files = [file for place in places for file in sorted(ROOT.glob(place))]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    ours = {file.stem for file in files} | {"pneumo_hf", "train_hf", "tests", "docs"}
    foreign = {module.split(".")[0] for module in modules} - set(sys.stdlib_module_names) - ours - BROUGHT
    return {PACKAGE_OF.get(module, module.lower().replace("_", "-")) for module in foreign}


def test_every_package_that_is_imported_is_declared() -> None:
    everything = PROJECT["dependencies"] + ["pneumo-hf[all]"]
    assert imported("pneumo_hf/**/*.py", "*.py") <= set(bounds(everything))
    assert imported("tests/**/*.py", "benchmarks/*.py", "docs/*.py") <= set(bounds([*everything, "pneumo-hf[dev]"]))


def test_a_space_installs_the_core_the_report_and_the_app() -> None:
    lines = [line.split("#")[0] for line in (ROOT / "requirements.txt").read_text().splitlines()]
    space, package = bounds([line for line in lines if line.strip()]), bounds(PROJECT["dependencies"] + EXTRAS["app"])
    del space["gradio"], package["gradio"]  # a Space's card names one minor version
    assert space == package


def test_the_oldest_versions_are_the_lower_bounds() -> None:
    declared = bounds(PROJECT["dependencies"] + EXTRAS["all"])
    lowest = {name: re.match(r"[>=]=([\d.]+)", bound)[1] for name, bound in declared.items()}
    zeros = re.compile(r"(\.0)+$")
    assert {name: zeros.sub("", v) for name, v in pinned("constraints-oldest.txt").items()} == {
        name: zeros.sub("", v) for name, v in lowest.items()
    }


def test_the_lock_has_all_that_is_declared_and_no_gpl_decoder() -> None:
    locked = pinned("requirements.lock")
    assert set(bounds(PROJECT["dependencies"] + EXTRAS["dev"])) <= set(locked)
    assert not set(bounds(EXTRAS["libjpeg"])) & set(locked)
