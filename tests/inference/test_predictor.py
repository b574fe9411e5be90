import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessorPil

from pneumo_hf import Predictor
from pneumo_hf.data.reading import one_ahead
from pneumo_hf.errors import InputError
from tests.conftest import ROOT, make_film

FILMS = [make_film(seed, pneumonia=bool(seed % 2)) for seed in range(5)]


def test_bad_films_have_reasons_and_do_not_move_the_others(tiny_run: Path) -> None:
    predictor = Predictor(tiny_run, device="cpu", batch_size=2)
    alone = [predictor([film])[0]["probability"] for film in FILMS]
    mixed = predictor([FILMS[0], b"", FILMS[1], b"text", FILMS[2], Path("nowhere.png"), FILMS[3], FILMS[4]])
    good = [row["probability"] for row in mixed if row["probability"] is not None]
    np.testing.assert_allclose(good, alone, atol=1e-6)
    assert [row["probability"] is None for row in mixed] == [False, True, False, True, False, True, False, False]
    assert mixed[1] == {"probability": None, "prediction": None, "flag": None, "error": "empty file"}
    assert predictor([]) == []


def test_it_decides_at_the_checkpoints_threshold(tiny_run: Path) -> None:
    predictor = Predictor(tiny_run, device="cpu")
    settings = predictor.settings
    assert settings.threshold == predictor.model.config.decision_threshold != 0.5
    settings.conformal_limits = None  # which would abstain between the labels
    assert settings.decide(settings.threshold) == {"prediction": "PNEUMONIA", "flag": "review", "error": ""}
    assert settings.decide(settings.threshold - 1e-6) == {"prediction": "NORMAL", "flag": "", "error": ""}


def test_labels_in_the_other_order_are_read_by_name(tiny_run: Path, tmp_path: Path) -> None:
    predictor = Predictor(tiny_run, device="cpu")
    expected = [row["probability"] for row in predictor(FILMS)]
    linear = predictor.model.classifier[1]
    linear.weight.data, linear.bias.data = linear.weight.data.flip(0), linear.bias.data.flip(0)
    predictor.model.config.id2label = {0: "PNEUMONIA", 1: "NORMAL"}
    predictor.model.config.label2id = {"PNEUMONIA": 0, "NORMAL": 1}
    predictor.model.save_pretrained(tmp_path)
    predictor.image_processor.save_pretrained(tmp_path)
    swapped = [row["probability"] for row in Predictor(tmp_path, device="cpu")(FILMS)]
    np.testing.assert_allclose(swapped, expected, atol=1e-6)


def test_what_is_no_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        Predictor(tmp_path / "nowhere")
    ResNetForImageClassification(ResNetConfig(hidden_sizes=[8, 8, 8, 8], depths=[1] * 4)).save_pretrained(tmp_path)
    ViTImageProcessorPil().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="is no classifier of NORMAL and PNEUMONIA"):
        Predictor(tmp_path)


def test_a_film_without_a_message_takes_no_other_films_score(tiny_run: Path) -> None:
    """zipfile raises a bare EOFError for a cut member, whose text is empty."""
    predictor, film = Predictor(tiny_run), make_film(1, True)
    alone = predictor([film])[0]["probability"]

    def read(image: object) -> object:
        if image is None:
            raise EOFError
        return image

    rows = list(predictor.score_rows([{"image": image} for image in (None, film, None, film)], read))
    assert [row["error"] for row in rows] == ["EOFError", "", "EOFError", ""]
    assert [row["probability"] for row in rows] == [None, pytest.approx(alone), None, pytest.approx(alone)]


@pytest.mark.parametrize("found", ["HEALTHY, COVID, PNEUMONIA", "NORMAL, COVID, NORMAL"])
def test_a_classifier_without_one_normal_label_is_refused(tiny_run: Path, tmp_path: Path, found: str) -> None:
    names = {"id2label": dict(enumerate(found.split(", ")))}
    model = ResNetForImageClassification(ResNetConfig(layer_type="basic", hidden_sizes=[8, 8], depths=[1, 1], **names))
    model.save_pretrained(tmp_path)
    shutil.copy(tiny_run / "preprocessor_config.json", tmp_path)
    with pytest.raises(InputError, match=f"its labels are {found}"):
        Predictor(tmp_path)


