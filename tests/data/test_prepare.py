import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from huggingface_hub import DatasetCard
from PIL import Image

from pneumo_hf.__main__ import main
from pneumo_hf.data.files import read_film
from pneumo_hf.data.schema import DEVICE_COLUMNS
from pneumo_hf.data.sources import load_data
from pneumo_hf.imaging.film import load_xray
from tests.conftest import ROOT, make_film, write_films
from tests.hub import environment, running_hub
from tests.imaging.test_dicom import dicom

COUNTS = {"train": {"NORMAL": 20, "PNEUMONIA": 30}, "test": {"NORMAL": 8, "PNEUMONIA": 12}}
COMMANDS = """
import json, sys
from pneumo_hf.__main__ import main
for command in json.loads(sys.argv[1]):
    main(command)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEGs of which one names its patient in its metadata, and a DICOM film."""
    folder = write_films(tmp_path_factory.mktemp("films"), {"train": (20, 30), "test": (8, 11)})
    exif = Image.Exif()
    exif[0x010E] = "Secret Person"
    named = min((folder / "train" / "PNEUMONIA").iterdir())
    Image.fromarray(make_film(500, True)).save(named, exif=exif, icc_profile=b"Secret profile", comment=b"Secret")
    tags = {"PatientName": "Secret^Person", "PatientID": "MRN-0042", "PatientAge": "094Y", "PatientSex": "F"}
    tags |= {"Manufacturer": "GE of Secret House", "ManufacturerModelName": "Secret 3", "PatientPosition": "HFS"}
    (folder / "test" / "PNEUMONIA" / "secret-person.dcm").write_bytes(
        dicom(make_film(600, True), "MONOCHROME2", Modality="DX", **tags)
    )
    return folder


def test_shards_hold_the_films_themselves_and_load_with_datasets_alone(folder: Path, tmp_path: Path) -> None:
    main(["prepare", str(folder), "--output_dir", str(tmp_path / "set")])
    before, after = load_data(folder), load_data(tmp_path / "set")
    for split in before:
        one, two = ({film["file_name"].rsplit(".", 1)[0]: film for film in data[split]} for data in (before, after))
        assert one.keys() == two.keys()
        for name in one:
            shown = [np.asarray(load_xray(read_film(film[name]["image"]))) for film in (one, two)]
            np.testing.assert_array_equal(*shown)
            same = ("label", "patient_id", "subtype", "age", "sex", "modality")
            assert [one[name][column] for column in same] == [two[name][column] for column in same]
    films = load_dataset(str(tmp_path / "set"), split="test", cache_dir=str(tmp_path / "cache"))
    assert films.features["label"].names == ["NORMAL", "PNEUMONIA"]
    assert films[0]["image"].size == (96, 80)
    card = DatasetCard.load(tmp_path / "set" / "README.md")
    assert card.data.task_categories == ["image-classification"]
    assert "| train | 20 | 30 |" in card.text
    assert json.loads((tmp_path / "set" / "audit" / "audit.json").read_text())["counts"] == COUNTS
    shard = next((tmp_path / "set").glob("data/test-*.parquet"))
    embedded = pq.read_table(shard)["image"].to_pylist()
    assert not any(b"MRN-0042" in image["bytes"] for image in embedded)  # no DICOM header


def test_anonymised_shards_name_nobody_in_any_byte(folder: Path, tmp_path: Path) -> None:
    main(["prepare", str(folder), "--anonymize", "--output_dir", str(tmp_path / "set")])
    before, after = load_data(folder), load_data(tmp_path / "set")
    secret = {"MRN-0042", "Secret", "secret", "SECRET", folder.name}
    for films in before.values():
        secret |= {Path(name).stem for name in films["file_name"]}
        secret |= set(films["patient_id"])
    written = [path for path in (tmp_path / "set").rglob("*") if path.is_file()]
    shards = [path for path in written if path.suffix == ".parquet"]
    assert len(shards) == 2
    plain = [json.dumps(pq.read_table(path).to_pylist(), default=str).encode() for path in shards]  # uncompressed
    for content in [*(path.read_bytes() for path in written), *plain]:
        assert not [name for name in secret if name.encode() in content]
    for split, films in before.items():
        groups = [len(set(data[split]["patient_id"])) for data in (before, after)]
        assert groups[0] == groups[1]
        assert sorted(films["label"]) == sorted(after[split]["label"])
        pixels = [{load_xray(read_film(film["image"])).tobytes() for film in data[split]} for data in (before, after)]
        assert pixels[0] == pixels[1]
    device = {tuple(film[name] for name in DEVICE_COLUMNS) for film in after["test"]}
    assert device == {("GE", None, "HFS"), (None, None, None)}
    assert max(age for age in after["test"]["age"] if age) == 90
    for image in after["train"]["image"]:
        assert not Image.open(io.BytesIO(image["bytes"])).info


def test_nothing_that_prepare_did_not_write_is_lost(folder: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "mine" / "data").mkdir(parents=True)
    (tmp_path / "mine" / "data" / "film.png").write_bytes(b"precious")
    for output in (tmp_path / "mine", folder, folder / "set", folder.parent):
        with pytest.raises(SystemExit) as stop:
            main(["prepare", str(folder), "--output_dir", str(output)])
        assert stop.value.code == 2
        assert "choose another --output_dir" in capsys.readouterr().err
    assert (tmp_path / "mine" / "data" / "film.png").read_bytes() == b"precious"
    for _ in range(2):  # what it wrote itself it writes again
        main(["prepare", str(folder), "--output_dir", str(tmp_path / "set")])


@pytest.mark.slow
def test_pushed_to_a_hub_and_read_back_whole_and_streamed(folder: Path, tiny_run: Path, tmp_path: Path) -> None:
    with running_hub() as (hub, address):
        variables = environment(address, str(tmp_path / "home"))

        def run(*commands: list[object], code: int = 0) -> str:
            """One process for all, which takes longer to start than they take."""
            given = json.dumps([list(map(str, command)) for command in commands])
            asked = [sys.executable, "-c", COMMANDS, given]
            done = subprocess.run(asked, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=300)
            assert done.returncode == code, done.stderr
            return done.stderr

        run(["prepare", folder, "--output_dir", tmp_path / "set", "--push_to_hub", "tester/films", "--private"])
        pushed = hub.files["dataset", "tester/films"]
        assert hub.private["dataset", "tester/films"]
        assert {"README.md", "audit/audit.json", "audit/montage.png"} <= pushed.keys()
        local = json.loads(pushed["audit/audit.json"])
        error = run(
            ["audit", "tester/films", "--output_dir", tmp_path / "whole"],
            ["audit", "tester/films", "--streaming", "--output_dir", tmp_path / "streamed"],
            ["predict", "--model", tiny_run, "tester/films", "--output", tmp_path / "hub.csv"],
            ["predict", "--model", tiny_run, tmp_path / "set", "--output", tmp_path / "local.csv"],
            ["audit", "tester/nothing", "--output_dir", tmp_path / "none"],
            code=2,
        )
        for name in ("whole", "streamed"):
            found = json.loads((tmp_path / name / "audit.json").read_text())
            assert {**found, "dataset": ""} == {**local, "dataset": ""}, name
        assert (tmp_path / "hub.csv").read_bytes() == (tmp_path / "local.csv").read_bytes()
        assert "the Hub gave no such data set" in error.splitlines()[-1]
        assert "Traceback" not in error
