import json
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pneumo_hf.__main__ import main
from pneumo_hf.data.duplicates import near_pairs
from pneumo_hf.data.leakage import assert_no_leaks, find_leaks
from pneumo_hf.data.shortcuts import RESAMPLES, linear_baselines, region_features
from pneumo_hf.errors import InputError
from pneumo_hf.imaging.quality import MEAN_CHEST, thumbnail
from tests.conftest import make_film, write_films
from train_hf import main as train


def audit(source: Path, output_dir: Path, *options: str) -> dict:
    main(["audit", str(source), "--output_dir", str(output_dir), *options])
    return json.loads((output_dir / "audit.json").read_text())


def plant_faults(folder: Path, twice: set[str] = frozenset()) -> dict[str, set]:
    """Spoil a set in Kaggle's layout, but no film that it has `twice`; what was planted, as names below it."""

    def name(path: Path) -> str:
        return path.relative_to(folder).as_posix()

    random = np.random.default_rng(0)
    train = {label: sorted((folder / "train" / label).iterdir()) for label in ("NORMAL", "PNEUMONIA")}
    whole = [path for path in train["NORMAL"] + train["PNEUMONIA"] if name(path) not in twice]
    picked = [Path(path) for path in random.permutation(whole)[:20]]
    planted = {"truncated": set(), "empty": set(), "html": set(), "exact": set(), "near": set(), "conflict": set()}

    def beside(path: Path, kind: str, split: str | None = None) -> Path:
        place = folder / (split or "train") / path.parent.name
        return place / f"planted-{kind}-{len(planted[kind])}.jpeg"

    for path in picked[:5]:
        copy = beside(path, "truncated")
        content = path.read_bytes()
        copy.write_bytes(content[: int(len(content) * random.uniform(0.2, 0.95))])
        planted["truncated"].add(name(copy))
    for path in picked[5:8]:
        copy = beside(path, "empty")
        copy.write_bytes(b"")
        planted["empty"].add(name(copy))
    for path in picked[8:10]:
        copy = beside(path, "html")
        copy.write_text("<!DOCTYPE html><html><body>404 not found</body></html>")
        planted["html"].add(name(copy))
    for path in picked[10:14]:
        copy = beside(path, "exact", "test")
        shutil.copy(path, copy)
        planted["exact"].add(frozenset((name(path), name(copy))))
    for path in picked[14:18]:
        copy = beside(path, "near", "test")
        film = Image.open(path).convert("L")
        scale = random.uniform(0.6, 1.4)
        size = (round(film.width * scale), round(film.height * scale * random.uniform(0.9, 1.1)))
        film.resize(size, Image.Resampling.BICUBIC).save(copy, quality=int(random.integers(40, 80)))
        planted["near"].add(frozenset((name(path), name(copy))))
    for path in picked[18:20]:
        other = "NORMAL" if path.parent.name == "PNEUMONIA" else "PNEUMONIA"
        copy = folder / "train" / other / f"planted-conflict-{len(planted['conflict'])}.jpeg"
        shutil.copy(path, copy)
        planted["conflict"].add(frozenset((name(path), name(copy))))
    return planted


def check_planted(found: dict, planted: dict[str, set], others: int = 0) -> None:
    """Every planted fault is found, and nothing else but `others` groups of copies that were there before."""
    assert {film["path"] for film in found["unreadable"]} == (
        planted["truncated"] | planted["empty"] | planted["html"]
    )
    reasons = {film["path"]: film["reason"] for film in found["unreadable"]}
    assert {path for path, reason in reasons.items() if "truncated" in reason} == planted["truncated"]
    assert {path for path, reason in reasons.items() if reason == "empty file"} == planted["empty"]
    assert {film["path"] for film in found["wrong_extension"]} == planted["html"]
    assert {frozenset(pair) for pair in found["leakage"]["exact"]} == planted["exact"]
    assert {frozenset(pair) for pair in found["leakage"]["near"]} == planted["near"]
    exact = found["duplicates"]["exact"]
    assert exact["conflicting_labels"] == len(planted["conflict"])
    conflicts = {frozenset(group["films"]) for group in exact["list"] if len(group["labels"]) > 1}
    assert all(any(pair <= group for group in conflicts) for pair in planted["conflict"])
    assert exact["groups"] == others + len(planted["exact"]) + len(planted["conflict"])
    assert found["duplicates"]["near"]["pairs"] == len(planted["near"])


