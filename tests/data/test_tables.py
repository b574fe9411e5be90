"""Tables that others write: splits, labels, places of films and clinical columns, none of them misread."""

import json
import os
import unicodedata
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Value
from datasets import Image as ImageColumn

from pneumo_hf.data.files import UNREADABLE, read_film
from pneumo_hf.data.listing import list_films
from pneumo_hf.data.merge import load_sources
from pneumo_hf.data.pixels import FilmDataset
from pneumo_hf.data.schema import split_in
from pneumo_hf.data.sources import load_data, read_source
from pneumo_hf.data.tables import read_clinical
from pneumo_hf.errors import InputError
from pneumo_hf.evaluation.subgroups import subgroups
from pneumo_hf.labels import LABELS
from tests.data.test_public_sets import lay, told

NAMES = [f"f{number}.png" for number in range(4)]
WORDS = ["NORMAL", "PNEUMONIA"] * 2


def table(rows: list[tuple], header: str = "path,label") -> list[str]:
    return [header, *(",".join(map(str, row)) for row in rows)]


def splits_of(source: Path, **options) -> dict[str, str]:
    return {
        film["file_name"].rpartition("/")[2]: split
        for split, films in read_source(source, **options).items()
        for film in films
    }


# 9: splits

FIRST, LAST = NAMES[:2], NAMES[2:]
MEANT = dict.fromkeys(FIRST, "train") | dict.fromkeys(LAST, "test")


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train_COVIDx9A.csv", "test_COVIDx9A.csv"),
        ("train_labels.csv", "test_labels.csv"),
        ("labels_train.csv", "labels_test.csv"),
        ("labelsTrain.tsv", "labelsTest.tsv"),
        ("trainset.jsonl", "testset.jsonl"),
        ("train/metadata.csv", "test/metadata.csv"),
    ],
)
def test_the_name_of_a_table_says_the_split(train: str, test: str, tmp_path: Path) -> None:
    tables = {}
    for name, films in ((train, FIRST), (test, LAST)):
        rows = [(f"/images/{film}" if "/" in name else film, WORDS[at]) for at, film in enumerate(films)]
        tables[name] = (
            [json.dumps(dict(zip(("path", "label"), row, strict=True))) for row in rows]
            if name.endswith("jsonl")
            else [line.replace(",", "\t") if name.endswith("tsv") else line for line in table(rows)]
        )
    assert splits_of(lay(tmp_path / "set", [f"images/{name}" for name in NAMES], tables)) == MEANT


@pytest.mark.parametrize("folder", ["{}", "{}_images", "stage_2_{}_images", "x/{}/y"])
def test_the_folder_of_a_film_says_the_split(folder: str, tmp_path: Path) -> None:
    places = [f"{folder.format(MEANT[name])}/{name}" for name in NAMES]
    root = lay(tmp_path / "one", places, {"labels.csv": table(list(zip(places, WORDS, strict=True)))})
    assert splits_of(root) == splits_of(root / "labels.csv") == MEANT
    places = [f"{folder.format(MEANT[name])}/{WORDS[at]}/{name}" for at, name in enumerate(NAMES)]
    assert splits_of(lay(tmp_path / "no table", places, {})) == MEANT


@pytest.mark.parametrize("column", ["Dataset_type", "split", "Partition", "subset", "usage"])
def test_a_column_says_the_split_whatever_it_is_called(column: str, tmp_path: Path) -> None:
    rows = [(name, WORDS[at], MEANT[name].upper()) for at, name in enumerate(NAMES)]
    assert splits_of(lay(tmp_path / "set", NAMES, {"labels.csv": table(rows, f"path,label,{column}")})) == MEANT