def test_the_first_item_is_made_here_and_the_others_by_a_thread() -> None:
    def makers(count: int) -> Iterator[int]:
        for _ in range(count):
            yield threading.get_ident()
        closed.append(True)

    closed: list[bool] = []
    first, *others = one_ahead(makers(3))
    assert first == threading.get_ident() not in others and len(others) == 2
    assert list(one_ahead(makers(0))) == []
    assert closed == [True, True]


def test_what_fails_ahead_is_raised_behind_the_items_before_it() -> None:
    def films() -> Iterator[str]:
        yield "first"
        yield "second"
        raise OSError("cut off")

    seen = []
    with pytest.raises(OSError, match="cut off"):
        for film in one_ahead(films()):
            seen.append(film)
    assert seen == ["first", "second"]


@pytest.mark.parametrize("names", [("normal", "Pneumonia"), ("LABEL_0", "LABEL_1"), ("LABEL_1", "LABEL_0")])
def test_a_checkpoint_with_other_names_for_the_labels_is_used(
    names: tuple[str, str], tiny_run: Path, tmp_path
) -> None:
    expected = [row["probability"] for row in Predictor(tiny_run, device="cpu")(FILMS)]
    run = shutil.copytree(tiny_run, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config |= {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
    (run / "config.json").write_text(json.dumps(config))
    known = names[0] == "normal"
    if not known:
        with pytest.raises(InputError, match=f"its labels are {names[0]}, {names[1]}; .*NAME=NORMAL,NAME=PNEUMONIA"):
            Predictor(run, device="cpu")
    label_map = None if known else {names[0]: "NORMAL", names[1]: "PNEUMONIA"}
    found = Predictor(run, device="cpu", label_map=label_map)(FILMS)
    assert [row["probability"] for row in found] == pytest.approx(expected)
    turned = Predictor(run, device="cpu", label_map={names[1]: "NORMAL", names[0]: "PNEUMONIA"})(FILMS)
    assert [row["probability"] for row in turned] == pytest.approx([1 - probability for probability in expected])


def test_a_checkpoint_without_some_of_its_weights_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    weights = load_file(run / "model.safetensors")
    del weights["classifier.1.weight"]
    save_file(weights, run / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="has no weights for 1 of its tensors, classifier.1.weight among them"):
        Predictor(run, device="cpu")


def test_scores_stay_in_full_float32_after_a_training_that_turned_tf32_on(tiny_run: Path) -> None:
    code = f"""
import numpy as np, torch
from pneumo_hf import Predictor
from pneumo_hf.inference.predictor import full_float32
from transformers.utils import enable_tf32

films = [np.random.default_rng(seed).integers(0, 256, (60, 60), np.uint8) for seed in range(3)]
predictor, backends = Predictor({str(tiny_run)!r}, device="cpu"), torch.backends
expected = predictor(films)
enable_tf32(True)  # what TrainingArguments(torch_compile=True) does on a GPU, where nothing could be scored then
assert predictor(films) == expected
with full_float32(), full_float32():
    assert backends.cudnn.conv.fp32_precision == backends.cuda.matmul.fp32_precision == "ieee"
assert backends.cudnn.conv.fp32_precision == "tf32"
"""
    # in a process of its own: the switches are the process's, and cannot all be turned back
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_films_that_several_threads_decode_keep_their_order(
    tiny_run: Path, films_folder: Path, tmp_path: Path, two_threads: None
) -> None:
    """One in the middle that cannot be read, and one picture of PIL's several times, which reads its file once."""
    predictor = Predictor(tiny_run, device="cpu", batch_size=8)
    paths = sorted(path for path in films_folder.rglob("*") if path.is_file())[:20]
    alone = [predictor([path])[0]["probability"] for path in paths]
    (tmp_path / "torn.png").write_bytes(b"\x89PNG")
    found = predictor([*paths[:11], tmp_path / "torn.png", *paths[11:]])
    assert "not a picture" in found.pop(11)["error"]
    assert [row["probability"] for row in found] == pytest.approx(alone, abs=1e-6)
    large = tmp_path / "large.jpeg"
    Image.open(paths[0]).resize((1500, 1200)).save(large)
    expected = predictor([large])[0]["probability"]
    for _ in range(30):
        with Image.open(large) as picture:
            assert [row["probability"] for row in predictor([picture] * 8)] == pytest.approx([expected] * 8, abs=1e-6)
