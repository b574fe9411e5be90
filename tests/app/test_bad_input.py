"""Whatever is sent to the public API gets an answer in words, and the next film its score."""

import io
import random
import re
import time
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pydicom
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless

from pneumo_hf import Predictor
from tests.app.conftest import App, serving
from tests.conftest import make_film
from tests.imaging.test_dicom import dicom

LONGEST = 10  # seconds for an answer
MOST_GROWTH = 1 << 30  # bytes
UPLOADS = 150


def peak(pid: int) -> int:
    """The most bytes that a process has had in memory so far."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])


def peak_from_now(pid: int) -> int:
    """Forget the peak so far, which other tests made; the memory of now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return peak(pid)


def encode(image: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims its size and holds next to nothing."""
    content = bytearray(encode(Image.new("L", (8, 8)), "PNG"))
    content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


@cache
def bomb() -> bytes:
    """A zip of a gigabyte of zeros."""
    file = io.BytesIO()
    archive = zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
    with archive, archive.open("film.png", "w") as film:
        for _ in range(1024):
            film.write(bytes(1 << 20))
    return file.getvalue()


def deflated_bomb(film: np.ndarray) -> bytes:
    """A DICOM whose data set inflates to a gigabyte."""
    content = dicom(film, syntax=DeflatedExplicitVRLittleEndian)
    start = 144 + int.from_bytes(content[140:144], "little")  # preamble, magic, the group's length and what it counts
    squeeze = zlib.compressobj(1, wbits=-15)
    return content[:start] + b"".join(squeeze.compress(bytes(1 << 24)) for _ in range(64)) + squeeze.flush()


def larger_inside(film: np.ndarray) -> bytes:
    """A DICOM of 320 x 400 pixels around a JPEG 2000 of 12,000 x 12,000."""
    frame = encode(Image.new("L", (12_000, 12_000), 7), "JPEG2000")
    claimed = Image.fromarray(film)
    content = pydicom.dcmread(io.BytesIO(dicom(film)))
    content.file_meta.TransferSyntaxUID = JPEG2000Lossless
    content.PixelData = encapsulate([frame])
    content["PixelData"].VR = "OB"
    content.Columns, content.Rows = claimed.size
    file = io.BytesIO()
    content.save_as(file)
    return file.getvalue()


def known_evils() -> dict[str, bytes]:
    film = make_film(0, pneumonia=True, size=(400, 320))
    grey = Image.fromarray(film)
    frames = [Image.fromarray(make_film(seed, False)) for seed in range(3)]
    nan = np.full((64, 64), np.nan, np.float32)
    little, big = b"1.2.840.10008.1.2.1\x00", b"1.2.840.10008.1.2.2\x00"
    return {
        "zip.png": bomb(),
        "huge.png": png_header(30_000, 30_000),
        "large.png": encode(Image.new("L", (7000, 7000), 90), "PNG"),  # 49 million pixels: read, within the bound
        "large_rgba.png": encode(Image.new("RGBA", (6000, 6000), (9, 9, 9, 128)), "PNG"),
        "animated.gif": encode(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "film.svg": b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="9" height="9"/></svg>',
        "page.jpg": b"<!doctype html><html><body>Sign in</body></html>",
        "empty.png": b"",
        "cmyk.jpg": encode(grey.convert("CMYK"), "JPEG"),
        "palette.png": encode(grey.convert("P"), "PNG"),
        "one.png": encode(Image.new("L", (1, 1)), "PNG"),
        "line.png": encode(Image.new("L", (5000, 1)), "PNG"),
        "deep.png": encode(Image.fromarray(film.astype(np.uint16) * 257), "PNG"),
        "nan.tiff": encode(Image.fromarray(nan), "TIFF"),
        "script.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "no_pixels.dcm": dicom(film)[:600],
        "wrong_syntax.dcm": dicom(film).replace(little, big, 1),
        "claims.dcm": dicom(film, Rows=30_000, Columns=30_000),
        "deflated.dcm": deflated_bomb(film),
        "text.dcm": b"\0" * 128 + b"DICM" + b"nothing",
        "null.png": bytes(4096),
        "texture.png": b"FTEX" + bytes(400),  # of a game, by PIL's reader of which an AssertionError
        "surface.png": b"DDS " + bytes(400),
        "window.dcm": dicom(
            np.full((7000, 7000), 900, np.uint16),
            syntax=DeflatedExplicitVRLittleEndian,
            bits=12,
            WindowCenter=800,
            WindowWidth=900,
        ),
        "small_says_the_header.dcm": larger_inside(film),
    }


def fuzzed(count: int) -> Iterator[tuple[str, bytes]]:
    """Films cut short and with bits flipped, of every format."""
    film = make_film(1, pneumonia=False, size=(200, 160))
    sound = {
        "png": encode(Image.fromarray(film), "PNG"),
        "jpg": encode(Image.fromarray(film), "JPEG"),
        "tiff": encode(Image.fromarray(film), "TIFF", compression="tiff_lzw"),
        "dcm": dicom(film),
        "webp": encode(Image.fromarray(film), "WEBP"),
        "tif": encode(Image.fromarray(film.astype(np.uint16) << 8), "TIFF"),
    }
    draw = random.Random(0)
    for number in range(count):
        suffix = draw.choice(sorted(sound))
        content = bytearray(sound[suffix])
        if number % 2:
            content = content[: draw.randrange(1, len(content))]
        for _ in range(draw.choice((0, 1, 3, 30)) if number % 2 else draw.choice((1, 4, 64))):
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        yield f"film_{number}.{suffix}", bytes(content)


def test_150_bad_uploads_get_an_answer_each_and_the_next_film_its_score(
    app: App, tiny_run: Path, films_folder: Path, tmp_path: Path
) -> None:
    evils = known_evils()
    uploads = [*evils.items(), *fuzzed(UPLOADS - len(evils))]
    good = next((films_folder / "test" / "PNEUMONIA").iterdir())
    expected = Predictor(tiny_run, device="cpu")([good])[0]["probability"]
    client = Client(app.url, verbose=False)
    client.predict(handle_file(good), api_name="/predict")
    before, slowest = peak_from_now(app.process.pid), 0.0
    answers = {}
    for name, content in uploads:
        path = tmp_path / name
        path.write_bytes(content)
        start = time.perf_counter()
        try:
            answers[name] = client.predict(handle_file(path), api_name="/predict")
        except (AppError, ValueError) as error:  # gradio's own refusal of a file
            answers[name] = {"probability": None, "error": str(error)}
        slowest = max(slowest, time.perf_counter() - start)
    assert slowest < LONGEST
    assert peak(app.process.pid) - before < MOST_GROWTH
    unclear = {
        name: answer
        for name, answer in answers.items()
        if (answer["probability"] is None) and (len(answer["error"]) < 5 or "Traceback" in answer["error"])
    }
    assert not unclear
    unread = [name for name in evils if answers[name]["probability"] is None]
    readable = {
        "large.png",
        "large_rgba.png",
        "cmyk.jpg",
        "palette.png",
        "one.png",
        "line.png",
        "deep.png",
        "window.dcm",
    }
    assert set(evils) - set(unread) <= readable
    assert "too many pixels" in answers["huge.png"]["error"]
    assert client.predict(handle_file(good), api_name="/predict")["probability"] == pytest.approx(expected, abs=1e-6)


def test_a_zip_bomb_in_a_worklist_is_one_row(app: App, films_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "films.zip").write_bytes(bomb())
    good = next((films_folder / "test" / "NORMAL").iterdir())
    client = Client(app.url, verbose=False)
    client.predict(handle_file(good), api_name="/predict")
    before = peak_from_now(app.process.pid)
    table = client.predict([handle_file(tmp_path / "films.zip"), handle_file(good)], api_name="/predict_batch")[0]
    assert peak(app.process.pid) - before < MOST_GROWTH
    rows = [dict(zip(table["headers"], row, strict=True)) for row in table["data"]]
    assert [bool(row["error"]) for row in rows] == [True, False]
    assert "too large" in rows[0]["error"]


def test_strangers_requests_do_not_fail_each_other(
    url: str, tiny_run: Path, films_folder: Path, tmp_path: Path
) -> None:
    films = sorted((films_folder / "test").rglob("*.jpeg"))[:12]
    expected = {film: row["probability"] for film, row in zip(films, Predictor(tiny_run)(films), strict=True)}
    (tmp_path / "texture.png").write_bytes(b"FTEX" + bytes(400))

    def ask_well(film: Path) -> float:
        return Client(url, verbose=False).predict(handle_file(film), api_name="/predict")["probability"]

    def ask_badly(_: int) -> None:
        client = Client(url, verbose=False)
        for film in (handle_file(tmp_path / "texture.png"), {"path": "/etc/passwd"}):
            with suppress(AppError, ValueError):
                client.predict(film, api_name="/predict")

    with ThreadPoolExecutor(16) as pool:
        bad = [pool.submit(ask_badly, number) for number in range(6)]
        answered = dict(zip(films, pool.map(ask_well, films), strict=True))
        [asked.result() for asked in bad]
    assert answered == pytest.approx(expected, abs=1e-6)


def test_a_worklist_reads_no_file_that_was_not_sent(url: str, films_folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "elsewhere" / "secret.png"
    secret.parent.mkdir()
    Image.fromarray(make_film(5, pneumonia=True)).save(secret)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    image = pa.array([{"bytes": None, "path": str(secret)}, {"bytes": None, "path": "/etc/passwd"}], kind)
    pq.write_table(pa.table({"image": image}), tmp_path / "mine.parquet")
    with zipfile.ZipFile(tmp_path / "strange.zip", "w") as archive:
        archive.writestr("film.png", b"nothing")
    content = bytearray((tmp_path / "strange.zip").read_bytes())
    content[content.index(b"PK\x01\x02") + 6] = 255  # the version needed to extract
    (tmp_path / "strange.zip").write_bytes(content)
    good = next((films_folder / "test" / "NORMAL").iterdir())
    given = [tmp_path / "mine.parquet", tmp_path / "strange.zip", good]
    client = Client(url, verbose=False)
    table, gallery, _ = client.predict([handle_file(path) for path in given], api_name="/predict_batch")
    rows = {row[0]: dict(zip(table["headers"], row, strict=True)) for row in table["data"]}
    assert rows[good.name]["probability"] and not rows[good.name]["error"]
    assert rows["mine.parquet"]["error"] and rows["strange.zip"]["error"]
    assert len(rows) == 3 and len(gallery) == 1 and "/" not in str([row["error"] for row in rows.values()])


def test_nothing_of_a_visitor_is_left_or_logged(tiny_run: Path, films_folder: Path, tmp_path: Path) -> None:
    film = tmp_path / "Doe_Jane.jpeg"
    film.write_bytes(next((films_folder / "test" / "PNEUMONIA").iterdir()).read_bytes())
    (tmp_path / "Doe_Jane.png").write_text("no picture")
    temporary, log = tmp_path / "tmp", tmp_path / "log"
    temporary.mkdir()
    with log.open("w") as file, serving(tiny_run, TMPDIR=str(temporary), log=file) as (url, process):
        client = Client(url, verbose=False)
        for path in (film, tmp_path / "Doe_Jane.png"):
            client.predict(handle_file(path), api_name="/predict")
            with suppress(AppError):
                client.predict(handle_file(path), 0.5, api_name="/case_report")
            with suppress(AppError):
                client.predict(handle_file(path), 0.5, api_name="/explain")
            client.predict([handle_file(path)], api_name="/predict_batch")
        assert [path for path in temporary.rglob("*") if path.is_file() and "Doe" in path.name]  # gradio's copies
        process.terminate()
        process.wait()
        assert not [path for path in temporary.rglob("*") if path.is_file()]
    assert "Doe" not in log.read_text() and "scored a film" in log.read_text()