def test_every_planted_fault_is_found_and_none_invented(tmp_path: Path) -> None:
    folder = write_films(tmp_path / "films", {"train": (30, 40), "test": (12, 12)}, size=(120, 140))
    clean = audit(folder, tmp_path / "clean")
    assert clean["counts"] == {"train": {"NORMAL": 30, "PNEUMONIA": 40}, "test": {"NORMAL": 12, "PNEUMONIA": 12}}
    assert clean["unreadable"] == clean["wrong_extension"] == clean["looks_inverted"] == []
    assert clean["leakage"] == {"patients": [], "exact": [], "near": []}
    assert clean["duplicates"]["exact"]["groups"] == clean["duplicates"]["near"]["pairs"] == 0
    planted = plant_faults(folder)
    check_planted(audit(folder, tmp_path / "audit"), planted)
    page = (tmp_path / "audit" / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 6  # counts and baselines are drawn by the page
    listed = json.loads((tmp_path / "audit" / "audit.json").read_text())["label_doubts"]["list"]
    assert all(f"<td>{film['path']}<td>{film['label']}<td>{film['looks_like']}</tr>" in page for film in listed[:100])
    assert [copy for copy in planted["conflict"] if copy & {film["path"] for film in listed}]  # one label is wrong
    assert not re.search(r'(src|href)="(?!data:|#)', page)  # self-contained
    assert all(copy in page for pair in planted["exact"] | planted["near"] for copy in pair)
    assert (tmp_path / "audit" / "duplicates.png").stat().st_size > 10_000


def test_training_on_a_set_that_leaks_is_refused_and_prepare_cleans_it(tmp_path: Path, tiny_recipe: list[str]) -> None:
    folder = write_films(tmp_path / "films", {"train": (30, 40), "test": (12, 12)}, size=(120, 140))
    planted = plant_faults(folder)
    data = ["--dataset", str(folder), "--cache_dir", str(tmp_path / "cache")]
    with pytest.raises(InputError, match="4 pairs of films .* exact copies .*4 pairs .* near-duplicates"):
        train([*tiny_recipe, *data, "--output_dir", str(tmp_path / "run")])
    assert not (tmp_path / "run" / "config.json").exists()
    main(["prepare", str(folder), "--drop_leaks", "--output_dir", str(tmp_path / "clean")])
    left_out = dict(line.split(",", 1) for line in (tmp_path / "clean.rejected.csv").read_text().splitlines()[1:])
    in_test = {path for path, reason in left_out.items() if reason == "its patient or a copy of it is in test"}
    leaking = {path for pair in planted["exact"] | planted["near"] for path in pair if path.startswith("train/")}
    assert leaking <= in_test  # and what else there is of those patients
    assert {path.split("/")[2].split("_")[0][:7] for path in in_test} == {
        path.split("/")[2].split("_")[0][:7] for path in leaking
    }
    assert left_out.keys() == in_test | planted["truncated"] | planted["empty"] | planted["html"]
    assert audit(tmp_path / "clean", tmp_path / "audit")["leakage"] == {"patients": [], "exact": [], "near": []}


def test_a_patient_in_two_splits_and_a_negative_film_are_found(tmp_path: Path) -> None:
    folder = write_films(tmp_path / "films", {"train": (12, 12), "test": (6, 6)}, size=(120, 140))
    Image.fromarray(make_film(900, False, (120, 140))).save(folder / "test" / "NORMAL" / "IM-0000-0099.jpeg")
    ImageOps.invert(Image.open(MEAN_CHEST)).resize((140, 120)).save(folder / "test" / "NORMAL" / "IM-9000-0001.jpeg")
    (folder / "test" / "NORMAL" / "IM-9001-0001.png").write_bytes(
        (folder / "test" / "NORMAL" / "IM-9000-0001.jpeg").read_bytes()
    )
    found = audit(folder, tmp_path / "audit")
    assert found["leakage"]["patients"] == ["IM-0000"]
    assert {film["path"][-16:] for film in found["looks_inverted"]} == {"IM-9000-0001.jpeg"[-16:], "IM-9001-0001.png"}
    assert found["wrong_extension"] == [{"path": "test/NORMAL/IM-9001-0001.png", "kind": "JPEG"}]
    assert found["duplicates"]["exact"]["spare_films"] == 1


def test_baselines_are_high_where_the_border_shows_the_label_and_half_where_it_does_not() -> None:
    random = np.random.default_rng(0)
    films = random.integers(0, 255, (300, 56, 56), dtype=np.uint8)
    labels, patients = np.arange(300) % 2, np.arange(300) // 2 + 1000 * (np.arange(300) % 2)
    films[labels == 1, :4, :4] //= 2  # a darker corner
    is_test = np.arange(300) >= 200
    for test in (is_test, np.zeros(300, bool)):  # on test films, and by cross-validation
        floors = linear_baselines(region_features(films), labels, patients, test)
        assert floors["corners"]["value"] > 0.95
        noise = linear_baselines({"noise": random.normal(size=(300, 5))}, labels, patients, test)["noise"]
        assert 0.3 < noise["value"] < 0.7
        assert noise["ci95"][0] < noise["value"] < noise["ci95"][1]


def test_the_area_of_a_baseline_is_scikit_learns_in_every_resample() -> None:
    random, patients = np.random.default_rng(0), np.arange(60) // 2
    labels, values = (patients % 3 > 0).astype(int), random.integers(0, 5, (120, 1)).astype(float)  # with ties
    found = linear_baselines({"grey": values}, np.tile(labels, 2), np.tile(patients, 2), np.arange(120) >= 60)["grey"]
    ridge = make_pipeline(StandardScaler(), RidgeClassifier(alpha=1000.0, class_weight="balanced"))
    scores = ridge.fit(values[:60], labels).decision_function(values[60:])
    assert found["value"] == pytest.approx(roc_auc_score(labels, scores))
    random, areas = np.random.default_rng(0), []
    for _ in range(RESAMPLES):
        weights = np.bincount(random.integers(30, size=30), minlength=30)[patients]
        areas.append(roc_auc_score(labels, scores, sample_weight=weights))
    assert found["ci95"] == pytest.approx(np.percentile(areas, [2.5, 97.5]).tolist())


def test_near_duplicates_are_the_pairs_that_all_pairs_would_give() -> None:
    """The index against the plain way, on films and copies of them with noise from nothing to much."""
    from pneumo_hf.data.duplicates import NEAR, _details

    random = np.random.default_rng(0)
    films = [make_film(seed, seed % 2 == 0, (112, 112)).astype(float) for seed in range(150)]
    films += [
        film + random.normal(0, noise, film.shape) for film, noise in zip(films, np.linspace(0, 40, 60), strict=False)
    ]
    thumbnails = np.stack([thumbnail(Image.fromarray(film.clip(0, 255).astype(np.uint8))) for film in films])
    similar = _details(thumbnails) @ _details(thumbnails).T
    plain = {(i, j) for i, j in zip(*np.nonzero(np.triu(similar, 1) >= NEAR), strict=True)}
    contents = np.array([str(number) for number in range(len(films))])
    assert {(i, j) for i, j, _ in near_pairs(contents, thumbnails)} == plain
    assert 10 < len(plain) < 60


def test_a_leak_is_found_among_more_copies_than_neighbours() -> None:
    """A dozen near-copies of one film in train and a dozen in test, each nearer to its own than to the others."""
    film = make_film(1, True, (112, 112)).astype(float)
    shade, random = np.linspace(-6, 6, 112)[:, None], np.random.default_rng(0)
    films = [film + shade * (number >= 12) + random.normal(0, 1, film.shape) for number in range(24)]
    thumbnails = np.stack([thumbnail(Image.fromarray(film.clip(0, 255).astype(np.uint8))) for film in films])
    contents, splits = np.arange(24).astype(str), np.repeat(["train", "test"], 12)
    near = near_pairs(contents, thumbnails, splits)
    assert find_leaks(splits, contents, contents, near)["near"]
    with pytest.raises(InputError, match="near-duplicates"):
        assert_no_leaks(splits, contents, contents, thumbnails, contents)


def test_blank_films_are_no_duplicates_of_one_another(tmp_path: Path) -> None:
    blank = np.stack([np.full((56, 56), level, np.uint8) for level in (0, 100, 200)])
    assert near_pairs(np.array(["a", "b", "c"]), blank) == []


@pytest.mark.shared
@pytest.mark.slow
def test_the_whole_kermany_set(shared: Path, tmp_path: Path) -> None:
    """The figures of the set as others measured them (../shared/DATA.md)."""
    archive = shared / "data" / "chest_xray_224.zip"
    found = audit(archive, tmp_path / "audit")
    assert found["counts"] == {"train": {"NORMAL": 1341, "PNEUMONIA": 3875}, "test": {"NORMAL": 234, "PNEUMONIA": 390}}
    exact = found["duplicates"]["exact"]
    spread = ("groups", "spare_films", "across_splits", "conflicting_labels")
    assert [exact[key] for key in spread] == [30, 32, 0, 0]
    assert sum(group["splits"] == ["test"] for group in exact["list"]) == 6
    assert found["leakage"] == {"patients": [], "exact": [], "near": []}
    assert found["duplicates"]["near"]["pairs"] == len(found["unreadable"]) == len(found["looks_inverted"]) == 0
    floors = {name: floor["value"] for name, floor in found["shortcut_floors"].items()}
    assert floors["corners"] == pytest.approx(0.80, abs=0.03)
    assert floors["border_ring"] == pytest.approx(0.83, abs=0.03)
    assert floors["outside_central_box"] == pytest.approx(0.83, abs=0.03)


@pytest.mark.long
@pytest.mark.shared
def test_every_fault_is_found_in_a_damaged_copy_of_the_whole_set(shared: Path, tmp_path: Path) -> None:
    archive = shared / "data" / "chest_xray_224.zip"
    exact = audit(archive, tmp_path / "audit")["duplicates"]["exact"]
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(tmp_path)
    planted = plant_faults(tmp_path / "chest_xray", {film for group in exact["list"] for film in group["films"]})
    check_planted(audit(tmp_path / "chest_xray", tmp_path / "damaged"), planted, others=30)


def test_an_empty_or_unreadable_set_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for label in ("NORMAL", "PNEUMONIA"):
        (tmp_path / "films" / "train" / label).mkdir(parents=True)
        (tmp_path / "films" / "train" / label / "a.jpeg").write_bytes(b"no film")
    with pytest.raises(SystemExit) as stop:
        main(["audit", str(tmp_path / "films"), "--output_dir", str(tmp_path / "audit")])
    assert stop.value.code == 2
    assert "no film can be read" in capsys.readouterr().err.splitlines()[-1]
