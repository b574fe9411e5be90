"""Tables and archives at random, and what they were meant to say: no film changes its split or label in silence."""

import csv
import io
import json
import logging
import unicodedata
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pneumo_hf.data.files import read_film
from pneumo_hf.data.sources import read_source
from pneumo_hf.errors import InputError
from pneumo_hf.labels import LABELS

SPELLED = {
    "train": ("train", "TRAIN", "Training"),
    "validation": ("val", "valid", "Validation", "dev"),
    "test": ("test", "TEST", "testing"),
}
STEMS = ("{}", "{}_labels", "labels_{}", "{}_COVIDx9A", "labels-{}", "stage_2_{}_labels", "2020.{}")
FOLDERS = ("{}", "{}_images", "stage_2_{}_images", "set/{}", "{}/films")
SPLIT_COLUMNS = ("split", "Subset", "Dataset_type", "partition", "usage", "phase")
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252")
OTHER = ("Effusion", "")  # of no label


@dataclass(frozen=True)
class Film:
    number: int
    split: str
    label: str
    name: str  # below the root, as on the disk

    @property
    def content(self) -> bytes:
        return f"film {self.number}".encode()


@dataclass(frozen=True)
class Made:
    films: list[Film]
    split_by: str  # a column, tables, folders, lists, or nothing
    clash: bool  # names come again in another folder, and tables give the last part alone


@st.composite
def films(draw) -> Made:
    split_by = draw(st.sampled_from(("column", "tables", "folders", "lists", "nothing")))
    splits = ("train",) if split_by == "nothing" else ("train", "validation", "test")
    ending = draw(st.sampled_from((".png", ".PNG", ".jpeg", ".dcm")))
    stem = draw(st.sampled_from(("f{}", "röntgen {}", "a.b.{}", "Ünï,{}", "00001323_{:03d}")))
    template = draw(st.sampled_from(FOLDERS)) if split_by == "folders" else ""
    again = draw(st.booleans())  # numbered again in each folder
    made, numbers = [], dict.fromkeys(("train", "validation", "test"), 0)
    for number in range(draw(st.integers(4, 9))):
        split = splits[number % len(splits)]
        label = LABELS[number % 2] if number < 4 else draw(st.sampled_from((*LABELS, *OTHER)))
        folder = template.format(SPELLED[split][0]) if template else draw(st.sampled_from(("img", "img/b", "")))
        at = numbers[split] if again and template else number
        numbers[split] += 1
        made.append(Film(number, split, label, f"{folder}/{stem.format(at)}{ending}".lstrip("/")))
    return Made(made, split_by, again and bool(template))


@st.composite
def written(draw, made: Made, root: str) -> tuple[dict[str, bytes], Made]:
    """Tables of these films, by name."""
    how = draw(st.sampled_from(("relative", "bare", "rooted", "backslashes", "no ending", "foreign")))
    labels = draw(st.sampled_from(("words", "numbers", "booleans", "lists", "python lists", "columns")))
    only_two = labels in ("numbers", "booleans")
    column = draw(st.sampled_from(SPLIT_COLUMNS)) if made.split_by == "column" else ""
    rows = []
    for film in made.films:
        path = {
            "relative": film.name,
            "bare": film.name.rpartition("/")[2],
            "rooted": f"{root}/{film.name}",
            "backslashes": film.name.replace("/", "\\"),
            "no ending": film.name.rpartition(".")[0],
            "foreign": f"/home/somebody/{root}/{film.name}",
        }[how]
        row = {"Image Path": path} | _labels(film.label, labels)
        if column:
            row[column] = draw(st.sampled_from(SPELLED[film.split]))
        rows.append((film, row))
    if only_two:
        rows = [(film, row) for film, row in rows if film.label in LABELS]
    by_table = {"labels": rows}
    if made.split_by == "tables":
        stem = draw(st.sampled_from(STEMS))
        by_table = {
            stem.format(SPELLED[split][0]): [pair for pair in rows if pair[0].split == split] for split in SPELLED
        }
    as_json = draw(st.booleans()) and labels != "python lists"
    separator, encoding = draw(st.sampled_from(",;\t")), draw(st.sampled_from(ENCODINGS))
    tables = {
        f"{name}{'.jsonl' if as_json else '.csv'}": _write([row for _, row in pairs], as_json, separator, encoding)
        for name, pairs in by_table.items()
        if pairs
    }
    if made.split_by == "lists":
        for split in SPELLED:
            names = [row["Image Path"] for film, row in rows if film.split == split]
            if how == "no ending":
                names = [film.name for film, _ in rows if film.split == split]
            tables[f"{SPELLED[split][0]}_list.txt"] = "\r\n".join(names).encode(encoding)
    clash = made.clash and how == "bare"
    return tables, Made([film for film, _ in rows], made.split_by, clash)


