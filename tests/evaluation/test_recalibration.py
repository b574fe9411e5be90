"""A checkpoint at other hospitals: what is wrong with its scores there is found, mended exactly, and said."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file
from scipy.special import expit, logit
from sklearn.metrics import roc_auc_score
from transformers import pipeline

from pneumo_hf import Predictor, load_data, recalibrate
from pneumo_hf.__main__ import main
from pneumo_hf.data.predictions import read_predictions
from pneumo_hf.errors import InputError
from pneumo_hf.evaluation.before_after import LocalFilms, of_calibrated
from pneumo_hf.evaluation.metrics import metrics_with_intervals
from pneumo_hf.evaluation.operating_points import choose_thresholds
from pneumo_hf.evaluation.recalibration import fit_recalibration, recalibrate_scores
from pneumo_hf.hub.card import write_card
from pneumo_hf.hub.push import NEEDED
from pneumo_hf.inference.conformal import conformal_limits
from pneumo_hf.inference.settings import CheckpointSettings
from pneumo_hf.reporting.recalibration import write_recalibration
from tests.conftest import make_film
from tests.evaluation.test_simulated_hospitals import films_of

ROOT = Path(__file__).parents[2]


def test_of_few_films_the_offset_alone_unless_the_slope_is_plainly_another() -> None:
    random = np.random.default_rng(0)
    labels, odds = films_of("level shift", 60, random)
    assert fit_recalibration(labels, odds, np.arange(60))[1] == 1
    labels, odds = films_of("corrupted films", 80, random)
    assert fit_recalibration(labels, odds, np.arange(80))[1] < 0.7
    labels, odds = films_of("slope", 400, random)
    assert fit_recalibration(labels, odds, np.arange(400) % 30)[1] == pytest.approx(0.5, abs=0.15)
    assert fit_recalibration(labels, np.where(labels, 2.0, -1.0), np.arange(400))[1] == 1  # separated


def test_no_film_is_measured_by_a_fit_that_saw_its_patient(tiny_run: Path) -> None:
    """Pairs of films of one patient: each fold fitted again by hand, to the films of all other patients."""
    random, scorer = np.random.default_rng(0), Predictor(tiny_run, device="cpu")
    labels, odds = films_of("corrupted films", 240, random)
    unknown = np.full(240, np.nan)
    logits = np.stack([np.zeros(240), odds], axis=1)
    films = LocalFilms(list("f" * 240), labels, logits, np.arange(240) // 2, unknown, [""] * 240)
    result, odds = recalibrate_scores(scorer, films, "ours", "all"), films.odds  # to the last bit
    fold_of = np.array([id(settings) for settings in result.after.settings])
    assert len(set(fold_of)) == result.report["folds"] == 10 and (fold_of[::2] == fold_of[1::2]).all()
    for fold in set(fold_of):
        held_out, others = fold_of == fold, fold_of != fold
        offset, slope = fit_recalibration(labels[others], odds[others], films.patient_ids[others])
        assert result.after.probs[held_out] == pytest.approx(expit(offset + slope * odds[held_out]), abs=1e-12)
        settings = result.after.settings[int(np.argmax(held_out))]
        probs = expit(offset + slope * odds[others])
        assert settings.thresholds == choose_thresholds(labels[others], probs, list(settings.thresholds))
        assert settings.conformal_limits == conformal_limits(labels[others], probs)
    found = result.report["metrics"]
    assert found["roc_auc"]["before"] == found["roc_auc"]["after"]
    assert found["ece"]["before"]["value"] > 1.5 * found["ece"]["after"]["value"]
    assert set(found) >= {"ece", "sensitivity", "specificity", "brier", "roc_auc"}
    low, high = found["sensitivity"]["after"]["ci95"]
    assert low < found["sensitivity"]["after"]["value"] < high
    chance = of_calibrated(np.full(240, 0.5))  # one bin: the mean error of a share is sqrt(2 / pi) standard errors
    assert chance["mean"] == pytest.approx(np.sqrt(2 / np.pi * 0.25 / 240), rel=0.1)
    assert chance["up_to"] == pytest.approx(1.96 * np.sqrt(0.25 / 240), rel=0.15)


def test_answers_before_and_after_have_intervals_over_patients(tiny_run: Path) -> None:
    random, scorer = np.random.default_rng(0), Predictor(tiny_run, device="cpu")
    labels, odds = films_of("slope", 240, random)
    patients, distances = np.arange(240) // 2, np.where(np.arange(240) % 40, np.nan, 2.0)
    films = LocalFilms(["f"] * 240, labels, np.stack([0 * odds, odds], axis=1), patients, distances, [""] * 240)
    result = recalibrate_scores(scorer, films, "ours", "all")
    for when, scored in (("before", result.before), ("after", result.after)):
        decided = [one.decide(p, d) for one, p, d in zip(scored.settings, scored.probs, distances, strict=True)]
        found, flags = result.report["abstention"][when], np.array([row["flag"] for row in decided])
        answered = ~np.isin(flags, ["abstain", "not_chest_xray"])
        shares = {"answered": answered, "abstained": flags == "abstain", "not_chest_xray": flags == "not_chest_xray"}
        for name, share in shares.items():
            accuracy = metrics_with_intervals(share.astype(int), np.ones(240), 0.5, patients)["accuracy"]
            assert (found[name]["value"], found[name]["ci95"]) == (share.mean(), pytest.approx(accuracy["ci95"]))
        right = (labels == 1) == [row["prediction"] == "PNEUMONIA" for row in decided]
        low, high = found["accuracy_of_the_answered"]["ci95"]
        assert low < found["accuracy_of_the_answered"]["value"] == right[answered].mean() < high
    assert found["abstained"]["value"] > 0 and found["not_chest_xray"]["value"] == 6 / 240


def write_local(root: Path, normal: int, pneumonia: int, first: int = 50_000) -> Path:
    """Films of another hospital: brighter, flatter, and none that the tiny run has seen."""
    for number in range(normal + pneumonia):
        label = "NORMAL" if number < normal else "PNEUMONIA"
        film = make_film(first + number, label == "PNEUMONIA", (48, 48))
        if number % 3 == 0:  # what looks like it there, whatever it is
            film = make_film(first + number, True, (48, 48))
        path = root / label / f"{first + number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((0.6 * film + 80).astype(np.uint8)).save(path)
    return root


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_local(tmp_path_factory.mktemp("local") / "ours", 36, 44)


@pytest.fixture(scope="module")
def ours(tiny_run: Path, local: Path, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny run, recalibrated by the command."""
    folder = tmp_path_factory.mktemp("runs") / "ours"
    command = ["recalibrate", "--model", str(tiny_run), "--data", str(local), "--output_dir", str(folder)]
    main([*command, "--device", "cpu", "--cache_dir", str(cache_dir)])
    return folder