def test_a_list_of_names_or_a_table_without_labels_adds_splits(tmp_path: Path) -> None:
    labels = {"labels.csv": table(list(zip(NAMES, WORDS, strict=True)))}
    assert splits_of(lay(tmp_path / "list", NAMES, labels | {"test_list.txt": LAST})) == MEANT
    splits = {"splits.csv": table(list(MEANT.items()), "file,split")}
    assert splits_of(lay(tmp_path / "table", NAMES, labels | splits)) == MEANT
    folders = [f"{WORDS[at]}/{name}" for at, name in enumerate(NAMES)]
    assert splits_of(lay(tmp_path / "folders", folders, {"test.txt": LAST})) == MEANT


@pytest.mark.parametrize(
    ("films", "tables", "message"),
    [
        (NAMES, {"labels.csv": FIRST, "holdout.csv": LAST}, "holdout seems to mean a split; call it train"),
        (["a/f0.png", "unseen/f1.png"], {"labels.csv": ["a/f0.png", "unseen/f1.png"]}, "unseen seems to mean a split"),
        (
            ["test/f0.png", "f1.png"],
            {"train.csv": ["test/f0.png", "f1.png"]},
            "in train, and its table .* called test",
        ),
        (["test/train/f0.png", "f1.png"], {"labels.csv": ["test/train/f0.png", "f1.png"]}, "in test and in train"),
        (["eval/NORMAL/f0.png", "tune/PNEUMONIA/f1.png"], {}, "eval seems to mean a split"),
    ],
)
def test_what_seems_a_split_and_is_none_stops_the_run(films, tables, message, tmp_path: Path) -> None:
    rows = {name: [(film, WORDS[at]) for at, film in enumerate(of)] for name, of in tables.items()}
    root = lay(tmp_path / "set", films, {name: table(lines) for name, lines in rows.items()})
    with pytest.raises(InputError, match=message):
        read_source(root)


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        ("path,label,is_test", ["f0.png,NORMAL,0", "f1.png,NORMAL,1"], "is_test seems to mean a split"),
        ("path,label,split,Subset", ["f0.png,NORMAL,train,test"], "says two things of f0.png: it is in test and in"),
        ("path,label,Label", ["f0.png,NORMAL,PNEUMONIA"], "two columns called label"),
    ],
)
def test_columns_that_contradict_one_another_are_refused(header, rows, message, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read_source(lay(tmp_path / "set", NAMES, {"labels.csv": [header, *rows]}))


def test_films_of_no_split_where_others_have_one_are_left_out_and_said(tmp_path: Path, caplog) -> None:
    rows = [("f0.png", "NORMAL", "train"), ("f1.png", "PNEUMONIA", ""), ("f2.png", "NORMAL", "test")]
    root = lay(tmp_path / "set", NAMES, {"labels.csv": table(rows, "path,label,split")})
    assert splits_of(root) == {"f0.png": "train", "f2.png": "test"}
    assert "left out 1 films of no split, the first f1.png" in caplog.text
    assert "left out 1 films that no table names" in caplog.text


def test_shards_are_named_as_tables_are(tmp_path: Path) -> None:
    row = {"image": {"bytes": b"x", "path": None}, "label": "NORMAL"}
    shards = Dataset.from_list(
        [row, row | {"label": "PNEUMONIA"}], features=Features(image=ImageColumn(), label=Value("string"))
    )
    for name in ("train_COVIDx", "test_COVIDx"):
        (tmp_path / "set").mkdir(exist_ok=True)
        shards.to_parquet(tmp_path / "set" / f"{name}.parquet")
    assert {split: len(films) for split, films in read_source(tmp_path / "set").items()} == {"train": 2, "test": 2}
    shards.to_parquet(tmp_path / "set" / "holdout.parquet")
    with pytest.raises(InputError, match="holdout.parquet in .* seems to mean a split"):
        read_source(tmp_path / "set")


def test_words_in_names() -> None:
    found = {
        name: split_in(name)
        for name in ("Latest", "attested", "trainer", "contest", "val-images", "devset", "évaltest")
    }
    assert found == dict.fromkeys(found) | {"val-images": "validation", "devset": "validation"}


# 10: labels


def test_the_message_of_unusable_labels_has_what_was_found(tmp_path: Path) -> None:
    root = lay(tmp_path / "a", NAMES, {"labels.csv": table([(name, "Hernia", 3) for name in NAMES], "path,label,age")})
    with pytest.raises(
        InputError, match=r"a known label \(found 4 Hernia\); labels.csv has the columns path, label, age"
    ):
        read_source(root)
    root = lay(tmp_path / "b", NAMES, {"labels.csv": table([(name, 1) for name in NAMES], "path,severity")})
    for source in (root, root / "labels.csv"):
        with pytest.raises(InputError, match="labels.csv has the columns path, severity"):
            read_source(source)
    root = lay(tmp_path / "c", NAMES, {"labels.csv": table(list(zip(NAMES, (0, 1, 2, 1), strict=True)))})
    with pytest.raises(InputError, match=r"the label 2 is a number.*found 0, 1, 2; labels.csv has the columns"):
        read_source(root)


def test_columns_of_one_and_zero_are_findings(tmp_path: Path, caplog) -> None:
    header = "Image,No Finding,Pneumonia,Edema,Support Devices,Fold"
    rows = [
        ("1.0", "", "", "1.0", 1),
        ("", "1.0", "1.0", "", 2),
        ("", "-1.0", "1.0", "", 3),
        ("0.0", "0.0", "1.0", "", 4),
    ]
    lines = [(name, *row) for name, row in zip(NAMES, rows, strict=True)]
    data = read_source(lay(tmp_path / "set", NAMES, {"labels.csv": table(lines, header)}), None)
    assert data["train"]["label"] == [0, 1]
    assert data["train"].features["label"].names == ["NORMAL", "PNEUMONIA"]
    assert "1 Pneumonia (uncertain)" in caplog.text and "1 Edema" in caplog.text


@pytest.mark.parametrize("odd", [2, -1, 0.5, np.nan])
def test_an_npz_with_other_labels_is_refused(odd, tmp_path: Path) -> None:
    images, labels = np.zeros((3, 28, 28), np.uint8), np.array([[0], [1], [odd]])
    np.savez(tmp_path / "pneumoniamnist.npz", train_images=images, train_labels=labels)
    with pytest.raises(InputError, match=rf"0, NORMAL, and 1, PNEUMONIA, alone, but {odd} in train_labels"):
        read_source(tmp_path / "pneumoniamnist.npz")


def test_labels_of_shards_are_read_as_those_of_tables(tmp_path: Path) -> None:
    def shard(name: str, labels: list, kind) -> Path:
        rows = [{"image": {"bytes": b"x", "path": None}, "label": label} for label in labels]
        (tmp_path / name).mkdir()
        columns = Features(image=ImageColumn(), label=kind)
        Dataset.from_list(rows, features=columns).to_parquet(tmp_path / name / "train.parquet")
        return tmp_path / name

    lists = shard("lists", [["No Finding"], ["Pneumonia", "Edema"], ["Mass"]], [Value("string")])
    assert read_source(lists)["train"]["label"] == [0, 1]
    with pytest.raises(InputError, match="numbers 0, 1, and it does not say of what"):
        read_source(shard("floats", [0.0, 1.0, -1.0], Value("float32")))
    with pytest.raises(InputError, match="no film has a known label .found 2 Hernia"):
        read_source(shard("others", ["Hernia", "Hernia"], Value("string")))


# 11: patients


def test_unknown_patients_are_said_once_and_known_ones_not_at_all(tmp_path: Path, caplog) -> None:
    names = ["patient00001/study1/view1.jpg", "patient00001/study2/view1.jpg", "p10000032/s1/a.jpg"]
    names += ["00001323_001.png", "00001323_002.png", "0004cfab-14fd-4e49-80ba-63a80b6bddd6.dcm", f"{5:032x}.dicom"]
    known = lay(tmp_path / "known", [f"{WORDS[at % 2]}/{name}" for at, name in enumerate(names)], {})
    assert {film["patient_id"] for film in read_source(known)["train"]} == {
        *("patient00001", "p10000032", "00001323", "0004cfab-14fd-4e49-80ba-63a80b6bddd6", f"{5:032x}")
    }
    rows = [(name, WORDS[at], f"q{at}") for at, name in enumerate(NAMES)]
    read_source(lay(tmp_path / "told", NAMES, {"labels.csv": table(rows, "path,label,patient")}))
    assert "nothing says who" not in caplog.text
    unknown = lay(tmp_path / "unknown", [f"{WORDS[at]}/{name}" for at, name in enumerate(NAMES)], {})
    for _ in range(2):
        read_source(unknown)
    said = [record for record in caplog.records if "nothing says who is on 4 of 4 films" in record.getMessage()]
    assert [record.levelname for record in said] == ["WARNING"]


def test_a_patient_of_a_public_set_stays_one_where_its_parts_are_merged(tmp_path: Path) -> None:
    for part in "ab":
        names = [f"{WORDS[at]}/0000132{at}_00{ord(part) - 97}.png" for at in range(2)]
        lay(tmp_path / part, names, {})
    data, _ = load_sources([str(tmp_path / "a"), str(tmp_path / "b")])
    assert sorted(data["train"]["patient_id"]) == ["00001320", "00001320", "00001321", "00001321"]


# 12: places of films


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "cp1252", "utf-8-sig"])
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_encodings_and_composed_accents(encoding: str, form: str, tmp_path: Path) -> None:
    names = [unicodedata.normalize(form, f"röntgen/für {number}.png") for number in range(2)]
    root = lay(tmp_path / "set", names, {})
    lines = "\r\n".join(["path;label", "röntgen\\für 0.png;NORMAL", "röntgen\\für 1;Pneumonia"])
    (root / "labels.csv").write_bytes(lines.encode(encoding))
    assert sorted(read_source(root)["train"]["label"]) == [0, 1]


