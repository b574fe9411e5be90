"""Several sources become one data set, without their common films."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from pneumo_hf.data.merge import load_sources
from tests.conftest import make_film


def test_sources_merge_without_copies_and_a_test_film_never_comes_back_in_train(
    films_folder: Path, tmp_path: Path
) -> None:
    """The second source: all of the first again, resized, its test as train; and films of its own."""
    for film in films_folder.rglob("*.jpeg"):
        place = tmp_path / "second" / "train" / film.parent.name
        place.mkdir(parents=True, exist_ok=True)
        Image.open(film).resize((120, 100), Image.Resampling.BICUBIC).save(place / film.name, quality=80)
    for number in range(6):
        label = ("NORMAL", "PNEUMONIA")[number % 2]
        own = Image.fromarray(make_film(7000 + number, number % 2 == 1))
        own.save(tmp_path / "second" / "train" / label / f"own{number}.png")
    for sources in ([films_folder, tmp_path / "second"], [tmp_path / "second", films_folder]):
        data, dropped = load_sources([str(source) for source in sources])
        assert len(data["test"]) == 40
        assert len(data["train"]) == 112 + 6
        assert len(dropped) == 152
        assert all("a copy of" in row["reason"] for row in dropped)
        assert {name.split("/")[-1] for name in data["train"]["file_name"]} >= {f"own{n}.png" for n in range(6)}
        assert {p for p in data["train"]["patient_id"] if "own" in p} == {
            f"second/train/{('NORMAL', 'PNEUMONIA')[n % 2]}/own{n}" for n in range(6)
        }


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.long
def test_the_real_sets_merge_counted(shared: Path, tmp_path: Path) -> None:
    again = Path(shutil.copy(shared / "data" / "chest_xray_224.zip", tmp_path / "again.zip"))
    whole, elsewhere, part = (
        shared / "data" / name
        for name in ("chest_xray_224.zip", "external_ieee8023.zip", "chest_xray_fullres_sample.zip")
    )
    sources = [whole, elsewhere, again, part]
    data, dropped = load_sources([str(source) for source in sources], label_map={"COVID19": "PNEUMONIA"})
    counts = Counter(zip(data["train"]["source"], data["train"]["label"], strict=True))
    assert counts == {
        ("chest_xray_224.zip", 0): 1341,
        ("chest_xray_224.zip", 1): 3875,
        ("external_ieee8023.zip", 0): 19,
        ("external_ieee8023.zip", 1): 74 + 140,
    }
    assert Counter(data["test"]["source"]) == {"chest_xray_224.zip": 624}
    assert Counter(row["path"].split(":")[0] for row in dropped) == {
        "again.zip": 5840,
        "chest_xray_fullres_sample.zip": 102,
    }
