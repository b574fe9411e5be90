"""What a killed `predict` leaves, and how the next one resumes; several processes are in tests/test_scale_out.py."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from pneumo_hf import Predictor
from pneumo_hf.__main__ import main
from pneumo_hf.data.listing import FilmList, list_films
from pneumo_hf.errors import InputError
from pneumo_hf.inference.scoring import score_files
from pneumo_hf.runtime import Processes


class Cut(FilmList):
    """A list that ends the process after some films, as a kill would."""

    def __init__(self, films: FilmList, after: int):
        super().__init__(films.parts)
        self.after = after

    def rows(self, start: int, stop: int) -> Iterator[dict]:
        yield from super().rows(start, start + self.after)
        raise KeyboardInterrupt


@pytest.fixture
def predictor(tiny_run: Path) -> Predictor:
    return Predictor(tiny_run, device="cpu", batch_size=8)


def score(predictor: Predictor, films: FilmList, output: Path, **arguments: str):
    return score_files(predictor, films, output, arguments, lambda probability: probability, Processes())


def lines(output: Path) -> list[str]:
    return (output.with_name(f"{output.name}.parts") / "0-of-1.jsonl").read_text().splitlines()


def test_it_resumes_behind_the_last_whole_batch(predictor: Predictor, films_folder: Path, tmp_path: Path) -> None:
    films, output, parts = list_films(films_folder), tmp_path / "preds.csv", tmp_path / "preds.csv.parts"
    flags = score(predictor, films, tmp_path / "whole.csv")
    assert flags.total() == len(films) == 152
    with pytest.raises(KeyboardInterrupt):
        score(predictor, Cut(films, after=30), output)
    assert not output.exists()
    assert 8 <= len(lines(output)) <= 24
    first = lines(output)
    with (parts / "0-of-1.jsonl").open("a") as file:  # a batch of which the disk has three lines and a half
        file.write("\n".join([*first[:3], first[3][:20]]))
    asked = []

    class Watched(FilmList):
        def rows(self, start: int, stop: int) -> Iterator[dict]:
            asked.append((start, stop))
            return super().rows(start, stop)

    assert score(predictor, Watched(films.parts), output) == flags
    assert asked == [(len(first), 152)]  # none is scored twice
    assert output.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert not parts.exists()


def test_killed_between_scoring_and_joining(predictor: Predictor, films_folder: Path, tmp_path: Path) -> None:
    films = list_films(films_folder / "test")
    score(predictor, films, tmp_path / "whole.csv")
    with pytest.raises(KeyboardInterrupt):
        score(predictor, Cut(films, after=41), tmp_path / "preds.csv")
    assert len(lines(tmp_path / "preds.csv")) == 40  # all there are: 5 batches of 8
    score(predictor, films, tmp_path / "preds.csv")
    assert (tmp_path / "preds.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


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


def test_it_resumes_in_the_batches_that_it_was_begun_with(
    predictor: Predictor, tiny_run: Path, films_folder: Path, tmp_path: Path
) -> None:
    """As on a machine with a GPU, where more films go at once."""
    films, output = list_films(films_folder), tmp_path / "preds.csv"
    score(predictor, films, tmp_path / "whole.csv")
    with pytest.raises(KeyboardInterrupt):
        score(predictor, Cut(films, after=30), output)
    other = Predictor(tiny_run, device="cpu")
    assert other.batch_size == 16
    score(other, films, output)
    assert other.batch_size == 8
    assert output.read_bytes() == (tmp_path / "whole.csv").read_bytes()


@pytest.mark.parametrize("change", ["arguments", "list", "weights"])
def test_another_commands_parts_are_refused(
    change: str, predictor: Predictor, films_folder: Path, tmp_path: Path
) -> None:
    films, output, operating_point = list_films(films_folder), tmp_path / "preds.csv", "youden"
    with pytest.raises(KeyboardInterrupt):
        score(predictor, Cut(films, after=30), output, operating_point=operating_point)
    before = lines(output)
    if change == "arguments":
        operating_point = "f1"
    elif change == "list":
        films = list_films(*sorted(films_folder.rglob("*.jpeg"), reverse=True))
    else:
        next(iter(predictor.model.parameters())).data += 1e-3
    name = {"arguments": "operating_point"}.get(change, change)
    with pytest.raises(InputError, match=f"of another command, with other {name}: repeat"):
        score(predictor, films, output, operating_point=operating_point)
    assert lines(output) == before


def test_two_at_once_do_not_write_one_part(predictor: Predictor, films_folder: Path, tmp_path: Path) -> None:
    films, parts = list_films(films_folder / "test"), tmp_path / "preds.csv.parts"
    parts.mkdir()
    with FileLock(parts / "0-of-1.lock"), pytest.raises(InputError, match="still writing"):
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
