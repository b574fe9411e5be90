"""The checkpoint in other people's hands: each stock way of using it gives the report's own scores."""

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from scipy.special import softmax
from transformers import AutoImageProcessor

from pneumo_hf.__main__ import main
from tests.hub import environment, reach, running_hub

REPO_ID = "tester/pneumonia"
# What the README and the card teach, by someone who has transformers and nothing of ours.
STOCK = """
import json, sys

import torch
from datasets import Dataset, Image
from PIL import Image as Picture
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline
from transformers.pipelines.pt_utils import KeyDataset

model, *films = sys.argv[1:]

def score(answer):
    return {row["label"]: row["score"] for row in answer}["PNEUMONIA"]

classify = pipeline("image-classification", model=model, device="cpu")
data = Dataset.from_dict({"image": films}).cast_column("image", Image())
processor = AutoImageProcessor.from_pretrained(model)
network = AutoModelForImageClassification.from_pretrained(model).eval()
inputs = processor([Picture.open(film).convert("RGB") for film in films], return_tensors="pt")
with torch.inference_mode():
    probs = network(**inputs).logits.softmax(-1)[:, network.config.label2id["PNEUMONIA"]]

ways = {
    "one by one": [score(classify(film)) for film in films],
    "a batch": [score(answer) for answer in classify(films, batch_size=8)],
    "KeyDataset": [score(answer) for answer in classify(KeyDataset(data, "image"), batch_size=8)],
    "Auto classes": probs.tolist(),
}
for where in ("cpu", "auto"):
    placed = pipeline("image-classification", model=model, device_map=where)
    ways[f"device_map={where}"] = [score(answer) for answer in placed(films)]
assert not [name for name in sys.modules if name.startswith("pneumo_hf")]
print(json.dumps({"threshold": classify.model.config.decision_threshold, "ways": ways}))
"""
WAYS = ("one by one", "a batch", "KeyDataset", "Auto classes", "device_map=cpu", "device_map=auto")


@pytest.fixture(scope="module")
def run(tiny_run: Path, films_folder: Path, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny run with its ONNX file, as it is pushed."""
    run = tmp_path_factory.mktemp("contract") / "run"
    shutil.copytree(tiny_run, run)
    options = ["--data", str(films_folder), "--cache_dir", str(cache_dir)]
    main(["export", "--model", str(run), "--output_dir", str(run), *options])
    return run


@pytest.fixture(scope="module")
def reported(run: Path, films_folder: Path) -> dict[str, float]:
    """P(PNEUMONIA) by film of the report: a dozen films, which fill no whole number of batches."""
    with (run / "report" / "predictions_test.csv").open(newline="") as file:
        return {str(films_folder / row["path"]): float(row["probability"]) for row in list(csv.DictReader(file))[::3]}


@pytest.fixture(scope="module")
def hub(run: Path) -> Iterator[tuple[dict[str, bytes], str]]:
    """The run pushed to a Hub: its files there, and the Hub's address."""
    with running_hub() as (hub, address):
        with pytest.MonkeyPatch.context() as here:
            reach(address, here)
            main(["push", "--model", str(run), "--repo_id", REPO_ID])
        yield hub.files["model", REPO_ID], address


@pytest.fixture(scope="module", params=["folder", "repo id"])
def answers(request: pytest.FixtureRequest, run: Path, reported: dict, hub: tuple, tmp_path_factory) -> dict:
    """What a fresh process with an empty cache answers."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    model = str(run) if request.param == "folder" else REPO_ID
    asked = [sys.executable, "-c", STOCK, model, *reported]
    done = subprocess.run(
        asked, env=environment(hub[1], str(elsewhere)), cwd=elsewhere, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("way", WAYS)
def test_every_stock_way_gives_the_reports_scores(answers: dict, reported: dict[str, float], way: str) -> None:
    assert set(answers["ways"]) == set(WAYS)
    np.testing.assert_allclose(answers["ways"][way], list(reported.values()), atol=1e-5)


def test_the_threshold_travels_with_it(answers: dict, run: Path) -> None:
    metrics = json.loads((run / "report" / "metrics.json").read_text())
    assert answers["threshold"] == metrics["decision_threshold"]["value"]


def test_the_repository_is_laid_out_for_transformers_js(run: Path, reported: dict, hub: tuple, tmp_path: Path) -> None:
    files = hub[0]
    assert {"config.json", "preprocessor_config.json", "onnx/model.onnx"} <= set(files)
    assert not [name for name in files if name.endswith(".data")]  # weights within the file
    session = onnxruntime.InferenceSession(files["onnx/model.onnx"], providers=["CPUExecutionProvider"])
    assert [node.name for node in session.get_inputs()] == ["pixel_values"]
    assert session.get_outputs()[0].name == "logits"
    pictures = [Image.open(film).convert("RGB") for film in reported]
    inputs = AutoImageProcessor.from_pretrained(run)(pictures, return_tensors="np")
    logits = session.run(["logits"], {"pixel_values": inputs["pixel_values"]})[0]
    np.testing.assert_allclose(softmax(logits, axis=1)[:, 1], list(reported.values()), atol=1e-5)
    assert 'pipeline("image-classification", "tester/pneumonia", { dtype: "fp32" })' in files["README.md"].decode()
