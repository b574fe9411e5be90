"""`push` against a Hub on loopback: what arrives is what was measured, and nothing private goes along."""

import csv
import json
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pneumo_hf import __version__
from pneumo_hf.errors import InputError
from pneumo_hf.hub.push import push, space_files, what_must_not_leave
from tests.hub import TOKEN, environment, running_hub

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
        assert "secret HF_TOKEN" in done.stderr
        assert hub.private["model", "tester/pneumonia"]
        files = hub.files["model", "tester/pneumonia"]
        assert {"config.json", "model.safetensors", "chest_detector.safetensors", "report/index.html"} <= set(files)
        assert not [name for name in files if "predictions" in name or name == "rejected.csv"]
        (tmp_path / "card.md").write_bytes(files["README.md"])
        stated = {r.metric_type: r.metric_value for r in ModelCard.load(tmp_path / "card.md").data.eval_results}
        measured = json.loads(files["report/metrics.json"])["metrics"]
        assert stated == {name: metric["value"] for name, metric in measured.items()}
        card = files["README.md"].decode()
        for code in ('model="tester/pneumonia"', 'Predictor("tester/pneumonia")', "--model tester/pneumonia "):
            assert code in card and code.replace("tester/pneumonia", tiny_run.name) not in card

        with (tiny_run / "report" / "predictions_test.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))[::7]
        films = [str(films_folder / row["path"]) for row in rows]
        scored = command(environment(address, str(tmp_path / "elsewhere")), "-c", SCORE, *films)
        assert scored.returncode == 0, scored.stderr
        assert json.loads(scored.stdout) == pytest.approx([float(row["probability"]) for row in rows], abs=1e-5)

        space = hub.files["space", "tester/demo"]
        assert space["model_id.txt"] == b"tester/pneumonia\n" and b"sdk: gradio" in space["README.md"]
        assert {"app.py", "requirements.txt", "pneumo_hf/__main__.py"} <= set(space)
        assert "data/chest_xray_sample/test-00000-of-00001.parquet" in space  # whence the examples


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


def test_a_gpu_without_a_space_is_refused(tiny_run: Path) -> None:
    with pytest.raises(InputError, match="--zero_gpu is for a Space"):
        push(tiny_run, "tester/pneumonia", False, ROOT, None, "zero-a10g")


def test_pictures_of_films_that_are_not_public_are_not_pushed(tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    config = json.loads((run / "config.json").read_text())
    config["training_data"]["kermany"] = False
    (run / "config.json").write_text(json.dumps(config))
    with running_hub() as (hub, address):
        asked = ("-m", "pneumo_hf", "push", "--model", str(run), "--repo_id", "tester/ward")
        assert command(environment(address, str(tmp_path / "here")), *asked).returncode == 0
        files = set(hub.files["model", "tester/ward"])
    assert "report/roc.png" in files
    assert not {"report/heatmaps.png", "report/mistakes.png", "report/abstained.png", "report/index.html"} & files


def test_a_patient_of_the_predictions_is_found_in_any_text(tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    with (run / "report" / "predictions_test.csv").open("a") as file:
        file.write("films/ward7_jane.png,NORMAL,MRN-00417,0.1,NORMAL,,\n")
    page = run / "report" / "index.html"
    files = {"report/index.html": page}
    assert what_must_not_leave(run, files) == []
    page.write_text(page.read_text() + "<p>See MRN-00417.</p>")
    assert what_must_not_leave(run, files) == ["report/index.html: the film or patient MRN-00417"]


@pytest.mark.parametrize("said", ["ward7 Jane Doe", "Müller_1", "b12"])
def test_names_of_films_are_found_however_they_are_written(tiny_run: Path, tmp_path: Path, said: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    (run / "rejected.csv").write_text(f"path,reason\nfilms/{said}.png,truncated\n")
    (run / "report" / "notes.json").write_text(json.dumps({"note": f"all but {said}."}))  # with \\u escapes
    figure = PngInfo()
    figure.add_text("Title", f"{said}, of /srv/ada")
    Image.new("L", (4, 4)).save(run / "report" / "figure.png", pnginfo=figure)
    files = {name: run / name for name in ("report/notes.json", "report/figure.png")}
    assert what_must_not_leave(run, files) == [
        f"report/notes.json: the film or patient {said}",
        "report/figure.png: the local path /srv/ada",
        f"report/figure.png: the film or patient {said}",
    ]


@pytest.mark.parametrize(
    "path", ["/opt/films/a", "~/films", "C:/Users/ada", r"C:\Users", r"\\server\share", "file:///x/y"]
)
def test_local_paths_are_found_however_they_are_written(tiny_run: Path, tmp_path: Path, path: str) -> None:
    note = tmp_path / "note.md"
    note.write_text(f"Read from {path} today; see https://huggingface.co/data/x.\n")
    assert "note.md: the local path" in str(what_must_not_leave(tiny_run, {"note.md": note}))
    note.write_text("See https://huggingface.co/data/x, and 3/4 of it.\n")
    assert not what_must_not_leave(tiny_run, {"note.md": note})


def test_a_space_gets_the_package_and_nothing_that_lies_in_it(tmp_path: Path) -> None:
    for name in ("app.py", "requirements.txt", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "pneumo_hf", tmp_path / "pneumo_hf")
    for name in (".env", "training_args.bin", "app/person1_virus_2.jpeg"):
        (tmp_path / "pneumo_hf" / name).write_text("HF_TOKEN=x")
    files = set(space_files(tmp_path, "tester/pneumonia"))
    assert not [name for name in files if name.endswith((".env", ".bin", ".jpeg"))]
    assert {"pneumo_hf/imaging/mean_chest.png", "pneumo_hf/app/case_report.html.jinja"} <= files


def test_private_does_not_publish_into_a_public_repository(tiny_run: Path, tmp_path: Path) -> None:
    with running_hub() as (hub, address):
        env = environment(address, str(tmp_path / "here"))
        asked = ("-m", "pneumo_hf", "push", "--model", str(tiny_run), "--repo_id", "tester/open")
        assert command(env, *asked).returncode == 0
        before = dict(hub.commits)
        refused = command(env, *asked, "--private")
        assert refused.returncode == 2 and "and public" in refused.stderr and hub.commits == before


def pushed(run: Path, address: str, home: Path, *options: str, token: str = TOKEN) -> subprocess.CompletedProcess:
    env = environment(address, str(home), token)
    return command(env, "-m", "pneumo_hf", "push", "--model", str(run), *options)


def assert_refused(done: subprocess.CompletedProcess, reason: str) -> None:
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    last = done.stderr.strip().splitlines()[-1]  # behind the bars of what was uploaded before
    assert last.startswith("error: ") and reason in last


def test_what_the_hub_refuses_is_said_in_one_line(tiny_run: Path, tmp_path: Path) -> None:
    with running_hub() as (hub, address):
        unknown = pushed(tiny_run, address, tmp_path, "--repo_id", "tester/pneumonia", token="expired")
        assert_refused(unknown, "does not know the token: log in with `hf auth login`")
        foreign = pushed(tiny_run, address, tmp_path, "--repo_id", "google/pneumonia")
        assert_refused(foreign, "google/pneumonia: the token may not write there")
        theirs = "model", "google/pneumonia"
        hub.files[theirs], hub.private[theirs] = {"report/metrics.json": b"{}"}, False  # and made by push
        assert_refused(pushed(tiny_run, address, tmp_path, "--repo_id", "google/pneumonia"), "may not write there")
        space = pushed(tiny_run, address, tmp_path, "--repo_id", "tester/pneumonia", "--space", "google/demo")
        assert_refused(space, "google/demo: the token may not write there")  # names what failed
        for name in ("a b/c", "pneumonia"):
            assert_refused(pushed(tiny_run, address, tmp_path, "--repo_id", name), "is no name for a repository")
    assert_refused(pushed(tiny_run, address, tmp_path, "--repo_id", "tester/pneumonia"), "is there a network?")


def test_a_name_taken_by_something_else_is_left_alone(tiny_run: Path, tmp_path: Path) -> None:
    theirs = {"README.md": b"my thesis", "weights.bin": b"years of work"}
    with running_hub() as (hub, address):
        hub.files["model", "tester/thesis"], hub.private["model", "tester/thesis"] = dict(theirs), False
        done = pushed(tiny_run, address, tmp_path, "--repo_id", "tester/thesis")
        assert_refused(done, "tester/thesis is taken: it holds something else (README.md)")
        assert hub.files["model", "tester/thesis"] == theirs


def test_a_card_that_the_hub_would_refuse_is_said_so(tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    card = run / "README.md"
    card.write_text(re.sub("type: films\\w*", "type: films of two wards", card.read_text()))
    with running_hub() as (_, address):
        done = pushed(run, address, tmp_path / "home", "--repo_id", "tester/pneumonia")
    assert_refused(done, "tester/pneumonia: the Hub refuses: Invalid metadata in README.md. - dataset.type")


def test_pushed_again_the_tag_and_the_files_are_those_of_today(tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    model = ("model", "tester/pneumonia")
    with running_hub() as (hub, address):
        assert pushed(run, address, tmp_path / "home", "--repo_id", "tester/pneumonia").returncode == 0
        first = hub.tags[model]
        assert first == {f"v{__version__}": hub.sha(model)}
        (run / "report" / "roc.png").unlink()
        assert pushed(run, address, tmp_path / "home", "--repo_id", "tester/pneumonia").returncode == 0
        assert "report/roc.png" not in hub.files[model] and "report/pr.png" in hub.files[model]
        assert hub.tags[model] == {f"v{__version__}": hub.sha(model)}


def test_weights_that_are_a_pointer_are_not_pushed(tiny_run: Path, tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "a Git LFS pointer" in what_must_not_leave(tiny_run, {"model.safetensors": weights})[0]


def test_a_space_is_made_of_a_checkout(tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run it from a checkout"):
        push(tiny_run, "tester/pneumonia", False, tmp_path, "tester/demo", None)
