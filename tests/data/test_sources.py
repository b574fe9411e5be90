import itertools
import re
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value, load_dataset
from datasets import Image as ImageColumn
from PIL import Image

from pneumo_hf.data.files import read_film
from pneumo_hf.data.labels import parse_label_map
from pneumo_hf.data.listing import list_films
from pneumo_hf.data.sources import load_data
from pneumo_hf.errors import InputError
from pneumo_hf.imaging.film import load_xray
from pneumo_hf.labels import LABELS
from tests.conftest import make_film
from tests.imaging.test_dicom import dicom

ROOT = Path(__file__).parents[2]


def test_folder_and_its_zip_give_the_same_table(films_folder: Path, tmp_path: Path) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "films"), "zip", films_folder))
    folder, zipped = load_data(films_folder), load_data(archive)
    assert {split: len(films) for split, films in folder.items()} == {"train": 112, "test": 40}
    for split in folder:
        for column in ("label", "patient_id", "subtype", "file_name"):
            assert folder[split][column] == zipped[split][column]
        assert read_film(folder[split][0]["image"]) == read_film(zipped[split][0]["image"])


def test_kaggles_nested_copy_and_finders_leftovers_do_not_count(films_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(films_folder, tmp_path / "chest_xray")
    shutil.copytree(films_folder, tmp_path / "chest_xray" / "chest_xray")
    archive = shutil.make_archive(str(tmp_path / "films"), "zip", tmp_path, "chest_xray")
    leftovers = tmp_path / "chest_xray" / "train" / "NORMAL"
    (leftovers / ".DS_Store").write_bytes(b"x")
    (leftovers / "._IM-0001.jpeg").write_bytes(b"x")
    for source in (tmp_path / "chest_xray", archive):
        assert {split: len(films) for split, films in load_data(source).items()} == {"train": 112, "test": 40}


def test_a_name_below_a_folder_that_is_there_is_not_asked_of_the_hub(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "films").mkdir()
    with pytest.raises(InputError, match=r"no such data: films/wrong"):
        load_data("films/wrong")
    with pytest.raises(InputError, match=r"no such file or folder: films/wrong$"):
        list_films("films/wrong")


def test_bad_sources_name_what_is_missing(tmp_path: Path, films_folder: Path) -> None:
    flat = shutil.copytree(films_folder / "test" / "NORMAL", tmp_path / "flat")
    with pytest.raises(InputError, match="no folder that names one"):
        load_data(flat)
    shutil.rmtree(flat)
    with pytest.raises(InputError, match=r"no such data: .*nowhere"):
        load_data(tmp_path / "nowhere")
    with pytest.raises(InputError, match="expected split/LABEL/file"):
        load_data(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match="neither a folder, a zip"):
        load_data(tmp_path / "notes.txt")
    shutil.copytree(films_folder / "train" / "NORMAL", tmp_path / "one" / "train" / "NORMAL")
    with pytest.raises(InputError, match="no PNEUMONIA films"):
        load_data(tmp_path / "one")


def test_the_embedded_sample() -> None:
    data = load_data(ROOT / "data" / "chest_xray_sample")
    labels = {split: np.bincount(films["label"]).tolist() for split, films in data.items()}
    assert labels == {"train": [308, 891], "test": [234, 390]}
    assert not set(data["train"]["patient_id"]) & set(data["test"]["patient_id"])
    assert set(data["test"]["subtype"]) == {"normal", "bacteria", "virus"}
    assert load_xray(read_film(data["test"][0]["image"])).size == (224, 224)
    assert sum(path.stat().st_size for path in (ROOT / "data" / "chest_xray_sample").iterdir()) < 12e6


def test_the_embedded_sample_loads_with_datasets_alone(tmp_path: Path) -> None:
    films = load_dataset(str(ROOT / "data" / "chest_xray_sample"), split="test", cache_dir=str(tmp_path))
    assert films.features["label"].names == list(LABELS)
    assert films[0]["image"].size == (224, 224)


@pytest.mark.shared
def test_the_sample_holds_the_archives_own_bytes(shared: Path) -> None:
    original = {film["file_name"]: film for film in load_data(shared / "data" / "chest_xray_224.zip")["test"]}
    for film in load_data(ROOT / "data" / "chest_xray_sample")["test"].select(range(0, 624, 50)):
        assert read_film(film["image"]) == read_film(original[film["file_name"]]["image"])


def test_films_to_score_need_no_label(films_folder: Path, tmp_path: Path) -> None:
    film = next((films_folder / "test" / "NORMAL").iterdir())
    shutil.copy(film, tmp_path / "film.jpeg")
    assert [row["label"] for row in list_films(tmp_path)] == [tmp_path.name]
    assert [row["label"] for row in list_films(film)] == ["NORMAL"]
    assert len(list_films(ROOT / "data" / "chest_xray_sample" / "test-00000-of-00001.parquet")) == 624
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no films in"):
        list_films(tmp_path / "empty")


def test_parquet_of_images_and_labels_alone_gets_its_columns_and_labels_go_by_name(tmp_path: Path) -> None:
    films = load_dataset("parquet", data_files=str(ROOT / "data/chest_xray_sample/test*.parquet"), split="train")
    films.select_columns(["image", "label"]).to_parquet(tmp_path / "a" / "test-0.parquet")
    table, whole = load_data(tmp_path / "a")["test"], load_data(ROOT / "data" / "chest_xray_sample")["test"]
    assert table.column_names == whole.column_names
    assert table["patient_id"] == whole["patient_id"]
    swapped = films.cast_column("label", ClassLabel(names=["Pneumonia", "normal"]))
    swapped.to_parquet(tmp_path / "b" / "test-0.parquet")
    assert load_data(tmp_path / "b")["test"]["label"] == [1 - label for label in whole["label"]]
    films.cast_column("label", ClassLabel(names=["0", "1"])).to_parquet(tmp_path / "d" / "test-0.parquet")
    with pytest.raises(InputError, match="its labels are the numbers 0, 1"):
        load_data(tmp_path / "d")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "test-0.parquet").write_bytes(b"no parquet")
    with pytest.raises(InputError, match="cannot be read"):
        load_data(tmp_path / "c")


