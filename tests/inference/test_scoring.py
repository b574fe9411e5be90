"""What a killed `predict` leaves, and how the next one resumes; several workers are in test_ray_engine.py."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from filelock import FileLock

from pneumo_hf import Predictor
from pneumo_hf.__main__ import main
from pneumo_hf.data.listing import FilmList, list_films
from pneumo_hf.errors import InputError
from pneumo_hf.inference import scoring
from pneumo_hf.inference.parts import Parts
from pneumo_hf.inference.scoring import score_files


class Cut(FilmList):
    """A list that ends the process after some films, as a kill would."""

    def __init__(self, films: FilmList, after: int):
        super().__init__(films.parts)
        self.after = after

    def rows(self, start: int, stop: int) -> Iterator[dict]:
        yield from super().rows(start, start + self.after)
        raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "FILMS_A_PART", 16)


@pytest.fixture
def predictor(tiny_run: Path) -> Predictor:
    return Predictor(tiny_run, device="cpu", batch_size=8)


def score(predictor: Predictor, films: FilmList, output: Path, **arguments: str):
    return score_files(predictor, films, str(output), arguments, lambda probability: probability)


def there(output: Path) -> list[str]:
    """The names of the parts."""
    return sorted(path.name for path in output.with_name(f"{output.name}.parts").glob("*.jsonl"))


def test_it_resumes_with_the_parts_that_are_missing(predictor: Predictor, films_folder: Path, tmp_path: Path) -> None:
    films, output, parts = list_films(films_folder), tmp_path / "preds.csv", tmp_path / "preds.csv.parts"
    flags = score(predictor, films, tmp_path / "whole.csv")
    assert flags.total() == len(films) == 152
    with pytest.raises(KeyboardInterrupt):
        score(predictor, Cut(films, after=70), output)
    assert not output.exists()
    assert there(output) == [f"{first:012d}-{first + 16:012d}.jsonl" for first in (0, 16, 32, 48)]
    (parts / there(output)[1]).unlink()  # as if another worker had had it
    (parts / "0123.partial").write_text('["half a part')
    asked = []

    class Watched(FilmList):
        def rows(self, start: int, stop: int) -> Iterator[dict]:
            asked.append((start, stop))
            return super().rows(start, stop)

    assert score(predictor, Watched(films.parts), output) == flags
    assert asked == [(16, 32), (64, 152)]  # none is scored twice
    assert output.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert not parts.exists()


def test_killed_between_scoring_and_joining(
    predictor: Predictor, films_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    films, output = list_films(films_folder / "test"), tmp_path / "preds.csv"
    score(predictor, films, tmp_path / "whole.csv")
    monkeypatch.setattr(scoring, "write_table", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        score(predictor, films, output)
    monkeypatch.undo()
    assert len(there(output)) == 3  # all there are, of 40 films
    monkeypatch.setattr(predictor, "logits", None)  # none is scored again
    score(predictor, films, output)
    assert output.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_parts_that_two_commands_wrote_at_the_same_time(tmp_path: Path) -> None:
    """On an object store nothing keeps a second command from it."""
    (tmp_path / "p.parts").mkdir()
    parts = Parts(str(tmp_path / "p"))
    for first, stop in ((0, 4), (2, 6), (2, 3), (8, 9)):
        parts.add(first, [[number] for number in range(first, stop)])
    assert parts.left(12) == [range(6, 8), range(9, 12)]
    parts.add(6, [[6], [7]])
    parts.add(9, [[9], [10], [11]])
    assert parts.left(12) == []
    assert [row[0] for row in parts.rows()] == list(range(12))


def test_parquet_has_the_values_of_the_csv(predictor: Predictor, films_folder: Path, tmp_path: Path) -> None:
    predictor.details = True
    (tmp_path / "films").mkdir()
    for path in (*sorted((films_folder / "test" / "NORMAL").iterdir())[:3],):
        (tmp_path / "films" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "films" / "empty.png").write_bytes(b"")
    for name in ("preds.csv", "preds.parquet"):
        score(predictor, list_films(tmp_path / "films"), tmp_path / name)
    table = pq.read_table(tmp_path / "preds.parquet")
    with (tmp_path / "preds.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert table.column_names == list(rows[0])
    assert str(table.schema.field("probability").type) == "double"
    assert str(table.schema.field("flag").type) == "string"
    for row, written in zip(rows, table.to_pylist(), strict=True):
        for name, value in written.items():
            assert (
                (float(row[name] or "nan") == pytest.approx(value, abs=0, nan_ok=True))
                if isinstance(value, float)
                else (row[name] == (value or ""))
            )


def test_an_earlier_csv_stays_until_the_new_one_is_whole(
    predictor: Predictor, films_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    films, output = list_films(films_folder / "test"), tmp_path / "preds.csv"
    output.write_text("an earlier one")
    with pytest.raises(KeyboardInterrupt):
        score(predictor, Cut(films, after=41), output)
    assert "preds.csv is there already" in caplog.text
    assert output.read_text() == "an earlier one"
    score(predictor, films, output)
    assert output.read_text().startswith("path,label")


@pytest.mark.parametrize("change", ["arguments", "list", "weights"])
def test_another_commands_parts_are_refused(
    change: str, predictor: Predictor, films_folder: Path, tmp_path: Path
) -> None:
    films, output, operating_point = list_films(films_folder), tmp_path / "preds.csv", "youden"
    with pytest.raises(KeyboardInterrupt):
        score(predictor, Cut(films, after=30), output, operating_point=operating_point)
    before = there(output)
    if change == "arguments":
        operating_point = "f1"
    elif change == "list":
        films = list_films(*sorted(films_folder.rglob("*.jpeg"), reverse=True))
    else:
        next(iter(predictor.model.parameters())).data += 1e-3
    name = {"arguments": "operating_point"}.get(change, change)
    with pytest.raises(InputError, match=f"of another command, with other {name}: repeat"):
        score(predictor, films, output, operating_point=operating_point)
    assert there(output) == before


def test_two_at_once_do_not_write_one_part(predictor: Predictor, films_folder: Path, tmp_path: Path) -> None:
    films, parts = list_films(films_folder / "test"), tmp_path / "preds.csv.parts"
    parts.mkdir()
    with FileLock(parts / "lock"), pytest.raises(InputError, match="still writing"):
        score(predictor, films, tmp_path / "preds.csv")


def test_names_of_any_kind_and_films_that_cannot_be_read(tiny_run: Path, films_folder: Path, tmp_path: Path) -> None:
    film = next((films_folder / "test" / "NORMAL").iterdir()).read_bytes()
    folder = tmp_path / "films"
    folder.mkdir()
    names = {'a, "b"\nc.png': film, "\udcff.png": film, "empty.png": b"", "Füße.png": film}
    for name, content in names.items():
        (folder / name).write_bytes(content)
    main(["predict", "--model", str(tiny_run), "--device", "cpu", str(folder), "--output", str(tmp_path / "p.csv")])
    with (tmp_path / "p.csv").open(newline="", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == sorted(str(folder / name) for name in names)
    assert {row["path"] for row in rows if row["error"]} == {str(folder / "empty.png")}
    assert [json.loads(row["probability"] or "null") is None for row in rows].count(True) == 1