@pytest.mark.parametrize("root", ["labels", "/data/labels", "C:\\films\\labels", "elsewhere"])
def test_paths_that_begin_with_the_roots_name_or_are_of_another_machine(root: str, tmp_path: Path) -> None:
    rows = [(f"{root}/img/{name}", WORDS[at]) for at, name in enumerate(NAMES)]
    source = lay(tmp_path / "labels", [f"img/{name}" for name in NAMES], {"t.csv": table(rows)})
    assert sorted(splits_of(source)) == NAMES


def test_a_path_is_not_taken_for_another_film_of_that_name(tmp_path: Path, caplog) -> None:
    """Only `img/f0.png` and `f1.png` are there: the films of hospital B are others."""
    rows = [("A/img/f0.png", "NORMAL"), ("B/img/f0.png", "PNEUMONIA"), ("B/f1.png", "NORMAL"), ("f2.png", "NORMAL")]
    root = lay(tmp_path / "set", ["img/f0.png", "f1.png", "a/f2.png", "b/f2.png", "f3.png"], {})
    lay(root, [], {"labels.csv": table([*rows, ("f3.png", "PNEUMONIA")])})
    assert {name: value[1] for name, value in told(root).items()} == {"f3.png": "PNEUMONIA"}
    assert "4 films of the CSV are not there, or not one alone is called so, the first A/img/f0.png" in caplog.text


