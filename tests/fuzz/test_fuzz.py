"""Spoilt pictures, DICOM files, archives, tables and checkpoints end in rows and one-liners, and in nothing else.

20 seconds of it here; the whole of it by `FUZZ_CASES=5000 python -m pytest tests/fuzz`, which the seed makes the same.
"""

import io
import os
import shutil
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from pneumo_hf import Predictor
from pneumo_hf.data.listing import list_films
from pneumo_hf.data.sources import read_source
from pneumo_hf.errors import InputError
from tests.conftest import make_film
from tests.fuzz.mutations import mutate_bytes, mutate_json, mutate_table
from tests.imaging.test_dicom import dicom

CASES = int(os.environ.get("FUZZ_CASES", 0))  # of all kinds together; 0: as many as SECONDS allow
SECONDS = 4  # of each kind
LONGEST = 20  # seconds that one case may take


def pictures() -> dict[str, bytes]:
    """A film in every format."""
    film, found = Image.fromarray(make_film(1, True)), {}
    for name, mode, options in (
        ("a.jpeg", "L", {}),
        ("b.jpg", "RGB", {"progressive": True}),
        ("c.png", "L", {}),
        ("d.png", "P", {}),
        ("e.png", "I;16", {}),
        ("f.tiff", "L", {"compression": "tiff_lzw"}),
        ("g.tif", "L", {}),
        ("h.webp", "RGB", {}),
        ("i.bmp", "L", {}),
    ):
        file = io.BytesIO()
        film.convert("L" if mode == "I;16" else mode).convert(mode).save(
            file, Image.registered_extensions()[Path(name).suffix], **options
        )
        found[name] = file.getvalue()
    return found


def headers() -> dict[str, bytes]:
    """A film as several DICOM files."""
    film = make_film(2, True)
    wide = film.astype(np.uint16) << 4
    return {
        "plain.dcm": dicom(film),
        "wide.dcm": dicom(wide, bits=12),
        "windowed.dcm": dicom(wide, bits=12, WindowCenter=2000, WindowWidth=1500),
        "inverse.dcm": dicom(film, photometric="MONOCHROME1"),
    }


class Spoiler:
    """Makes a spoilt file of a kind, and reads it as a user would."""

    def __init__(self, run: Path, folder: Path):
        self.run, self.folder, self.predictor = run, folder, Predictor(run, device="cpu", batch_size=4)

    def picture(self, random: np.random.Generator) -> str:
        return self._film(PICTURES, random)

    def dicom(self, random: np.random.Generator) -> str:
        return self._film(HEADERS, random)

    def archive(self, random: np.random.Generator) -> str:
        names = [*PICTURES, "train/NORMAL/k.png", "..\\l.png", "labels.csv"]
        buffer = io.BytesIO()
        with zipfile.ZipFile(
            buffer, "w", zipfile.ZIP_DEFLATED if random.random() < 0.5 else zipfile.ZIP_STORED
        ) as archive:
            for name in random.choice(names, 4, replace=False):
                archive.writestr(str(name), PICTURES.get(name, PICTURES["c.png"]))
        path = self.folder / "films.zip"
        path.write_bytes(mutate_bytes(buffer.getvalue(), random))
        return self._scored(path)

    def table(self, random: np.random.Generator) -> str:
        films = self.folder / "films"
        films.mkdir()
        lines = ["path,label,split,patient_id,age,sex"]
        for number in range(8):
            (films / f"{number}.png").write_bytes(PICTURES["c.png"])
            label, split = ("NORMAL", "PNEUMONIA")[number % 2], ("train", "test")[number // 4]
            lines.append(f"films/{number}.png,{label},{split},p{number},4{number},F")
        (self.folder / "labels.csv").write_bytes(mutate_table("\n".join(lines), random))
        data = read_source(self.folder, None)
        names = {row["file_name"] for films in data.values() for row in films}
        assert all(Path(row["image"]["path"]).is_relative_to(self.folder) for films in data.values() for row in films)
        return f"{len(names)} rows"

    def checkpoint(self, random: np.random.Generator) -> str:
        spoilt = self.folder / "run"
        spoilt.mkdir()
        for name in FILES:
            shutil.copy(self.run / name, spoilt / name)
        path = spoilt / FILES[random.integers(len(FILES))]
        if path.suffix == ".json":
            path.write_text(mutate_json(path.read_text(), random))
        else:
            path.write_bytes(mutate_bytes(path.read_bytes(), random))
        answer = Predictor(spoilt, device="cpu")([make_film(3, True)])[0]
        assert np.isfinite(answer["probability"])
        return "answered"

    def _film(self, seeds: dict[str, bytes], random: np.random.Generator) -> str:
        name = list(seeds)[random.integers(len(seeds))]
        path = self.folder / name
        path.write_bytes(mutate_bytes(seeds[name], random))
        return self._scored(path)

    def _scored(self, path: Path) -> str:
        rows = list(self.predictor.score_rows(list_films(path).rows(0, 20)))
        for row in rows:
            assert row["probability"] is None or 0 <= row["probability"] <= 1
            assert row["error"] or row["probability"] is not None
            assert "\n" not in row["error"] and len(row["error"]) < 400, row["error"]
        return "scored" if any(row["probability"] is not None for row in rows) else "listed with a reason"


PICTURES, HEADERS = pictures(), headers()
FILES = ("config.json", "preprocessor_config.json", "model.safetensors", "chest_detector.safetensors")


@pytest.mark.parametrize("kind", ["picture", "dicom", "archive", "table", "checkpoint"])
@pytest.mark.filterwarnings("ignore")
def test_spoilt_files_end_in_rows_and_one_liners(kind: str, tiny_run: Path, tmp_path: Path) -> None:
    before, started = set(psutil.Process().children(recursive=True)), time.monotonic()
    outcomes, case = Counter(), 0
    spoiler = Spoiler(tiny_run, tmp_path / "none yet")
    while case < CASES // 5 if CASES else time.monotonic() - started < SECONDS:
        shutil.rmtree(spoiler.folder, ignore_errors=True)
        spoiler.folder = tmp_path / str(case)  # of its own: an archive is kept open by its path
        spoiler.folder.mkdir()
        read: Callable[[np.random.Generator], str] = getattr(spoiler, kind)
        begun = time.monotonic()
        try:
            outcomes[read(np.random.default_rng([case, len(kind)]))] += 1
        except InputError as error:
            assert "\n" not in str(error) and str(error), f"{kind} {case}"
            outcomes["one line"] += 1
        except BaseException as error:
            error.add_note(f"{kind} {case}")
            raise
        assert time.monotonic() - begun < LONGEST, f"{kind} {case}"
        case += 1
    print(f"{kind}: {case} cases, {dict(outcomes)}")
    assert case > 5 and len(outcomes) > 1  # some are read, and some are not
    assert set(psutil.Process().children(recursive=True)) <= before