def scores_of(checkpoint: Path, films: list[Path], **options) -> np.ndarray:
    return np.array([row["probability"] for row in Predictor(checkpoint, device="cpu", **options)(films)])


def test_stock_pipeline_onnx_and_predictor_agree_and_the_order_stays(
    tiny_run: Path, ours: Path, local: Path, cache_dir: Path, tmp_path: Path
) -> None:
    found = json.loads((ours / "report" / "recalibration.json").read_text())
    films = sorted(local.rglob("*.png"))
    before, after = scores_of(tiny_run, films), scores_of(ours, films)
    np.testing.assert_allclose(after, expit(found["offset"] + found["slope"] * logit(before)), atol=1e-6)
    assert abs(found["offset"]) > 0.1  # it was needed
    labels = np.array([film.parent.name == "PNEUMONIA" for film in films])
    assert roc_auc_score(labels, after) == pytest.approx(roc_auc_score(labels, before), abs=1e-6)
    assert after.mean() == pytest.approx(labels.mean(), abs=1e-4)  # the maximum likelihood of an offset
    classify = pipeline("image-classification", model=str(ours), device="cpu")
    stock = [{row["label"]: row["score"] for row in answer}["PNEUMONIA"] for answer in classify(list(map(str, films)))]
    np.testing.assert_allclose(stock, after, atol=1e-6)
    options = ["--data", str(local), "--split", "train", "--cache_dir", str(cache_dir)]
    main(["export", "--model", str(ours), "--output_dir", str(tmp_path / "exported"), *options])
    np.testing.assert_allclose(scores_of(tmp_path / "exported", films, backend="onnx"), after, atol=1e-6)


def test_a_checkpoint_says_where_it_is_from_and_decides_by_local_films(
    tiny_run: Path, ours: Path, local: Path
) -> None:
    config, old = (json.loads((run / "config.json").read_text()) for run in (ours, tiny_run))
    told, settings = config["recalibration"], CheckpointSettings.from_config(config)
    assert told["dataset"] == "ours" and told["films"] == {"NORMAL": 36, "PNEUMONIA": 44} and told["date"]
    assert told["before"]["dataset"] == old["training_data"]["dataset"] == config["training_data"]["dataset"]
    assert told["before"]["decision_threshold"] == old["decision_threshold"] != settings.threshold
    assert told["before"]["operating_points"] == {p["name"]: p["threshold"] for p in old["operating_points"]}
    assert settings.chosen_on == "80 films of ours" and settings.method == old["decision_method"]
    assert settings.prevalence_of_scores == pytest.approx(44 / 80, abs=1e-3)
    films = sorted(local.rglob("*.png"))
    labels, probs = np.array([film.parent.name == "PNEUMONIA" for film in films]).astype(int), scores_of(ours, films)
    chosen = choose_thresholds(labels, probs, list(settings.thresholds))
    assert settings.thresholds == pytest.approx(chosen, abs=1e-5)
    limits = settings.conformal_limits
    assert np.mean(probs[labels == 1] >= limits["pneumonia_from"] - 1e-6) >= 0.95
    assert limits != old["abstention"]
    weights, theirs = load_file(ours / "model.safetensors"), load_file(tiny_run / "model.safetensors")
    changed = [name for name, values in weights.items() if not torch.equal(values, theirs[name])]
    assert changed and all(name.startswith("classifier") for name in changed)
    for name in ("chest_detector.safetensors", "preprocessor_config.json", "report/held_out.npy"):
        assert (ours / name).read_bytes() == (tiny_run / name).read_bytes()
    assert set(NEEDED) <= {path.relative_to(ours).as_posix() for path in ours.rglob("*")}  # it can be pushed