def test_names_without_an_ending_mean_one_film(tmp_path: Path, caplog) -> None:
    root = lay(tmp_path / "set", ["f0.png", "1.2.840.dcm", "f2.png", "f2.jpg"], {})
    lay(root, [], {"labels.csv": table([("f0", "NORMAL"), ("1.2.840", "PNEUMONIA"), ("f2", "NORMAL")])})
    assert sorted(told(root)) == ["1.2.840.dcm", "f0.png"]
    assert "the first f2" in caplog.text


def test_metadata_of_an_image_folder(tmp_path: Path) -> None:
    tables = {
        f"{split}/metadata.jsonl": [
            json.dumps({"file_name": f"{at}.png", "label": WORDS[at], "patient_id": at, "x": None}) for at in range(2)
        ]
        for split in ("train", "test")
    }
    root = lay(tmp_path / "set", [f"{split}/{at}.png" for split in ("train", "test") for at in range(2)], tables)
    data = read_source(root)
    assert {split: (films["label"][:], films["patient_id"][:]) for split, films in data.items()} == dict.fromkeys(
        ("train", "test"), ([0, 1], ["0", "1"])
    )
    (root / "train" / "metadata.jsonl").write_text('{"file_name": "0.png"\n')
    with pytest.raises(InputError, match="train/metadata.jsonl: line 1 is no JSON object"):
        read_source(root)


