"""The web demo as its users meet it: through gradio's client, and in a real Chromium."""

import asyncio
import csv
import gzip
import io
import json
import re
import shutil
import subprocess
import urllib.request
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from gradio_client import Client, handle_file
from PIL import Image

from pneumo_hf import Predictor
from tests.app.conftest import serving
from tests.conftest import make_film
from tests.imaging.test_dicom import dicom

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMIUM_OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


def test_the_endpoint_gives_the_predictors_score(url: str, tiny_run: Path, films_folder: Path) -> None:
    client, predictor = Client(url, verbose=False), Predictor(tiny_run, device="cpu")
    for label in ("NORMAL", "PNEUMONIA"):
        film = next((films_folder / "test" / label).iterdir())
        answer, expected = client.predict(handle_file(film), api_name="/predict"), predictor([film])[0]
        assert answer["probability"] == pytest.approx(expected["probability"], abs=1e-6)
        assert {key: answer[key] for key in ("prediction", "flag", "error")} == {
            key: expected[key] for key in ("prediction", "flag", "error")
        }
        assert answer["threshold"] == predictor.settings.threshold and "not a diagnosis" in answer["notice"]


def test_an_operating_point_by_name(url: str, tiny_run: Path, films_folder: Path) -> None:
    client, predictor = Client(url, verbose=False), Predictor(tiny_run, device="cpu")
    film = handle_file(next((films_folder / "test" / "PNEUMONIA").iterdir()))
    for point in predictor.settings.operating_points:
        answer = client.predict(film, point["name"], api_name="/predict")
        assert answer["threshold"] == point["threshold"]
        assert (answer["prediction"] == "PNEUMONIA") == (answer["probability"] >= point["threshold"])
    assert "there is no operating point" in client.predict(film, "best", api_name="/predict")["error"]


def test_concurrent_requests_get_their_own_answers(url: str, tiny_run: Path, films_folder: Path) -> None:
    films = sorted((films_folder / "test").rglob("*.jpeg"))
    expected = {film: answer["probability"] for film, answer in zip(films, Predictor(tiny_run)(films), strict=True)}

    def ask(mine: list[Path]) -> dict[Path, float]:
        client = Client(url, verbose=False)
        return {film: client.predict(handle_file(film), api_name="/predict")["probability"] for film in mine}

    with ThreadPoolExecutor(8) as pool:
        answered = {
            film: score for part in pool.map(ask, [films[k::8] for k in range(8)]) for film, score in part.items()
        }
    assert answered == pytest.approx(expected, abs=1e-6)


def test_curl_as_the_manual_has_it(url: str) -> None:
    manual = (ROOT / "docs" / "serving.md").read_text()
    lines = re.search(r"```bash\n(URL=.*?)```", manual, re.DOTALL)[1]
    lines = lines.replace("http://127.0.0.1:7860", url)
    done = subprocess.run(["bash", "-c", lines], capture_output=True, text=True, cwd=ROOT)
    assert '"probability"' in done.stdout, done.stderr
    readme = (ROOT / "README.md").read_text()
    curls = [line for text in (readme, manual) for line in text.splitlines() if "curl" in line and "http://" in line]
    assert len(curls) == 3
    for line in curls:
        line = line.replace("http://127.0.0.1:7860", url).split(" > ")[0]
        answer = subprocess.run(["bash", "-c", line], capture_output=True, cwd=ROOT, check=True).stdout
        if "explain" in line:
            assert Image.open(io.BytesIO(answer)).format == "PNG"
        else:
            assert 0 <= json.loads(answer)["films"][0]["probability"] <= 1


def test_a_bad_file_gets_its_reason_and_the_next_film_its_score(url: str, films_folder: Path, tmp_path: Path) -> None:
    client = Client(url, verbose=False)
    (tmp_path / "text.png").write_text("no picture")
    answer = client.predict(handle_file(tmp_path / "text.png"), api_name="/predict")
    assert answer["probability"] is None and "not a picture" in answer["error"]
    film = next((films_folder / "test" / "NORMAL").iterdir())
    assert client.predict(handle_file(film), api_name="/predict")["probability"] is not None


def test_the_pictures_of_the_examples_are_no_files_that_are_swept_after_an_hour(url: str) -> None:
    with urllib.request.urlopen(f"{url}/config") as answer:
        icons = [part["props"].get("icon") for part in json.load(answer)["components"] if part["type"] == "button"]
    assert [icon["url"][:22] for icon in icons if icon] == ["data:image/png;base64,"] * 2


