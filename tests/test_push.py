"""`push` against a Hub on loopback: what arrives is what was measured, and nothing private goes along."""

import csv
import json
import pickle
import re
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pneumo_hf import __version__
from pneumo_hf.data.digests import HELD_OUT
from pneumo_hf.errors import InputError
from pneumo_hf.hub.push import push, space_files
from pneumo_hf.hub.scan import what_must_not_leave
from tests.hub import TOKEN, environment, reach, running_hub

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "models" / "pneumo-efficientnet"
ASSETS = ("case_report.html.jinja", "style.css", "viewer.js")  # of the app's page
SCORE = """
import json, sys
from transformers import pipeline
classify = pipeline("image-classification", model="tester/pneumonia", device="cpu")
answers = classify(sys.argv[1:])
print(json.dumps([next(s["score"] for s in a if s["label"] == "PNEUMONIA") for a in answers]))
"""


Push = Callable[..., tuple[int, str]]


@pytest.fixture
def pushed(monkeypatch: pytest.MonkeyPatch, command: Callable) -> Push:
    """Run `push` in this process, to the Hub at an address: the exit code, and what was said."""

    def push(run: Path, address: str, *options: str, token: str = TOKEN) -> tuple[int, str]:
        reach(address, monkeypatch, token)
        return command("push", "--model", run, *options)

    return push


ASSETS = ("case_report.html.jinja", "style.css", "viewer.js")  # of the page