def zipped(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_a_zip_with_backslashes(tmp_path: Path) -> None:
    names = [
        f"x\\{split}\\{label}\\IM-{len(split)}-{at}.jpeg"
        for split in ("train", "test")
        for at, label in enumerate(LABELS)
    ]
    source = zipped(tmp_path / "old.zip", {name: name.encode() for name in names} | {"x\\train\\": b""})
    data = load_data(source)
    assert {split: films["label"][:] for split, films in data.items()} == {"train": [0, 1], "test": [0, 1]}
    assert read_film(data["test"][0]["image"]) == b"x\\test\\NORMAL\\IM-4-0.jpeg"
    rows = [(row["label"], row["patient_id"]) for row in list_films(source)]
    assert sorted(rows) == [(label, f"IM-{size}") for label in LABELS for size in (4, 5)]


def test_no_table_leads_out_of_an_archive_or_folder(tmp_path: Path, caplog) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    outside = [str(secret), "../secret.png", f"file://{secret}", f"zip://a.png::{secret}", "s3://bucket/secret.png"]
    rows = [(name, WORDS[at % 2]) for at, name in enumerate([*outside, "in.png"])]
    content = "\n".join(table(rows)).encode()
    archive = zipped(tmp_path / "set.zip", {"labels.csv": content, "in.png": b"in"})
    folder = lay(tmp_path / "set", ["in.png"], {})
    (folder / "labels.csv").write_bytes(content)
    for source in (archive, folder):
        caplog.clear()
        films = read_source(source)["train"]
        assert films["file_name"][:] == ["in.png"]
        assert "5 films of the CSV are not there" in caplog.text


@pytest.mark.parametrize("path", ["{}", "file://{}", "zip://a.png::{}.zip", "s3://bucket/a.png", "../secret.png"])
def test_a_path_in_a_shard_is_an_error_of_its_row(path: str, tmp_path: Path, caplog) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    zipped(tmp_path / "secret.png.zip", {"a.png": b"secret"})
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = [{"bytes": b"in", "path": "in.png"}, {"bytes": None, "path": path.format(secret)}]
    (tmp_path / "set").mkdir()
    columns = {"image": pa.array(images, kind), "label": ["NORMAL", "PNEUMONIA"]}
    schema = Features(image=ImageColumn(), label=Value("string")).arrow_schema
    pq.write_table(pa.table(columns, schema=schema), tmp_path / "set" / "train.parquet")
    for films in (read_source(tmp_path / "set")["train"], list(list_films(tmp_path / "set"))):
        rows = list(films)
        assert read_film(rows[0]["image"]) == b"in"
        with pytest.raises(UNREADABLE, match="no picture"):
            read_film(rows[1]["image"])
    assert "1 films are not in it but lie elsewhere, where nothing is read" in caplog.text


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    for at, label in enumerate(WORDS[:2]):
        folder = tmp_path / "set" / "train" / label
        folder.mkdir(parents=True)
        (folder / os.fsdecode(f"röntgen{at}.png".encode("cp1252"))).write_bytes(label.encode())
    films = read_source(tmp_path / "set")["train"]
    assert films["file_name"][:] == [f"train/{label}/röntgen{at}.png" for at, label in enumerate(WORDS[:2])]
    assert [read_film(film["image"]) for film in films] == [b"NORMAL", b"PNEUMONIA"]
    flat = tmp_path / "flat"
    flat.mkdir()
    (flat / os.fsdecode("é.png".encode("cp1252"))).write_bytes(b"x")
    (flat / "b.png").write_bytes(b"y")
    (flat / "labels.csv").write_bytes("path,label\né.png,NORMAL\nb.png,PNEUMONIA".encode("cp1252"))
    assert sorted(read_source(flat)["train"]["file_name"]) == ["b.png", "é.png"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("labels.csv.gz", b"\x1f\x8b\x08rubbish", "labels.csv.gz is a damaged gzip"),
        ("labels.csv.gz", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03", "labels.csv.gz is a cut gzip"),
    ],
)
def test_a_damaged_table_is_one_line(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    root = lay(tmp_path / "set", NAMES, {})
    (root / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_source(root)


def test_rows_longer_than_the_header_are_left_out_and_said(tmp_path: Path, caplog) -> None:
    lines = ["path,label", "f0.png,NORMAL", "f1.png,NORMAL,PNEUMONIA", "f2.png,PNEUMONIA,"]
    assert sorted(splits_of(lay(tmp_path / "set", NAMES, {"labels.csv": lines}))) == ["f0.png", "f2.png"]
    assert "left out 1 rows longer than the header" in caplog.text


# 14: ages, sexes, views

CLINICAL = [("Male", "0", "Frontal"), ("female", "999Y", "L"), ("F", "045Y", "PA"), ("Unknown", "121", "ap")]
MEANT_CLINICAL = [("M", 0.0, "FRONTAL"), ("F", None, "LATERAL"), ("F", 45.0, "PA"), (None, None, "AP")]


def test_ages_sexes_and_views_as_tables_and_shards_write_them(tmp_path: Path) -> None:
    rows = [(name, WORDS[at], *CLINICAL[at]) for at, name in enumerate(NAMES)]
    root = lay(tmp_path / "set", NAMES, {"labels.csv": table(rows, "path,label,sex,age,view")})
    names = ("sex", "age", "view")
    assert [tuple(film[name] for name in names) for film in read_source(root)["train"]] == MEANT_CLINICAL
    told_of = read_clinical(root / "labels.csv")
    assert [tuple(told_of[film].get(name) for name in names) for film in NAMES] == MEANT_CLINICAL
    shards = [
        {"image": {"bytes": b"x", "path": f"{at}.png"}, "label": WORDS[at], **dict(zip(names, values, strict=True))}
        for at, values in enumerate(CLINICAL)
    ]
    columns = Features(image=ImageColumn(), **{name: Value("string") for name in ("label", *names)})
    (tmp_path / "shards").mkdir()
    Dataset.from_list(shards, features=columns).to_parquet(tmp_path / "shards" / "train.parquet")
    for films in (read_source(tmp_path / "shards")["train"], list_films(tmp_path / "shards")):
        assert [tuple(film[name] for name in names) for film in films] == MEANT_CLINICAL


def test_one_group_of_women_however_they_are_written(tmp_path: Path) -> None:
    names = [f"f{number}.png" for number in range(80)]
    rows = [
        (name, WORDS[at % 2], ("F", "Female", "M", "male")[at % 4 if at % 8 < 4 else 3 - at % 4])
        for at, name in enumerate(names)
    ]
    films = read_source(lay(tmp_path / "set", names, {"labels.csv": table(rows, "path,label,sex")}))["train"]
    empty = np.zeros((80, 2), int)
    dataset = FilmDataset(films, empty, np.arange(80), empty, empty, empty, empty, empty)
    groups = subgroups(dataset, np.linspace(0, 1, 80), 0.5)
    assert {name: group["n"] for name, group in groups.items() if name.startswith("sex")} == {"sex F": 40, "sex M": 40}