def test_the_card_and_the_page_say_both(tiny_run: Path, ours: Path) -> None:
    card, page = (ours / "README.md").read_text(), (ours / "report" / "index.html").read_text()
    threshold = json.loads((tiny_run / "config.json").read_text())["decision_threshold"]
    assert "recalibrated on ours" in card and f"before: from {threshold:.3f}" in card
    assert "trained on films" in card and "36 NORMAL, 44 PNEUMONIA" in card
    assert ModelCard.load(ours / "README.md").data.eval_results is None
    assert re.search(r"<td>Answered<td>[.\d]+ \([.\d]+ to [.\d]+\)<td>[.\d]+ \([.\d]+ to [.\d]+\)", page)
    assert "How many films do I need?" in page and page.count("data:image/png;base64") == 2
    (ours / "README.md").unlink()
    write_card(ours)  # as for any run
    assert (ours / "README.md").read_text() == card
    table = read_predictions(ours, "validation")
    assert len(table) == 80 and "http" not in page
    metrics = json.loads((ours / "report" / "metrics.json").read_text())
    found = json.loads((ours / "report" / "recalibration.json").read_text())
    assert metrics["metrics"]["ece"] == found["metrics"]["ece"]["after"]
    counts = metrics["confusion_matrix"]
    assert counts["tp"] / (counts["tp"] + counts["fn"]) == metrics["metrics"]["sensitivity"]["value"]
    for point, row in zip(metrics["operating_points"], found["operating_points"], strict=True):
        assert point["specificity"] == row["specificity"]["after"]["value"]
        assert ("expected" in row) == ("itivity@" in point["name"] or "ificity@" in point["name"])


def test_in_python_what_load_data_gives_will_do(tiny_run: Path, local: Path, cache_dir: Path, tmp_path: Path) -> None:
    result = recalibrate(tiny_run, load_data(local), device="cpu", cache_dir=cache_dir)
    assert result.report["dataset"] == "data set" and len(result.after.probs) == 80
    write_recalibration(tmp_path / "ours", result)
    assert Predictor(tmp_path / "ours", device="cpu").settings.recalibration["n"] == 80
    again = recalibrate(tmp_path / "ours", local, device="cpu", cache_dir=cache_dir)
    assert (again.offset, again.slope) == pytest.approx((0, 1), abs=1e-3)  # nothing is left to be mended
    assert again.report["before"]["recalibration"]["n"] == 80


def said(capsys: pytest.CaptureFixture, *command: object) -> str:
    with pytest.raises(SystemExit, match="2"):
        main(["recalibrate", *map(str, command)])
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def test_what_would_be_meaningless_is_refused_in_one_line(
    tiny_run: Path, ours: Path, local: Path, films_folder: Path, cache_dir: Path, tmp_path: Path, capsys
) -> None:
    few, one = write_local(tmp_path / "few", 19, 30), write_local(tmp_path / "one", 0, 40)
    options = ["--device", "cpu", "--cache_dir", cache_dir, "--output_dir", tmp_path / "to"]
    model = ["--model", tiny_run]
    assert "few has 19 films of NORMAL and 30 of PNEUMONIA: a checkpoint is recalibrated on at least 20 of each" in (
        said(capsys, *model, "--data", few, *options)
    )
    assert "one has 0 films of NORMAL and 40 of PNEUMONIA, of 0 and 40 patients: recalibration needs at least 20" in (
        said(capsys, *model, "--data", one, *options, "--report_only")
    )
    for split in (["--split", "train"], []):
        line = said(capsys, *model, "--data", films_folder, *split, *options)
        assert "may have been trained on" in line and "--split test" in line
    assert "recalibrate takes one checkpoint" in said(capsys, *model, *model, "--data", local, *options)
    other = Path(shutil.copytree(tiny_run, tmp_path / "other", ignore=shutil.ignore_patterns("report")))
    assert "holds another checkpoint" in said(capsys, *model, "--data", local, *options[:-1], other)
    assert not (tmp_path / "to").exists()
    main(["recalibrate", *map(str, [*model, "--data", few, *options, "--report_only"])])
    assert {path.name for path in (tmp_path / "to").iterdir()} == {"report"}
    found = json.loads((tmp_path / "to" / "report" / "recalibration.json").read_text())
    assert "at least 20 of each" in found["refused"] and found["metrics"]["sensitivity"]["after"]["ci95"]


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_recalibrated_checkpoint_is_not_written_over_itself(
    ours: Path, local: Path, cache_dir: Path, tmp_path: Path, capsys
) -> None:
    copy, link = Path(shutil.copytree(ours, tmp_path / "copy")), tmp_path / "link"
    link.symlink_to(copy)
    before = contents(copy)
    line = said(capsys, "--model", link, "--data", local, "--cache_dir", cache_dir, "--output_dir", copy)
    assert "copy holds the checkpoint that is recalibrated: choose another --output_dir" in line
    assert contents(copy) == before


