"""The web demo as its users meet it: through gradio's client, and in a real Chromium."""

import csv
import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gradio_client import Client, handle_file
from PIL import Image

from pneumo_hf import Predictor

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMIUM_OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


@pytest.fixture(scope="module")
def url(tiny_run: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "app.py", "--model", str(tiny_run), "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT)
    address = f"http://127.0.0.1:{port}"
    for _ in range(240):
        try:
            urllib.request.urlopen(address, timeout=2).read()
            break
        except OSError:
            assert process.poll() is None, "the app ended"
            time.sleep(0.25)
    yield address
    process.terminate()
    process.wait()


def test_the_endpoint_gives_the_predictors_score(url: str, tiny_run: Path, films_folder: Path) -> None:
    client, predictor = Client(url, verbose=False), Predictor(tiny_run, device="cpu")
    for label in ("NORMAL", "PNEUMONIA"):
        film = next((films_folder / "test" / label).iterdir())
        verdict = client.predict(handle_file(film), api_name="/predict")[1]
        answer = predictor([film])[0]
        assert f"Probability of pneumonia: {answer['probability']:.1%}" in verdict
        assert ("Flag for review" in verdict) == (answer["flag"] == "review")


def test_a_bad_file_gets_its_reason_and_the_next_film_its_score(url: str, films_folder: Path, tmp_path: Path) -> None:
    client = Client(url, verbose=False)
    (tmp_path / "text.png").write_text("no picture")
    assert "Not read: not a picture" in client.predict(handle_file(tmp_path / "text.png"), api_name="/predict")[1]
    film = next((films_folder / "test" / "NORMAL").iterdir())
    assert "Probability of pneumonia" in client.predict(handle_file(film), api_name="/predict")[1]


def test_it_tells_that_it_is_well(url: str, tiny_run: Path) -> None:
    with urllib.request.urlopen(f"{url}/health", timeout=10) as answer:
        assert json.load(answer) == {"status": "ok", "model": tiny_run.name}


def test_a_worklist_is_sorted_and_one_bad_file_stops_nothing(
    url: str, tiny_run: Path, films_folder: Path, tmp_path: Path
) -> None:
    films = sorted((films_folder / "test").rglob("*.jpeg"))[::8]
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.write(films[0], "PNEUMONIA/inside.jpeg")
    (tmp_path / "text.png").write_text("no picture")
    given = [*films[1:], tmp_path / "more.zip", tmp_path / "text.png"]
    client = Client(url, verbose=False)
    table, _, written = client.predict([handle_file(path) for path in given], api_name="/predict_batch")
    rows = [dict(zip(table["headers"], row, strict=True)) for row in table["data"]]
    assert len(rows) == len(given) and [row["film"] for row in rows if row["error"]] == ["text.png"]
    scores = [row["probability"] for row in rows if not row["error"]]
    assert scores == sorted(scores, reverse=True)
    predictor = Predictor(tiny_run, device="cpu")
    told = {row["film"]: row["probability"] for row in rows}
    for film in films[1:]:
        assert told[film.name] == pytest.approx(predictor([film])[0]["probability"], abs=1e-4)
    with open(written, newline="") as file:
        assert {row["path"] for row in csv.DictReader(file)} == set(told)


def test_a_heatmap_and_another_threshold_by_the_api(url: str, films_folder: Path) -> None:
    client = Client(url, verbose=False)
    film = handle_file(next((films_folder / "test" / "PNEUMONIA").iterdir()))
    plain, warm = (Image.open(client.predict(film, opacity, api_name="/explain")) for opacity in (0, 0.6))
    spread = [np.ptp(np.asarray(picture.convert("RGB")).astype(int), axis=2).max() for picture in (plain, warm)]
    assert spread[0] <= 2 and spread[1] > 30  # grey, but for the compression; and not
    strict, lax = (client.predict(threshold, 0.3, api_name="/threshold") for threshold in (1.0, 0.0))
    assert "sensitivity <b>1.000</b>, specificity <b>0.000</b>" in lax and lax != strict


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)")
def test_in_a_browser_an_example_is_read_and_a_film_uploaded(url: str, films_folder: Path) -> None:
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_OPTIONS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        outside = []
        page.on(
            "request",
            lambda request: (
                outside.append(request.url) if not request.url.startswith((url, "data:", "blob:")) else None
            ),
        )  # noqa: E501
        page.goto(url)
        expect(page.locator("#disclaimer")).to_contain_text("not a diagnosis")
        page.get_by_text("pneumonia_1.jpeg").click()
        expect(page.locator("#verdict")).to_contain_text("Probability of pneumonia", timeout=30_000)
        expect(page.locator("#film img")).to_be_visible(timeout=30_000)
        first = page.locator("#verdict").inner_text()
        bar, mark = (page.locator(f"#verdict .{name}").bounding_box() for name in ("bar", "threshold"))
        assert bar["height"] > 10
        assert mark["height"] > bar["height"]
        page.get_by_text("normal_1.jpeg").click()
        expect(page.locator("#verdict")).not_to_have_text(first, timeout=30_000)
        page.get_by_role("tab", name="The model").click()
        expect(page.locator("#outcome")).to_contain_text("sensitivity", timeout=30_000)
        before = page.locator("#outcome").inner_text()
        page.locator("#threshold input[type=number]").fill("0.999")
        page.keyboard.press("Tab")
        expect(page.locator("#outcome")).not_to_have_text(before, timeout=30_000)
        page.get_by_role("tab", name="Worklist").click()
        films = sorted((films_folder / "test" / "NORMAL").iterdir())[:3]
        page.locator("#worklist-files input[type=file]").set_input_files(films)
        page.locator("#worklist-read").click()
        expect(page.locator("#worklist")).to_contain_text("NORMAL", timeout=30_000)
        page.set_viewport_size({"width": 390, "height": 844})  # a phone
        page.get_by_role("tab", name="Read a film").click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 391
        assert re.search(r"Decision threshold: [\d.]+%", first)
        browser.close()
    assert not outside, outside
