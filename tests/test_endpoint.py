"""The handler of an Inference Endpoint, loaded from the pushed folder and with the pushed package."""

import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pneumo_hf import Predictor
from pneumo_hf.hub.push import endpoint_files
from tests.conftest import make_film
from tests.imaging.test_dicom import dicom

ROOT = Path(__file__).parents[1]
SCRIPT = """
import json, sys
from handler import EndpointHandler
import pneumo_hf
handler = EndpointHandler("")
print(json.dumps([pneumo_hf.__file__, *[handler(json.loads(line)) for line in sys.stdin]]))
"""


def test_the_pushed_folder_answers_as_the_predictor_does(tiny_run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_run, tmp_path / "repository")
    for name, content in endpoint_files(ROOT).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(content, folder / name)
    film, predictor = dicom(make_film(4, True)), Predictor(tiny_run, device="cpu")
    sent = base64.encodebytes(film).decode()  # in lines, as the command `base64` writes it
    requests = [
        {"inputs": [sent, "no base64!", "é", {"path": "film.dcm"}, 7, None], "parameters": "youden"},
        {"inputs": sent, "parameters": {"operating_point": "youden"}},
        {"inputs": sent, "parameters": {"operating_point": "best"}},
    ]
    lines = "\n".join(map(json.dumps, requests))
    done = subprocess.run([sys.executable, "-c", SCRIPT], input=lines, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    package, first, second, third = json.loads(done.stdout.splitlines()[-1])
    assert Path(package).is_relative_to(folder)
    (expected,) = predictor([film])
    assert first[0]["probability"] == pytest.approx(expected["probability"], abs=1e-6)
    assert first[0]["flag"] == expected["flag"] and "not a diagnosis" in first[0]["notice"]
    assert ["not in base64" in row["error"] for row in first[1:3]] == [True, True]
    assert all(row["error"] and row["probability"] is None for row in first[1:])
    assert second[0]["threshold"] == predictor.settings.thresholds["youden"]
    assert "no operating point of that name" in third[0]["error"]