def test_a_report_alone_does_not_replace_that_of_a_checkpoint(
    tiny_run: Path, ours: Path, local: Path, cache_dir: Path, tmp_path: Path, capsys
) -> None:
    copy = Path(shutil.copytree(ours, tmp_path / "copy"))
    before = contents(copy)
    options = ["--data", local, "--report_only", "--cache_dir", cache_dir, "--output_dir", copy]
    assert "copy holds a checkpoint, and this is a report alone" in said(capsys, "--model", tiny_run, *options)
    assert contents(copy) == before


def test_scores_that_order_nothing_are_refused(tiny_run: Path) -> None:
    labels, nothing = np.arange(60) % 2, np.full(60, np.nan)
    logits = np.stack([np.zeros(60), np.where(labels, -1.0, 1.0) + 0.01 * np.arange(60)], axis=1)
    films = LocalFilms(["f"] * 60, labels, logits, np.arange(60), nothing, [""] * 60)
    with pytest.raises(InputError, match="ours: the scores order its films no better than chance"):
        recalibrate_scores(Predictor(tiny_run, device="cpu"), films, "ours", "all")


def test_what_was_fitted_to_the_scores_as_they_were_is_left_out(
    tiny_run: Path, local: Path, cache_dir: Path, tmp_path: Path
) -> None:
    clinical = {"intercept": 0, "weight": 1, "columns": {"sex": {"F": -0.1, "M": 0.1}}, "threshold": 0.5}
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    (run / "clinical.json").write_text(json.dumps(clinical | {"method": "youden"}))
    result = recalibrate(run, local, device="cpu", cache_dir=cache_dir)
    write_recalibration(tmp_path / "ours", result)
    assert not (tmp_path / "ours" / "clinical.json").exists() and result.report["left_out"] == ["clinical.json"]
    assert "clinical.json" in (tmp_path / "ours" / "report" / "index.html").read_text()


def test_the_manuals_walk_through_a_strange_hospital(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command of the section, word for word."""
    section = (
        (ROOT / "docs" / "evaluation.md").read_text().split("\n## Another hospital's films\n")[1].split("\n## ")[0]
    )
    commands = [line for line in section.replace("\\\n", " ").splitlines() if line.startswith("python -m pneumo_hf ")]
    assert len(commands) >= 4
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_run, "runs/mine")
    shutil.make_archive("ours", "zip", write_local(tmp_path / "films", 36, 44))
    write_local(tmp_path / "new_films", 6, 6, first=60_000)
    for command in commands:
        try:
            main(shlex.split(command)[3:])
        except SystemExit as stop:
            assert (stop.code, " monitor " in command) == (3, True), command
    assert Path("runs/ours/README.md").exists() and len(Path("week.csv").read_text().splitlines()) == 13
    watched = json.loads(Path("watched/monitor.json").read_text())  # beside the films that it was recalibrated on
    assert (watched["reference"], watched["films"], watched["missing"]) == ("runs/ours", 80, "")
    assert {"distance", "sharpness", "width"} <= set(watched["watched"])


def test_a_recalibration_on_scores_leaves_no_details_of_other_films(
    tiny_run: Path, ours: Path, tmp_path: Path
) -> None:
    odds, labels = np.linspace(-2, 2, 80), np.arange(80) % 8 // 4
    unknown, logits = np.full(80, np.nan), np.stack([0 * odds, odds + 2 * labels], axis=1)
    films = LocalFilms(list(map(str, range(80))), labels, logits, np.arange(80), unknown, [""] * 80)
    folder = Path(shutil.copytree(ours, tmp_path / "ours"))
    assert (folder / "report" / "details_validation.csv").exists()
    recalibrate_scores(Predictor(tiny_run, device="cpu"), films, "scores", "all").save(folder)
    assert not (folder / "report" / "details_validation.csv").exists()