def test_the_first_tab_takes_films_by_any_name(url: str, tmp_path: Path) -> None:
    film = make_film(3, pneumonia=True, size=(300, 260))
    content, client = dicom(film), Client(url, verbose=False)
    for name in ("IM000001", "film.IMA", "film.dcm.gz", "1.2.840.10008"):
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        shown = client.predict(handle_file(tmp_path / name), 0, api_name="/explain")
        assert Image.open(shown).size == (260, 300), name


def test_a_case_report_shows_the_case_and_no_name_of_its_header(url: str, tmp_path: Path) -> None:
    stored = make_film(3, pneumonia=True, size=(300, 260)).astype(np.uint16) * 16
    person = {"PatientName": "Doe^Jane", "PatientID": "secret7", "PatientAge": "004Y"}
    film = dicom(stored, bits=12, ViewPosition="AP", WindowWidth="0", **person)
    (tmp_path / "film_17.dcm").write_bytes(film)
    page = Path(Client(url, verbose=False).predict(handle_file(tmp_path / "film_17.dcm"), api_name="/case_report"))
    text = re.sub(r"base64,[\w+/=]+", "", page.read_text())
    for shown in (
        "not a diagnosis",
        "DICOM, 12 bits, 260 x 300 pixels",
        "<td>4</td>",
        "<td>AP</td>",
        "Grad-CAM",
        "film_17.dcm",
    ):
        assert shown in text
    assert "its window is empty: left out, the film is shown by its full range" in text
    assert "Doe" not in text and "secret7" not in text and "http" not in text


def test_it_asks_for_a_password_where_it_has_one(tiny_run: Path, films_folder: Path) -> None:
    film = next((films_folder / "test" / "NORMAL").iterdir())
    with serving(tiny_run, "--auth", "ward:open sesame") as (address, _):
        with pytest.raises(Exception, match="[Ll]ogin|[Aa]uth|credentials|401"):
            Client(address, verbose=False).predict(handle_file(film), api_name="/predict")
        client = Client(address, auth=("ward", "open sesame"), verbose=False)
        assert client.predict(handle_file(film), api_name="/predict")["probability"] is not None


def test_its_endpoints_are_mcp_tools_on_request(url: str) -> None:
    pytest.importorskip("mcp")
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async def ask(address: str) -> tuple[set[str], str]:
        async with (
            streamablehttp_client(f"{address}/gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = {tool.name for tool in (await session.list_tools()).tools}
            answer = await session.call_tool("threshold", {"threshold": 0.5, "prevalence": 0.2})
            return tools, answer.content[0].text

    names, text = asyncio.run(ask(url))
    assert {"predict", "predict_base64", "explain", "case_report", "threshold"} == names and "sensitivity" in text


def test_it_reports_its_health(url: str, tiny_run: Path) -> None:
    with urllib.request.urlopen(f"{url}/health", timeout=10) as answer:
        assert json.load(answer) == {"status": "ok", "ready": True, "model": tiny_run.name}


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
    answered = {row["film"]: row["probability"] for row in rows}
    assert "more.zip: PNEUMONIA/inside.jpeg" in answered
    for film in films[1:]:
        assert answered[film.name] == pytest.approx(predictor([film])[0]["probability"], abs=1e-4)
    with open(written, newline="") as file:
        assert {row["path"] for row in csv.DictReader(file)} == set(answered)


def test_a_heatmap_and_another_threshold_by_the_api(url: str, films_folder: Path) -> None:
    client = Client(url, verbose=False)
    film = handle_file(next((films_folder / "test" / "PNEUMONIA").iterdir()))
    plain, warm = (Image.open(client.predict(film, opacity, api_name="/explain")) for opacity in (0, 0.6))
    spread = [np.ptp(np.asarray(picture.convert("RGB")).astype(int), axis=2).max() for picture in (plain, warm)]
    assert spread[0] <= 2 and spread[1] > 30  # grey, but for the compression; and not
    strict, lax = (client.predict(threshold, 0.3, api_name="/threshold") for threshold in (1.0, 0.0))
    assert "sensitivity <b>1.000</b>, specificity <b>0.000</b>" in lax and lax != strict