def process(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess:
    done = subprocess.run([sys.executable, *arguments], env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def test_pushed_and_read_by_the_stock_pipeline_elsewhere(
    tiny_run: Path, films_folder: Path, pushed: Push, tmp_path: Path
) -> None:
    with running_hub() as (hub, address):
        asked = ("--repo_id", "tester/pneumonia", "--private", "--films_are_public", "--space", "tester/demo")
        own = environment(address, str(tmp_path / "here"))
        done = process(own, "-m", "pneumo_hf", "push", "--model", str(tiny_run), *asked)
        assert "secret HF_TOKEN" in done.stderr
        first = {repo: dict(files) for repo, files in hub.files.items()}
        assert pushed(tiny_run, address, *asked)[0] == 0 and hub.files == first
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
        scored = process(environment(address, str(tmp_path / "elsewhere")), "-c", SCORE, *films)
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


def test_pictures_of_films_are_pushed_of_the_public_set_alone_or_on_request(
    tiny_run: Path, pushed: Push, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)  # whose films are called as the public set's
    shutil.copy(run / "report" / "roc.png", run / "report" / "mistakes.png")  # of a model that makes none
    shutil.copy(run / "report" / "roc.png", run / "report" / "Doe.png")
    config = json.loads((run / "config.json").read_text())
    config["training_data"]["kermany"] = True  # as version 0.2 wrote, of the names alone
    (run / "config.json").write_text(json.dumps(config))
    pictures = {f"report/{name}" for name in ("heatmaps.png", "mistakes.png", "index.html")}
    with running_hub() as (hub, address):
        asked = ("--repo_id", "tester/ward")
        code, said = pushed(run, address, *asked)
        assert code == 0 and "stay at home" in said
        files = set(hub.files["model", "tester/ward"])
        assert "report/roc.png" in files and not (pictures | {"report/Doe.png"}) & files
        assert pushed(run, address, *asked, "--films_are_public")[0] == 0
        assert pictures <= set(hub.files["model", "tester/ward"])
        shutil.copy(SHIPPED / HELD_OUT, run / HELD_OUT)
        code, said = pushed(run, address, "--repo_id", "tester/public")
        assert code == 0 and "stay at home" not in said
        files = set(hub.files["model", "tester/public"])
        assert pictures <= files and HELD_OUT not in files


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
    "path",
    [
        "/opt/films/a",
        "/storage/ward7",
        "/export/home/ada",
        "/Users2/ada",
        "~/films",
        "C:/Users/ada",
        r"C:\Users",
        r"d:\films",
        r"\\server\share",
        "file:///x/y",
        "s3://ward/films",
    ],
)
def test_local_paths_are_found_however_they_are_written(tiny_run: Path, tmp_path: Path, path: str) -> None:
    note = tmp_path / "note.md"
    note.write_text(f"Read from {path} today; see https://huggingface.co/data/x.\n")
    assert "note.md: the local path" in str(what_must_not_leave(tiny_run, {"note.md": note}))
    note.write_text("See https://huggingface.co/data/x, and 3/4 of it, train/NORMAL/ or #!/usr/bin/env python.\n")
    assert not what_must_not_leave(tiny_run, {"note.md": note})


def test_a_space_gets_the_package_and_nothing_that_lies_in_it(tmp_path: Path) -> None:
    for name in ("app.py", "requirements.txt", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "pneumo_hf", tmp_path / "pneumo_hf")
    for name in (".env", "training_args.bin", "app/person1_virus_2.jpeg"):
        (tmp_path / "pneumo_hf" / name).write_text("HF_TOKEN=x")
    files = set(space_files(tmp_path, "tester/pneumonia"))
    assert not [name for name in files if name.endswith((".env", ".bin", ".jpeg"))]
    assert {"pneumo_hf/imaging/mean_chest.png", *(f"pneumo_hf/app/assets/{name}" for name in ASSETS)} <= files


def test_private_does_not_publish_into_a_public_repository(tiny_run: Path, pushed: Push) -> None:
    with running_hub() as (hub, address):
        assert pushed(tiny_run, address, "--repo_id", "tester/open")[0] == 0
        before = dict(hub.commits)
        code, said = pushed(tiny_run, address, "--repo_id", "tester/open", "--private")
        assert code == 2 and "and public" in said and hub.commits == before


def assert_refused(done: tuple[int, str], reason: str) -> None:
    code, said = done
    last = said.strip().splitlines()[-1]  # behind the bars of what was uploaded before
    assert code == 2 and last.startswith("error: ") and reason in last


def test_what_the_hub_refuses_is_said_in_one_line(tiny_run: Path, pushed: Push) -> None:
    mine = ("--repo_id", "tester/pneumonia")
    with running_hub() as (hub, address):
        unknown = pushed(tiny_run, address, *mine, token="expired")
        assert_refused(unknown, "does not know the token: log in with `hf auth login`")
        foreign = pushed(tiny_run, address, "--repo_id", "google/pneumonia")
        assert_refused(foreign, "google/pneumonia: the token may not write there")
        theirs = "model", "google/pneumonia"
        hub.files[theirs], hub.private[theirs] = {"report/metrics.json": b"{}"}, False  # and made by push
        assert_refused(pushed(tiny_run, address, "--repo_id", "google/pneumonia"), "may not write there")
        space = pushed(tiny_run, address, *mine, "--space", "google/demo")
        assert_refused(space, "google/demo: the token may not write there")  # names what failed
        for name in ("a b/c", "pneumonia"):
            assert_refused(pushed(tiny_run, address, "--repo_id", name), "is no name for a repository")
    assert_refused(pushed(tiny_run, address, *mine), "is there a network?")


def test_a_name_taken_by_something_else_is_left_alone(tiny_run: Path, pushed: Push) -> None:
    theirs = {"README.md": b"my thesis", "weights.bin": b"years of work"}
    with running_hub() as (hub, address):
        hub.files["model", "tester/thesis"], hub.private["model", "tester/thesis"] = dict(theirs), False
        done = pushed(tiny_run, address, "--repo_id", "tester/thesis")
        assert_refused(done, "tester/thesis is taken: it holds something else (README.md)")
        assert hub.files["model", "tester/thesis"] == theirs


def test_a_card_that_the_hub_would_refuse_is_said_so(tiny_run: Path, pushed: Push, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    card = run / "README.md"
    card.write_text(re.sub("type: films\\w*", "type: films of two wards", card.read_text()))
    with running_hub() as (_, address):
        done = pushed(run, address, "--repo_id", "tester/pneumonia")
    assert_refused(done, "tester/pneumonia: the Hub refuses: Invalid metadata in README.md. - dataset.type")


def test_pushed_again_the_tag_and_the_files_are_those_of_today(tiny_run: Path, pushed: Push, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    model = ("model", "tester/pneumonia")
    with running_hub() as (hub, address):
        assert pushed(run, address, "--repo_id", "tester/pneumonia")[0] == 0
        first = hub.tags[model]
        assert first == {f"v{__version__}": hub.sha(model)}
        (run / "report" / "roc.png").unlink()
        assert pushed(run, address, "--repo_id", "tester/pneumonia")[0] == 0
        assert "report/roc.png" not in hub.files[model] and "report/pr.png" in hub.files[model]
        assert hub.tags[model] == {f"v{__version__}": hub.sha(model)}


def test_weights_that_are_a_pointer_are_not_pushed(tiny_run: Path, tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "a Git LFS pointer" in what_must_not_leave(tiny_run, {"model.safetensors": weights})[0]


def test_a_space_is_made_of_a_checkout(tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run it from a checkout"):
        push(tiny_run, "tester/pneumonia", False, tmp_path, "tester/demo", None)


@pytest.mark.parametrize("link", ["report/index.html", "report"])
def test_a_link_out_of_the_run_is_refused(link: str, tiny_run: Path, tmp_path: Path) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    shutil.copytree(tiny_run, run)
    shutil.move(run / link, elsewhere)
    (run / link).symlink_to(elsewhere)
    with pytest.raises(InputError, match=r"report/index.html: a symbolic link out of the run"):
        push(run, "tester/pneumonia", False, ROOT, None, None, films_are_public=True)


def test_links_within_the_run_pass_and_those_to_nothing_do_not(tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    (run / "report" / "again.png").symlink_to("roc.png")
    (run / "report" / "gone.png").symlink_to("nothing.png")
    (run / "report" / "circle.png").symlink_to("circle.png")
    files = {name: run / "report" / name for name in ("again.png", "gone.png", "circle.png")}
    found = what_must_not_leave(run, files)
    assert [line.split(":")[0] for line in found] == ["gone.png", "circle.png"]
    (tmp_path / "link").symlink_to(run)
    assert what_must_not_leave(tmp_path / "link", {"roc.png": tmp_path / "link" / "report" / "roc.png"}) == []


@pytest.mark.parametrize("said", ["Doe_Jane.JPG", "Doe_Jane.Dcm", "scan7.IMA", "Doe.tiff", "im-0001-0002"])
def test_what_is_called_like_a_film_is_found_in_any_case_of_letters(said: str, tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "note.md").write_text(f"See {said}.\n")
    assert what_must_not_leave(tiny_run, {"note.md": tmp_path / "note.md"}) == [f"note.md: the film or patient {said}"]


def test_names_of_files_are_looked_at_too(tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    (run / "rejected.csv").write_text("path,reason\nfilms/Doe_Jane.png,truncated\n")
    (run / "report" / "external_Doe_Jane.json").write_text("{}")
    (run / "report" / "Doe_Jane.json").write_text("{}")
    files = {name: run / "report" / name for name in ("Doe_Jane.json", "external_Doe_Jane.json")}
    assert what_must_not_leave(run, files) == [f"{name}: the film or patient Doe_Jane" for name in files]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
def test_a_text_in_another_encoding_is_refused(encoding: str, tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "note.md").write_text("Jane Döe, from /home/ada\n", encoding=encoding)
    found = what_must_not_leave(tiny_run, {"note.md": tmp_path / "note.md"})
    assert found == ["note.md: no text in UTF-8, so what it says cannot be read"]


@pytest.mark.parametrize("protocol", [*range(6), "torch", "torch of old"])
@pytest.mark.parametrize("name", ["notes.md", "roc.png", "model.safetensors", "history.csv"])
def test_pickles_are_found_whatever_their_ending(
    name: str, protocol: int | str, tiny_run: Path, tmp_path: Path
) -> None:
    value = {"weights": [1, 2], "of": Path("x")}
    if isinstance(protocol, int):
        (tmp_path / name).write_bytes(pickle.dumps(value, protocol))
    else:
        torch.save({"weights": torch.ones(2)}, tmp_path / name, _use_new_zipfile_serialization=protocol == "torch")
    assert what_must_not_leave(tiny_run, {name: tmp_path / name}) == [f"{name}: a pickle by its content"]
    beside = tmp_path / "run"
    shutil.copytree(tiny_run, beside)
    shutil.copy(tmp_path / name, beside / "state.dat")  # which would stay at home
    assert what_must_not_leave(beside, {}) == ["state.dat: a pickle by its content"]


def test_what_only_begins_like_a_pickle_is_none(tiny_run: Path, tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    header = b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(0x280)
    weights.write_bytes((0x280).to_bytes(8, "little") + header + b"\0" * 4)  # 80 02 as protocol 2
    (tmp_path / "note.md").write_text("N.B. this is a text.\n")
    files = {path.name: path for path in (weights, tmp_path / "note.md")}
    assert what_must_not_leave(tiny_run, files) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.json", b"{"),
        ("notes.json", b"[" * 100_000),
        ("roc.png", b"no picture"),
        ("roc.png", b"\x89PNG\r\n\x1a\n\0\0\0"),
        ("model.safetensors", b"no weights"),
        ("model.onnx", b"no network"),
    ],
)
def test_what_is_broken_is_refused(name: str, content: bytes, tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    (line,) = what_must_not_leave(tiny_run, {name: tmp_path / name})
    assert line.startswith(f"{name}: it is broken: ") and "\n" not in line


def test_a_picture_cut_short_and_what_follows_its_pixels(tiny_run: Path, tmp_path: Path) -> None:
    whole = (tiny_run / "report" / "roc.png").read_bytes()
    path = tmp_path / "roc.png"
    path.write_bytes(whole[: len(whole) // 2])
    assert what_must_not_leave(tiny_run, {"roc.png": path})[0].startswith("roc.png: it is broken: ")
    text = b"tEXtTitle\0of /srv/ada"
    chunk = (len(text) - 4).to_bytes(4, "big") + text + zlib.crc32(text).to_bytes(4, "big")
    path.write_bytes(whole[:-12] + chunk + whole[-12:])
    assert what_must_not_leave(tiny_run, {"roc.png": path}) == ["roc.png: the local path /srv/ada"]


def test_a_broken_report_is_one_line(tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    for content, why in (("{", "report/metrics.json: it is broken"), ("[]", "it names no model")):
        (run / "report" / "metrics.json").write_text(content)
        with pytest.raises(InputError, match=why):
            push(run, "tester/pneumonia", False, ROOT, None, None)
    (run / "report" / "predictions_test.csv").write_bytes("path\n/x/Döe.png\n".encode("utf-16"))
    with pytest.raises(InputError, match=r"predictions_test.csv does not say which films"):
        push(run, "tester/pneumonia", False, ROOT, None, None)


def test_local_paths_in_an_export_are_found(tiny_run: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    node = onnx.helper.make_node("Identity", ["x"], ["y"], doc_string="")
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    made = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    numbers = onnx.numpy_helper.from_array(np.frombuffer(b"/home/ada/films.", np.float32), "weights")  # only numbers
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "main", [value], [made], [numbers]))
    onnx.save(model, tmp_path / "model.onnx")
    files = {"onnx/model.onnx": tmp_path / "model.onnx"}
    assert what_must_not_leave(tiny_run, files) == []
    node = model.graph.node[0]
    node.metadata_props.add(
        key="pkg.torch.onnx.stack_trace", value='File "/storage/ada/pneumo_hf/hub/export.py", line 1'
    )
    onnx.save(model, tmp_path / "model.onnx")
    assert what_must_not_leave(tiny_run, files)[0].startswith(
        "onnx/model.onnx: the local path /storage/ada (python -m"
    )