def _labels(label: str, style: str) -> dict[str, object]:
    number = {"NORMAL": 0, "PNEUMONIA": 1}.get(label)
    if style == "numbers":
        return {"Target": "" if number is None else f"{number}.0"}
    if style == "booleans":
        return {"Target": "" if number is None else bool(number)}
    if style == "columns":
        names = {"NORMAL": "No Finding", "PNEUMONIA": "Pneumonia", "Effusion": "Effusion"}
        return {name: "1.0" if names.get(label) == name else "" for name in names.values()} | {
            "Effusion": "1.0" if label in ("PNEUMONIA", "Effusion") else "0.0"
        }
    parts = {"NORMAL": ["No Finding"], "PNEUMONIA": ["Effusion", "Pneumonia"], "Effusion": ["Effusion", "Mass"]}
    if style == "lists":
        return {"Finding Labels": "|".join(parts.get(label, []))}
    return {"Labels": str(parts.get(label, []))} if style == "python lists" else {"label": label.lower()}


def _write(rows: list[Mapping], as_json: bool, separator: str, encoding: str) -> bytes:
    if as_json:
        return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode(encoding)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=separator)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode(encoding)


def pack(folder: Path, made: Made, tables: Mapping[str, bytes], form: str, decomposed: bool) -> Path:
    """Write films and tables as a folder or an archive."""
    files = {film.name: film.content for film in made.films}
    if decomposed:
        files = {unicodedata.normalize("NFD", name): content for name, content in files.items()}
    files |= tables
    if form == "folder":
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return folder
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("/", "\\") if form == "zip with backslashes" else name, content)
    return folder.with_suffix(".zip")


class Said(logging.Handler):
    """What a run warns of."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def read(source: Path) -> tuple[dict[int, tuple[str, str]], list[str]]:
    """`{film: (split, label)}` as it was read, and the warnings."""
    said = Said()
    logging.getLogger("pneumo_hf").addHandler(said)
    try:
        data = read_source(source)
    finally:
        logging.getLogger("pneumo_hf").removeHandler(said)
    return {
        int(read_film(film["image"]).split()[1]): (split, LABELS[film["label"]])
        for split, rows in data.items()
        for film in rows
    }, said.lines


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_no_film_changes_its_split_or_label_in_silence(data) -> None:
    made = data.draw(films())
    tables, made = data.draw(written(made, "films"))
    form = data.draw(st.sampled_from(("folder", "zip", "zip with backslashes")))
    meant = {film.number: (film.split, film.label) for film in made.films if film.label in LABELS}
    with TemporaryDirectory() as folder:
        (Path(folder) / "films").mkdir()
        source = pack(Path(folder) / "films", made, tables, form, data.draw(st.booleans()))
        try:
            found, said = read(source)
        except InputError:
            assert made.clash
            return
    assert found.items() <= meant.items()
    lost = meant.keys() - found.keys()
    assert not lost or (made.clash and any("are not there" in line for line in said)), (lost, said)
    if len(meant) < len(made.films):
        assert any("left out" in line for line in said)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(FOLDERS), st.sampled_from(("folder", "zip")), st.integers(4, 8), st.booleans())
def test_folders_alone_say_the_split_or_the_run_stops(template: str, form: str, count: int, above: bool) -> None:
    """Label folders below or above those of the splits, without any table."""
    made = []
    for number in range(count):
        split, label = ("train", "test")[number // 2 % 2], LABELS[number % 2]
        folder = template.format(split)
        place = f"{label}/{folder}" if above else f"{folder}/{label}"
        made.append(Film(number, split, label, f"{place}/{number}.png"))
    meant = {film.number: (film.split, film.label) for film in made}
    with TemporaryDirectory() as folder:
        (Path(folder) / "films").mkdir()
        source = pack(Path(folder) / "films", Made(made, "folders", False), {}, form, False)
        try:
            found, _ = read(source)
        except InputError:
            assert above
            return
    assert found == meant


CLAIMS = st.sampled_from(("", "train", "validation", "test"))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(CLAIMS, CLAIMS, CLAIMS), min_size=2, max_size=6), st.booleans())
def test_a_film_that_anything_holds_out_is_never_a_train_film(
    claims: list[tuple[str, str, str]], column: bool
) -> None:
    """A column, the table's name and the folder say splits that need not agree."""
    made, rows = [], {}
    for number, (of_column, of_table, of_folder) in enumerate(claims):
        name = f"{of_folder or 'img'}/{number}.png"
        made.append(Film(number, "", LABELS[number % 2], name))
        row = {"path": name, "label": LABELS[number % 2]} | ({"split": of_column} if column else {})
        rows.setdefault(f"{of_table}_labels.csv", []).append(row)
    tables = {name: _write(lines, False, ",", "utf-8") for name, lines in rows.items()}
    with TemporaryDirectory() as folder:
        (Path(folder) / "films").mkdir()
        source = pack(Path(folder) / "films", Made(made, "", False), tables, "folder", False)
        try:
            found, said = read(source)
        except InputError:
            found, said = {}, ["left out"]
    for number, (split, label) in found.items():
        told = {claim for claim in claims[number][0 if column else 1 :] if claim}
        assert label == LABELS[number % 2]
        assert split in told or (split == "train" and not told)
        assert split != "train" or told <= {"train"}
    assert len(found) == len(claims) or any("left out" in line for line in said)
