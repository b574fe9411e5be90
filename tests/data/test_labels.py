"""What a source calls its films, and the label that is meant."""

import io
from pathlib import Path

import pytest
from PIL import Image

from pneumo_hf.data.labels import LabelNames
from pneumo_hf.data.merge import labels_of, load_sources
from pneumo_hf.data.sources import load_data, read_source
from pneumo_hf.errors import InputError
from pneumo_hf.labels import LABELS, Task
from tests.conftest import make_film

KINDS = ("NORMAL", "BACTERIA", "VIRUS")


@pytest.mark.parametrize(
    ("labels", "label_map", "name", "number"),
    [
        (LABELS, {}, "Pneumonia ", 1),
        (LABELS, {}, "virus", 1),
        (LABELS, {}, "1.0", 1),
        (LABELS, {}, "0", 0),
        (LABELS, {}, "True", 1),
        (LABELS, {}, "-1", None),  # uncertain
        (LABELS, {}, "", None),
        (LABELS, {}, "Effusion|Pneumonia", 1),
        (LABELS, {}, "normal|pneumonia", 1),
        (LABELS, {}, "normal|effusion", None),  # which no one can be
        (LABELS, {"No Finding": "NORMAL"}, "no finding", 0),
        (LABELS, {"2": "PNEUMONIA", "0": "NORMAL"}, "2.0", 1),
        (KINDS, {}, "bacteria", 1),
        (KINDS, {}, "pneumonia", None),  # of no known kind
        (KINDS, {"2": "VIRUS"}, "2", 2),
        (LABELS, {"0": "NORMAL", "1": "PNEUMONIA"}, "2", None),  # of which the map says enough
        (KINDS, {}, "bacteria|virus", None),
    ],
)
def test_a_name_is_taken_for_what_it_says(labels, label_map, name, number) -> None:
    names = LabelNames(labels, label_map)
    assert names.number(name) == number
    assert names.left_out.total() == (number is None)


@pytest.mark.parametrize(("labels", "name"), [(LABELS, "2"), (KINDS, "1"), (KINDS, "0.0")])
def test_a_number_without_a_name_is_refused(labels, name) -> None:
    with pytest.raises(InputError, match="is a number, and nothing says of what: name each with --label_map"):
        LabelNames(labels).number(name)


@pytest.mark.parametrize(
    ("names", "positive"),
    [
        (["normal", "pneumonia"], "PNEUMONIA"),
        (["VIRUS", "NORMAL", "BACTERIA"], "PNEUMONIA"),
        (["NORMAL", "PNEUMONIA", "COVID19"], "ABNORMAL"),
        (["NORMAL", "TUBERCULOSIS"], "TUBERCULOSIS"),
    ],
)
def test_normal_comes_first_and_the_rest_is_one_decision(names, positive) -> None:
    task = Task.of(names)
    assert (task.labels[0], task.positive, len(task.labels)) == ("NORMAL", positive, len(names))


@pytest.mark.parametrize("names", [["NORMAL"], ["PNEUMONIA", "VIRUS"], ["NORMAL", "normal", "VIRUS"], ["NORMAL", ""]])
def test_labels_without_normal_or_twice_are_refused(names) -> None:
    with pytest.raises(InputError, match="NORMAL and others, each once"):
        Task.of(names)


@pytest.fixture
def three_folders(tmp_path: Path) -> Path:
    for number in range(24):
        folder = (
            tmp_path / "films" / ("train" if number % 2 else "test") / ("NORMAL", "PNEUMONIA", "COVID19")[number % 3]
        )
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(make_film(number, number % 3 > 0)).save(folder / f"{number}.png")
    return tmp_path / "films"


def test_folders_say_the_labels(three_folders: Path, caplog) -> None:
    data = load_data(three_folders, labels=None)
    assert data["train"].features["label"].names == ["NORMAL", "PNEUMONIA", "COVID19"]
    assert "the labels are NORMAL (8), PNEUMONIA (8), COVID19 (8) (--labels NORMAL,PNEUMONIA leaves" in caplog.text
    assert [set(films["label"]) for films in data.values()] == [{0, 1, 2}] * 2
    two = load_data(three_folders, labels=["pneumonia", "normal"])
    assert two["train"].features["label"].names == ["NORMAL", "PNEUMONIA"] and len(two["train"]) == 8
    mapped = read_source(three_folders, None, {"COVID19": "PNEUMONIA"})
    assert mapped["train"].features["label"].names == ["NORMAL", "PNEUMONIA"] and len(mapped["train"]) == 12


def test_a_rare_or_empty_name_is_no_label(three_folders: Path, caplog) -> None:
    for name in ("unknown", "UNCERTAIN"):
        (three_folders / "train" / name).mkdir()
        for number in range(6):
            Image.fromarray(make_film(100 + number, True)).save(three_folders / "train" / name / f"{number}.png")
    data = read_source(three_folders, None)
    assert labels_of(data) == ["NORMAL", "PNEUMONIA", "COVID19"]
    assert "left out" in caplog.text and "6 unknown" in caplog.text


def test_a_folder_of_one_split_is_no_label(three_folders: Path, caplog) -> None:
    (three_folders / "train" / "COVID19").rename(three_folders / "train" / "masks")
    assert labels_of(read_source(three_folders, None)) == ["NORMAL", "PNEUMONIA"]
    assert "4 masks" in caplog.text and "4 COVID19" in caplog.text


def test_kinds_of_pneumonia_are_one_label_unless_they_are_asked_for(three_folders: Path, caplog) -> None:
    caplog.set_level("INFO")
    for split in ("train", "test"):
        (three_folders / split / "COVID19").rename(three_folders / split / "virus")
    assert labels_of(read_source(three_folders, None)) == ["NORMAL", "PNEUMONIA"]
    assert "8 VIRUS count as PNEUMONIA (--labels NORMAL,VIRUS separates them)" in caplog.text


def test_numbers_of_a_shard_are_refused_as_those_of_a_table(tmp_path: Path) -> None:
    from datasets import Dataset

    png = io.BytesIO()
    Image.fromarray(make_film(1, True)).save(png, "PNG")
    for number, labels in enumerate(([0.0, 1.0], ["0", "1"], [True, False], [0, 1])):
        folder = tmp_path / str(number)
        folder.mkdir()
        rows = {"image": [{"bytes": png.getvalue(), "path": None}] * 2, "label": labels}
        Dataset.from_dict(rows).to_parquet(folder / "train.parquet")
        with pytest.raises(InputError, match="its labels are the numbers"):
            read_source(folder)


def test_sources_of_different_labels_become_one(three_folders: Path, films_folder: Path, caplog) -> None:
    data, _ = load_sources([str(films_folder), str(three_folders)], labels=None)
    names = labels_of(data)
    assert names == ["NORMAL", "PNEUMONIA", "COVID19"]
    of_covid = [row["file_name"] for row in data["train"] if names[row["label"]] == "COVID19"]
    assert of_covid and all("COVID19/" in name for name in of_covid)
    assert (
        f"only {three_folders} has the label COVID19: what gives away the source gives away the label" in caplog.text
    )
