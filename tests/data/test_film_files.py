"""Which files are films, whatever they are called."""

import gzip
import io
import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from transformers import ViTImageProcessorPil

from pneumo_hf.data.files import read_film
from pneumo_hf.data.listing import list_films
from pneumo_hf.data.pixels import decode_films
from pneumo_hf.data.prepare import prepare
from pneumo_hf.data.sources import load_data
from pneumo_hf.data.survey import survey_films
from pneumo_hf.imaging.film import load_xray
from pneumo_hf.imaging.quality import LATERAL_VIEW
from pneumo_hf.labels import LABELS
from tests.conftest import make_film
from tests.imaging.test_dicom import dicom
from tests.imaging.test_dicom_headers import without_meta


def write_films_of_all_names(folder: Path) -> dict[str, np.ndarray]:
    """A folder of a label as scanners and archives write it, beside one of another: `{name: pixels}` of its films."""
    folder.mkdir(parents=True)
    normal = folder.parent / "NORMAL"
    normal.mkdir()
    Image.fromarray(make_film(7, False)).save(normal / "normal.png")
    shown = {name: make_film(seed, True) for seed, name in enumerate(("a.IMA", "b.dcm.gz", "IM000001", "1.2.840.77"))}
    for number, (name, film) in enumerate(shown.items()):
        content = dicom(film, PatientID=f"MRN-{number}", ViewPosition="AP", Modality="CR")
        content = without_meta(content) if name == "IM000001" else content
        (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    jpeg = io.BytesIO()
    Image.fromarray(make_film(9, True)).save(jpeg, "JPEG")
    (folder / "c.jfif").write_bytes(jpeg.getvalue())
    shown["c.jfif"] = np.asarray(Image.open(jpeg))
    (folder / "DICOMDIR").write_bytes(dicom(make_film(8, True))[:400])  # an index of the others
    (folder / "README").write_text("no film")
    (folder / "notes.gz").write_bytes(gzip.compress(b"no film"))
    return shown


def test_films_are_taken_by_the_names_that_scanners_and_archives_give_them(tmp_path: Path) -> None:
    shown = write_films_of_all_names(tmp_path / "films" / "test" / "PNEUMONIA")
    archive = shutil.make_archive(str(tmp_path / "zipped"), "zip", tmp_path / "films")
    for source in (tmp_path / "films", Path(archive)):
        listed = {Path(row["file_name"]).name: row for row in list_films(source) if row["label"] == "PNEUMONIA"}
        assert listed.keys() == shown.keys()
        for name, row in listed.items():
            np.testing.assert_array_equal(load_xray(read_film(row["image"])), shown[name])
            assert bool(row["patient_id"]) == (name != "c.jfif")
        table = load_data(source)["test"].filter(lambda label: label == 1, input_columns="label")
        views = dict(zip((Path(name).name for name in table["file_name"]), table["view"], strict=True))
        assert views == {name: None if name == "c.jfif" else "AP" for name in shown}
        assert len(set(table["patient_id"])) == 5


def test_films_named_by_numbers_keep_different_names_as_shards(tmp_path: Path) -> None:
    folder = tmp_path / "films" / "test" / "PNEUMONIA"
    write_films_of_all_names(folder)
    (folder / "1.2.840.78").write_bytes(dicom(make_film(5, True)))
    assert prepare(load_data(tmp_path / "films"), LABELS, tmp_path / "shards") == []
    names = [Path(name).name for name in load_data(tmp_path / "shards")["test"]["file_name"]]
    expected = ["1.2.840.77.png", "1.2.840.78.png", "IM000001.png", "a.png", "b.dcm.png", "c.jfif", "normal.png"]
    assert sorted(names) == expected


def test_a_name_of_another_kind_is_noticed_for_these_too(tmp_path: Path) -> None:
    folder = tmp_path / "films" / "test" / "PNEUMONIA"
    write_films_of_all_names(folder)
    jpeg = (folder / "c.jfif").read_bytes()
    for name in ("d.IMA", "d.dcm.gz"):
        (folder / name).write_bytes(jpeg)
    (folder / "e.jfif").write_bytes((folder / "a.IMA").read_bytes())
    found = survey_films(load_data(tmp_path / "films"))
    assert {Path(film["path"]).name: film["kind"] for film in found.wrong_extension} == {
        "d.IMA": "JPEG",
        "d.dcm.gz": "JPEG",
        "e.jfif": "DICOM",
    }


def test_lateral_views_are_marked_whether_a_header_or_a_table_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    (folder / "header.dcm").write_bytes(dicom(make_film(0, True, (120, 140)), ViewPosition="LL"))
    lines = ["path,label,view", "header.dcm,PNEUMONIA,"]
    for number, view in enumerate(("Lateral", "PA", "AP supine", "")):
        Image.fromarray(make_film(number, True, (120, 140))).save(folder / f"{number}.png")
        lines.append(f"{number}.png,PNEUMONIA,{view}")
    lines[-1] = lines[-1].replace("PNEUMONIA", "NORMAL")
    (folder / "labels.csv").write_text("\n".join(lines))
    processor = ViTImageProcessorPil(size={"height": 48, "width": 48})
    films, rejected = decode_films(load_data(folder)["train"], processor, tmp_path / "cache")
    assert rejected == []
    issues = dict(zip(films.table["file_name"], films.issues, strict=True))
    assert [name for name, issue in issues.items() if issue == LATERAL_VIEW] == ["header.dcm", "0.png"]