def test_a_csv_beside_films_says_labels_patients_and_more(films_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    films = sorted((films_folder / "train").rglob("*.jpeg"))[:6]
    for film in films:
        shutil.copy(film, folder / film.name)
    lines = ["Image Index;Finding Labels;Patient ID;View Position;Patient Age;Patient Gender"]
    lines += [f"{film.name};No Finding;p1;pa;045Y;F" for film in films[:2]]
    lines += [f"./{film.name};Infiltrate;p2;AP;7;m" for film in films[2:4]]
    lines += [f"{films[4].name};Hernia;p3;AP;7;m", "gone.png;No Finding;p4;AP;7;m"]
    (folder / "labels.csv").write_text("\ufeff" + "\n".join(lines))
    label_map = {"no finding": "NORMAL", "Infiltrate": "PNEUMONIA"}
    archive = shutil.make_archive(str(tmp_path / "zipped"), "zip", folder)
    for source in (folder, folder / "labels.csv", archive):
        data = load_data(source, label_map=label_map)["train"]
        assert data["label"] == [0, 0, 1, 1]
        assert data["patient_id"] == ["p1", "p1", "p2", "p2"]
        assert [data[0][column] for column in ("view", "age", "sex")] == ["PA", 45.0, "F"]
        assert [data[3][column] for column in ("view", "age", "sex")] == ["AP", 7.0, "M"]
        assert read_film(data[0]["image"]) == films[0].read_bytes()


def test_what_has_no_label_is_left_out_and_said(films_folder: Path, tmp_path: Path, caplog) -> None:
    shutil.copytree(films_folder, tmp_path / "films")
    (tmp_path / "films" / "train" / "NORMAL").rename(tmp_path / "films" / "train" / "Clear Lungs")
    (tmp_path / "films" / "test" / "PNEUMONIA").rename(tmp_path / "films" / "test" / "COVID19")
    shutil.copytree(tmp_path / "films" / "test" / "NORMAL", tmp_path / "films" / "test" / "other")
    data = load_data(tmp_path / "films", label_map=parse_label_map("Clear Lungs=NORMAL, covid19=pneumonia"))
    assert {split: np.bincount(films["label"]).tolist() for split, films in data.items()} == {
        "train": [40, 72],
        "test": [16, 24],
    }
    assert "left out 16 other" in caplog.text
    with pytest.raises(InputError, match="the train split has no NORMAL films"):
        load_data(tmp_path / "films", label_map={"COVID19": "PNEUMONIA"})
    with pytest.raises(
        InputError, match="label_map: COVID19=PNEUMONA, but the labels are NORMAL, PNEUMONIA; PNEUMONIA"
    ):
        load_data(tmp_path / "films", label_map={"COVID19": "PNEUMONA"})
    for bad in ("COVID19", "{broken"):
        with pytest.raises(InputError, match="neither JSON nor NAME=LABEL"):
            parse_label_map(bad)
    assert parse_label_map('{"COVID19": "PNEUMONIA"}') == {"COVID19": "PNEUMONIA"}


def test_three_classes_come_from_the_file_names(films_folder: Path) -> None:
    data = load_data(films_folder, labels=("NORMAL", "BACTERIA", "VIRUS"))["train"]
    assert data.features["label"].names == ["NORMAL", "BACTERIA", "VIRUS"]
    assert set(zip(data["label"], data["subtype"], strict=True)) == {(0, "normal"), (1, "bacteria"), (2, "virus")}


def test_folders_by_label_alone_are_one_split(films_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(films_folder / "train", tmp_path / "films")
    assert {split: len(films) for split, films in load_data(tmp_path / "films").items()} == {"train": 112}


@pytest.mark.parametrize("size", [28, 64])
def test_medmnist(size: int, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    arrays = {}
    for split, films in (("train", 30), ("val", 8), ("test", 12)):
        arrays[f"{split}_images"] = random.integers(0, 255, (films, size, size), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(films) % 2)[:, None]
    np.savez(tmp_path / "pneumoniamnist_64.npz", **arrays)
    data = load_data(tmp_path / "pneumoniamnist_64.npz")
    assert {split: len(films) for split, films in data.items()} == {"train": 30, "validation": 8, "test": 12}
    film = load_xray(read_film(data["test"][3]["image"]))
    np.testing.assert_array_equal(film, arrays["test_images"][3])
    assert data["test"]["label"] == arrays["test_labels"].ravel().tolist()
    (tmp_path / "broken.npz").write_bytes((tmp_path / "pneumoniamnist_64.npz").read_bytes()[:2000])
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    for name in ("broken.npz", "other.npz"):
        with pytest.raises(InputError, match="not MedMNIST's"):
            load_data(tmp_path / name)


def test_kaggle_without_the_package_or_the_network_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, films_folder: Path
) -> None:
    import kagglehub
    from requests import ConnectionError as Unreachable

    def unreachable(handle: str) -> str:
        raise Unreachable("no route")

    monkeypatch.setattr(kagglehub, "dataset_download", unreachable)
    with pytest.raises(InputError, match=r"cannot be downloaded \(ConnectionError\).*kaggle.json.*by hand"):
        load_data("kaggle:paultimothymooney/chest-xray-pneumonia")
    monkeypatch.setattr(kagglehub, "dataset_download", lambda handle: str(films_folder))  # what it returns: a folder
    assert len(load_data("kaggle:paultimothymooney/chest-xray-pneumonia")["test"]) == 40
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(InputError, match=r"pip install kagglehub"):
        load_data("kaggle:paultimothymooney/chest-xray-pneumonia")


def test_dicom_without_suffix_in_a_zip_and_hashed_patients(tmp_path: Path) -> None:
    for number in range(4):
        tags = {"PatientID": f"MRN-{number // 2}", "PatientAge": "003Y", "PatientSex": "M", "ViewPosition": "AP"}
        label = ("NORMAL", "PNEUMONIA")[number % 2]
        (tmp_path / "films" / "test" / label).mkdir(parents=True, exist_ok=True)
        name = f"IM{number:06d}" if number < 2 else f"{number}.dcm"
        (tmp_path / "films" / "test" / label / name).write_bytes(dicom(make_film(number, True), Modality="DX", **tags))
        (tmp_path / "films" / "test" / label / "README").write_text("no film")
    archive = shutil.make_archive(str(tmp_path / "zipped"), "zip", tmp_path / "films")
    for source in (tmp_path / "films", archive):
        films = load_data(source)["test"]
        assert len(films) == 4
        patients = films["patient_id"]
        assert len(set(patients)) == 2
        assert all(re.fullmatch("[0-9a-f]{16}", patient) for patient in patients)
        assert [films[0][c] for c in ("view", "age", "sex", "body_part", "modality")] == ["AP", 3.0, "M", None, "DX"]


def write(path: Path, seed: int, pneumonia: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(make_film(seed, pneumonia)).save(path, "PNG")
    return path


def test_films_numbered_again_in_each_split_are_different_patients(tmp_path: Path) -> None:
    for number, (split, label) in enumerate(itertools.product(("train", "test"), LABELS)):
        for film in range(3):
            write(tmp_path / "films" / split / label / f"{film}.png", 10 * number + film)
    data = load_data(tmp_path / "films")
    assert len({patient for films in data.values() for patient in films["patient_id"]}) == 12
    shards = tmp_path / "hub" / "default"
    for split, films in data.items():
        (shards / split).mkdir(parents=True)  # the layout of the Hub's own conversion to Parquet
        rows = [{"image": {"bytes": read_film(film["image"]), "path": None}, "label": film["label"]} for film in films]
        columns = Features({"image": ImageColumn(), "label": ClassLabel(names=["normal", "Pneumonia"])})
        Dataset.from_list(rows, features=columns).to_parquet(shards / split / "0000.parquet")
    again = load_data(tmp_path / "hub")
    assert {split: len(films) for split, films in again.items()} == {"train": 6, "test": 6}
    assert not set(again["train"]["patient_id"]) & set(again["test"]["patient_id"])


def test_films_of_one_name_in_two_folders_and_in_folders_below_the_label_are_all_kept(tmp_path: Path, caplog) -> None:
    for seed, place in enumerate(("hospA/train", "hospB/train", "train")):
        write(tmp_path / place / "NORMAL" / "1.png", seed)
        write(tmp_path / place / "PNEUMONIA" / "patient7" / "1.png", 100 + seed, True)
    write(tmp_path / "lost.png", 50)
    (tmp_path / "train" / "NORMAL" / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "train" / "loop").symlink_to(tmp_path)
    films = load_data(tmp_path)["train"]
    assert sorted(films["label"]) == [0] * 3 + [1] * 3
    assert len(set(films["file_name"])) == len(set(films["patient_id"])) == 6
    assert "1 films lie outside split/LABEL and are passed over, the first lost.png" in caplog.text


def test_odd_names_in_a_zip(tmp_path: Path) -> None:
    for number, name in enumerate(("a::b.png", "c d%3A.png", "1.2.840.113619.2")):
        for label in LABELS:
            content = write(tmp_path / "film", number + 10 * (label == "PNEUMONIA")).read_bytes()
            content = dicom(make_film(number, True)) if name[0] == "1" else content
            with zipfile.ZipFile(tmp_path / "odd::.zip", "a") as archive:
                archive.writestr(f"train/{label}/{name}", content)
    films = load_data(tmp_path / "odd::.zip")["train"]
    assert len(films) == 6
    assert all(load_xray(read_film(film["image"])) for film in films)


def test_tables_for_each_split_and_tables_that_are_not_meant(tmp_path: Path) -> None:
    films = [write(tmp_path / "set" / "images" / f"{n}.png", n) for n in range(8)]
    for split, of in (("train", films[:4]), ("test", films[4:])):
        lines = [f"images\\{film.name},{LABELS[n % 2]}" for n, film in enumerate(of)]
        (tmp_path / "set" / f"{split}.csv").write_text("path,label\n" + "\n".join(lines))
    data = load_data(tmp_path / "set")
    assert {split: sorted(f[-5:] for f in films["file_name"]) for split, films in data.items()} == {
        "train": ["0.png", "1.png", "2.png", "3.png"],
        "test": ["4.png", "5.png", "6.png", "7.png"],
    }
    for n in range(8):
        write(tmp_path / "plain" / LABELS[n % 2] / f"{n}.png", n)
    (tmp_path / "plain" / "preds.csv").write_text("path,label\nNORMAL/0.png,PNEUMONIA")
    (tmp_path / "plain" / "junk.csv").write_text("path,label\n" + 'x,"' + "y" * 200_000)
    assert load_data(tmp_path / "plain")["train"]["label"].count(0) == 4


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["0.png,NORMAL,holdout", "1.png,PNEUMONIA,train"], "the CSV puts 0.png into holdout, none of train"),
        (["0.png,NORMAL,train", "./0.png,PNEUMONIA,train"], "says two things of"),
        (["0.png,NORMAL,train", "0.png,NORMAL,test"], "says two things of"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(rows: list[str], message: str, tmp_path: Path) -> None:
    for number in range(2):
        write(tmp_path / f"{number}.png", number)
    (tmp_path / "labels.csv").write_text("\n".join(["path,label,split", *rows]))
    with pytest.raises(InputError, match=message):
        load_data(tmp_path)


def test_columns_of_other_types_and_labels_that_are_numbers(tmp_path: Path) -> None:
    content = write(tmp_path / "film.png", 1).read_bytes()
    row = {"image": {"bytes": content, "path": "a.png"}, "patient_id": 7, "sex": 0, "age": "045Y"}
    columns = Features(
        {
            "image": ImageColumn(),
            "label": Value("int64"),
            "patient_id": Value("int64"),
            "sex": ClassLabel(names=["F", "M"]),
            "age": Value("string"),
        }
    )
    rows = [{**row, "label": number} for number in (0, 1)]
    (tmp_path / "set").mkdir()
    Dataset.from_list(rows, features=columns).to_parquet(tmp_path / "set" / "train.parquet")
    with pytest.raises(InputError, match="numbers 0, 1.*label_map like 0=NORMAL,1=PNEUMONIA"):
        load_data(tmp_path / "set")
    films = load_data(tmp_path / "set", label_map={"0": "NORMAL", "1": "PNEUMONIA"})["train"]
    assert [films[1][column] for column in ("label", "patient_id", "sex", "age")] == [1, "7", "F", 45.0]
