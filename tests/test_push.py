"""`push` against a Hub on loopback: what arrives is what was measured, and nothing private goes along."""

import csv
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from pneumo_hf.config import InputError
from pneumo_hf.hub.push import push, what_must_not_leave
from tests.hub import environment, running_hub

ROOT = Path(__file__).parents[1]
SCORE = """
import json, sys
from transformers import pipeline
classify = pipeline("image-classification", model="tester/pneumonia", device="cpu")
answers = classify(sys.argv[1:])
print(json.dumps([next(s["score"] for s in a if s["label"] == "PNEUMONIA") for a in answers]))
"""


def command(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], env=env, cwd=ROOT, capture_output=True, text=True)


def test_pushed_and_read_by_the_stock_pipeline_elsewhere(tiny_run: Path, films_folder: Path, tmp_path: Path) -> None:
    with running_hub() as (hub, address):
        env = environment(address, str(tmp_path / "here"))
        asked = ("-m", "pneumo_hf", "push", "--model", str(tiny_run), "--repo_id", "tester/pneumonia", "--private")
        for _ in range(2):  # the second changes nothing
            done = command(env, *asked, "--space", "tester/demo")
            assert done.returncode == 0, done.stderr
        assert hub.private["model", "tester/pneumonia"]
        pushed = hub.files["model", "tester/pneumonia"]
        assert {"config.json", "model.safetensors", "chest_detector.safetensors", "report/index.html"} <= set(pushed)
        assert not [name for name in pushed if "predictions" in name or name == "rejected.csv"]
        (tmp_path / "card.md").write_bytes(pushed["README.md"])
        told = {r.metric_type: r.metric_value for r in ModelCard.load(tmp_path / "card.md").data.eval_results}
        measured = json.loads(pushed["report/metrics.json"])["metrics"]
        assert told == {name: metric["value"] for name, metric in measured.items()}

        with (tiny_run / "report" / "predictions_test.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))[::7]
        films = [str(films_folder / row["path"]) for row in rows]
        scored = command(environment(address, str(tmp_path / "elsewhere")), "-c", SCORE, *films)
        assert scored.returncode == 0, scored.stderr
        assert json.loads(scored.stdout) == pytest.approx([float(row["probability"]) for row in rows], abs=1e-5)

        space = hub.files["space", "tester/demo"]
        assert space["model_id.txt"] == b"tester/pneumonia\n" and b"sdk: gradio" in space["README.md"]
        assert {"app.py", "requirements.txt", "pneumo_hf/app/interface.py"} <= set(space)


def test_what_is_private_or_unsafe_is_refused_by_name(tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    (run / "optimizer.pt").write_bytes(b"x")
    (run / "report" / "notes.json").write_bytes(pickle.dumps({"weights": 1}))
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text() + "cache_dir: /home/ada/cache\n")
    card = run / "README.md"
    card.write_text(card.read_text() + "\nSee person1672_virus_2888.jpeg.\n")
    with pytest.raises(InputError) as refused:
        push(run, "tester/pneumonia", False, ROOT, None, None)
    for reason in (
        "optimizer.pt: a pickle or training state",
        "report/notes.json: a pickle by its content",
        "recipe.yaml: the local path /home/ada",
        "README.md: the film or patient person1672_virus_2888",
    ):
        assert reason in str(refused.value)


def test_pictures_of_films_that_are_not_public_stay_at_home(tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    config = json.loads((run / "config.json").read_text())
    config["training_data"]["kermany"] = False
    (run / "config.json").write_text(json.dumps(config))
    with running_hub() as (hub, address):
        asked = ("-m", "pneumo_hf", "push", "--model", str(run), "--repo_id", "tester/ward")
        assert command(environment(address, str(tmp_path / "here")), *asked).returncode == 0
        pushed = set(hub.files["model", "tester/ward"])
    assert "report/roc.png" in pushed
    assert not {"report/heatmaps.png", "report/mistakes.png", "report/abstained.png", "report/index.html"} & pushed


def test_a_patient_of_the_predictions_is_found_in_any_text(tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    with (run / "report" / "predictions_test.csv").open("a") as file:
        file.write("films/ward7_jane.png,NORMAL,MRN-00417,0.1,NORMAL,,\n")
    page = run / "report" / "index.html"
    files = {"report/index.html": page}
    assert what_must_not_leave(run, files) == []
    page.write_text(page.read_text() + "<p>MRN-00417</p>")
    assert what_must_not_leave(run, files) == ["report/index.html: the film or patient MRN-00417"]


@pytest.mark.parametrize(
    ("address", "repo_id", "message"),
    [("http://127.0.0.1:9", "tester/pneumonia", "cannot be reached"), ("http://127.0.0.1:9", "a b/c", "no name for")],
)
def test_errors_are_one_line(tiny_run: Path, tmp_path: Path, address: str, repo_id: str, message: str) -> None:
    env = environment(address, str(tmp_path))
    done = command(env, "-m", "pneumo_hf", "push", "--model", str(tiny_run), "--repo_id", repo_id)
    assert (done.returncode, done.stderr.strip().count("\n")) == (2, 0)
    assert message in done.stderr
