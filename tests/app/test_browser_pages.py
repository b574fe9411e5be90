"""The pages that commands write, in a real Chromium: on a laptop and a phone, in light and dark."""

import csv
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from pneumo_hf.__main__ import main
from tests.app.browser import IN_CHROMIUM, LAPTOP, PHONE, SCHEMES, grave_violations
from tests.evaluation.test_drift import hospital
from tests.evaluation.test_monitoring import write_week
from tests.evaluation.test_recalibration import write_local

pytestmark = IN_CHROMIUM
NAMES = ("report", "audit", "compare", "monitor", "recalibration")


@pytest.fixture(scope="module")
def pages(
    tiny_run: Path, films_folder: Path, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """One page of each command, of runs and films that they have something to say about."""
    folder = tmp_path_factory.mktemp("pages")
    (films_folder / "train" / "NORMAL" / "broken.jpeg").write_bytes(b"")
    main(["audit", str(films_folder), "--output_dir", str(folder / "audit")])
    (films_folder / "train" / "NORMAL" / "broken.jpeg").unlink()
    other = folder / "a_run_with_a_long_name_that_somebody_gave_it_in_2026"
    shutil.copytree(tiny_run, other)
    with (other / "report" / "predictions_test.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row, probability in zip(rows, np.random.default_rng(0).random(len(rows)), strict=True):
        row["probability"] = probability
    with (other / "report" / "predictions_test.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    main(["compare", str(tiny_run), str(other), "--output_dir", str(folder / "compare")])
    with pytest.MonkeyPatch.context() as patch, suppress(SystemExit):  # code 3 is an alarm
        patch.setattr("pneumo_hf.evaluation.drift.SIMULATIONS", 200)
        weeks = [write_week(folder / "calm.csv", hospital(200, seed=1))]
        weeks.append(write_week(folder / "changed.csv", hospital(200, seed=2, sharpness=-1.5, scanner="NEW")))
        reference = write_week(folder / "reference.csv", hospital(600, seed=0))
        options = ["--reference", str(reference), "--output_dir", str(folder / "monitor")]
        main(["monitor", *map(str, weeks), *options])
    local = write_local(folder / "local", 36, 44)
    options = ["--output_dir", str(folder / "recalibration"), "--cache_dir", str(cache_dir), "--device", "cpu"]
    main(["recalibrate", "--model", str(tiny_run), "--data", str(local), *options])
    reports = {"report": tiny_run / "report", "recalibration": folder / "recalibration" / "report"}
    return {name: reports.get(name, folder / name) / "index.html" for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_it_needs_nothing_from_outside_and_fits_every_screen(name: str, browser, pages: dict[str, Path]) -> None:
    page, asked = browser.new_page(viewport=LAPTOP), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(pages[name].as_uri())
    assert all(address.startswith((pages[name].as_uri(), "data:")) for address in asked)
    text = page.inner_text("body")
    assert "not a diagnosis" in text and "pneumo_hf 0." in text and page.locator(".kind").inner_text().count("-") == 2
    first, heading = (page.locator(part).first.bounding_box() for part in (".verdicts li", "h2"))
    assert first["y"] < 300 < heading["y"]  # the verdict stands above all else
    contents = page.locator(".contents a")
    assert contents.count() == page.locator("h2").count() > 2
    contents.last.click()
    assert page.locator("h2").last.evaluate("part => part.getBoundingClientRect().top < innerHeight")
    page.set_viewport_size(PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    page.close()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", NAMES)
def test_it_keeps_nobody_out(name: str, scheme: str, browser, pages: dict[str, Path]) -> None:
    page = browser.new_page(viewport=PHONE, color_scheme=scheme)
    page.goto(pages[name].as_uri())
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
    assert not grave_violations(page)
    page.close()
