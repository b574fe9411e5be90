"""The benchmarks' arithmetic, and the page that is written from their files; figures need a quiet machine."""

import io
import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
SCRIPTS = (
    *("training", "serving", "scaling", "load", "rest", "start", "alternatives", "gpu", "monitoring", "pacs"),
    "scoring_ray",
)
FILES = {"rest": "load", "start": "serving", "alternatives": "serving", "scoring_ray": "ray"}  # where others write


def result_of(script: str) -> str:
    return FILES.get(script, script)


@pytest.fixture
def common(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import common

    return common


def test_the_ways_take_turns(common) -> None:
    order = []
    ways = {name: lambda name=name: order.append(name) or float(len(order)) for name in "AB"}
    assert common.take_turns(ways, 3) == {"A": [1, 3, 5], "B": [2, 4, 6]}
    assert order == list("ABABAB")
    assert common.median_ratio([9.0, 30.0, 8.0], [3.0, 1.0, 4.0]) == 3


def test_films_are_as_large_as_the_originals(common) -> None:
    (one, _), (other, _) = common.full_resolution_jpegs(2)
    film = Image.open(io.BytesIO(one))
    assert (film.size, film.mode) == ((1522, 1221), "L")
    assert one != other
    assert 200_000 < len(one) < 400_000  # bytes; originals of this size have 310,000


def test_the_peak_is_that_of_the_process_itself() -> None:
    ballast = np.ones(25_000_000)  # 191 MiB, which a process started here does not inherit
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r}); import common, numpy\n"
        "before = common.own_peak_mib()\n"
        "ballast = numpy.ones(25_000_000)\n"
        "print(before, common.own_peak_mib())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    before, after = map(float, done.stdout.split())
    assert after - before > 150
    assert len(ballast)


def test_a_result_has_ratios_rows_and_the_machine(common, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    common.write_part("x", "one", {"a_vs_b": 1.23456}, {"a": [2.0]}, unit="s")
    common.write_part("x", "two", {"c_vs_d": 2.0}, {"c": [1.0]})
    common.write_part("x", "one", {"a_vs_b": 3.0}, {"a": [4.0]}, unit="s")  # replaces that part alone
    result = json.loads((tmp_path / "x.json").read_text())
    assert result["ratios"] == {"a_vs_b": 3.0, "c_vs_d": 2.0}
    assert result["parts"]["one"]["rows"] == {"a": [4.0]} and result["parts"]["one"]["unit"] == "s"
    assert {"cpu", "cpus", "torch", "bf16", "load_average"} <= set(result["parts"]["two"]["machine"])


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_result_holds_ratios_rows_and_the_machine(script: str) -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / f"{result_of(script)}.json").read_text())
    assert result["ratios"] and all(
        part["rows"] and ("machine" in part or "cores" in part) for part in result["parts"].values()
    )


def test_the_ratios_that_the_pages_name_are_there() -> None:
    from docs import build

    found = {
        ratio for script in SCRIPTS for part in build.measured(result_of(script)).values() for ratio in part["ratios"]
    }
    assert set(build.WANTED) <= found


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_teaches(script: str, common, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    path = str(ROOT / "benchmarks" / f"{script}.py")
    monkeypatch.setattr(sys, "argv", [path, "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(path, run_name="__main__")
    assert f"benchmarks/results/{result_of(script)}.json" in capsys.readouterr().out.replace("\n", "")


def test_memory_that_is_flat_reads_one(common) -> None:
    from scaling import second_half_growth

    assert second_half_growth([{"films": number, "mib": 100.0} for number in range(1, 40)]) == 1
    with pytest.raises(SystemExit, match="give more --films"):
        second_half_growth([{"films": 1, "mib": 100.0}])
