"""What must not leave with a run: pickles, local paths, names of films or patients, and files that cannot be read."""

import csv
import html
import json
import pickle
import pickletools
import re
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors import SafetensorError, safe_open

from pneumo_hf.errors import InputError
from pneumo_hf.inference.onnx import INSTALL

UNSAFE_NAMES = re.compile(
    r"\.(bin|pt|pth|pkl|pickle|ckpt|joblib|dcm)$|^(optimizer|scheduler|training_args|rng_state|scaler)\b", re.I
)
LFS_POINTER = b"version https://git-lfs"
OPCODES = 4, 10_000  # of a pickle, at least (a text like "N.B." has fewer), and looked at
BROKEN = (OSError, ValueError, SyntaxError, RecursionError, struct.error, zlib.error, SafetensorError)  # whoever reads
LOCAL_PATH = re.compile(
    r"(?<![\w.:/])(/(?!(usr|bin|etc|lib|lib64|dev|proc|sys)/)[A-Za-z][\w.-]*/[\w.-]+|~/\w+|[A-Za-z]:[\\/]+\w+|\\\\+\w+\\+\w"
    r"|(file|zip|smb|nfs|sftp|ssh|s3|gs|az|abfss?|hdfs):/{1,3}\w+)"
)
FILM_NAME = re.compile(
    r"\b(person\d+_(bacteria|virus)_\d+|(NORMAL2-)?IM-\d{3,}-\d{3,}|(BACTERIA|VIRUS|NORMAL)-\d{4,}-\d+"
    r"|[\w-]+\.(dcm|dicom|ima|jpe?g|jfif|jp2|j2k|tiff?|bmp|webp))\b",
    re.I,
)
EXAMPLE_NAMES = {"film.jpeg", "film.dcm"}  # of the card's code
TEXTS = {".json", ".yaml", ".md", ".csv", ".html", ".py", ".txt"}


def what_must_not_leave(run: Path, files: dict[str, Path]) -> list[str]:
    """Say why a run should not be uploaded, by name and by content: `["FILE: reason", ...]`, empty where all is well.

    Pickles are looked for in the whole folder: one that would not be uploaded does not belong there either.
    """
    found = []
    for path in sorted(path for path in run.rglob("*") if path.is_file()):
        if UNSAFE_NAMES.search(path.name):
            found.append(f"{path.relative_to(run)}: a pickle or training state by its name")
        elif path not in files.values() and is_pickle(path):
            found.append(f"{path.relative_to(run)}: a pickle by its content")
    names = _names_of_films(run)
    known = re.compile(rf"(?<![\w.-])({'|'.join(map(re.escape, sorted(names)))})(?![\w-]|\.\w)") if names else None
    for name, path in files.items():
        if _leads_out(path, run):
            found.append(f"{name}: a symbolic link out of the run")
        elif not path.is_file():
            found.append(f"{name}: no file")
        elif is_pickle(path):
            found.append(f"{name}: a pickle by its content")
        elif _start(path, LFS_POINTER):
            found.append(f"{name}: a Git LFS pointer in place of the file: git lfs pull")
        else:
            found += [f"{name}: {reason}" for reason in _reasons(name, path, known)]
    return found


def _reasons(name: str, path: Path, known: re.Pattern | None) -> Iterator[str]:
    try:
        text = f"{name}\n{path.stem.removeprefix('external_')}\n{text_of(path)}"
    except UnicodeDecodeError:
        yield "no text in UTF-8, so what it says cannot be read"
        return
    except (*BROKEN, Image.DecompressionBombError) as error:
        yield f"it is broken: {str(error).strip().splitlines()[0][:100] or type(error).__name__}"
        return
    if match := LOCAL_PATH.search(text):
        again = " (python -m pneumo_hf export writes it without)" if path.suffix == ".onnx" else ""
        yield f"the local path {match[0]}{again}"
    films = [match[0] for match in FILM_NAME.finditer(text) if match[0] not in EXAMPLE_NAMES]
    if known and (match := known.search(text)):
        films.append(match[0])
    if films:
        yield f"the film or patient {films[0]}"


def text_of(path: Path) -> str:
    """Read what a file says in words: a text, or what is written beside the numbers of a picture and of weights.

    Raises:
        UnicodeDecodeError: a text is in another encoding than UTF-8.
        BROKEN: the file is.
    """
    if path.suffix == ".png":
        with Image.open(path, formats=["PNG"]) as picture:
            picture.load()  # what follows the pixels, too
            text = "\n".join(f"{key}\n{value}" for key, value in picture.info.items())
    elif path.suffix == ".safetensors":
        with safe_open(path, "numpy") as weights:
            text = json.dumps([weights.metadata(), list(weights.keys())], ensure_ascii=False)
    elif path.suffix == ".onnx":
        text = "\n".join(_strings_of(_onnx(path)))
    elif path.suffix in TEXTS:
        text = re.sub(r"base64,[\w+/=]+", "", path.read_text(encoding="utf-8"))
        if "\0" in text:  # UTF-16 without its mark
            raise UnicodeDecodeError("utf-8", b"\0", 0, 1, "a zero in a text")
        if path.suffix == ".json":  # as it is, and without its escapes
            text += "\n" + json.dumps(json.loads(text), ensure_ascii=False)
        elif path.suffix in {".html", ".md"}:
            text += "\n" + html.unescape(text)
    else:
        text = ""
    return unicodedata.normalize("NFC", text)


def is_pickle(path: Path) -> bool:
    """Return whether a file is a pickle, or a zip with one as torch.save writes it, whatever its name says."""
    if zipfile.is_zipfile(path):
        with suppress(zipfile.BadZipFile, NotImplementedError), zipfile.ZipFile(path) as archive:
            return any(name.endswith(".pkl") for name in archive.namelist())
    least, most = OPCODES
    with path.open("rb") as file:
        is_binary, found = file.read(1) == pickle.PROTO, 0
        file.seek(0)
        try:
            for _ in islice(pickletools.genops(file), least if is_binary else most):
                found += 1
        except (ValueError, OverflowError):
            return False
    return is_binary or found >= least  # the first protocols are texts


def _onnx(path: Path) -> Any:
    try:
        import onnx
    except ImportError as error:
        raise InputError(f"push looks into {path.name}, for which it needs onnx: {INSTALL}") from error
    try:
        return onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's, which is onnx's own need
        raise ValueError(str(error)) from error


def _strings_of(message: Any) -> Iterator[str]:
    """Every string of a protobuf message, but for the numbers of tensors."""
    for field, value in message.ListFields():
        for part in value if field.is_repeated else [value]:
            if field.message_type:
                yield from _strings_of(part)
            elif field.cpp_type == field.CPPTYPE_STRING and field.name != "raw_data":
                yield part if isinstance(part, str) else part.decode(errors="replace")


def _leads_out(path: Path, run: Path) -> bool:
    try:
        return path.is_relative_to(run) and not path.resolve().is_relative_to(run.resolve())
    except (OSError, RuntimeError):  # links that go in a circle
        return True


def _start(path: Path, wanted: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(wanted)) == wanted


def _names_of_films(run: Path) -> set[str]:
    """The patient ids and file names in a run's predictions and in `rejected.csv`.

    Numbers of up to three digits are left out: a report is full of them.
    """
    found = set()
    for path in (*run.glob("report/predictions_*.csv"), *run.glob("rejected.csv")):
        try:
            rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
            for row in rows:
                file_name = Path(row["path"])
                found |= {row.get("patient_id") or "", file_name.name, file_name.stem}
        except (UnicodeDecodeError, KeyError, TypeError, csv.Error) as error:
            raise InputError(f"{path} does not say which films it is of, by which names would be found") from error
    found = {unicodedata.normalize("NFC", name) for name in found}
    return {name for name in found if len(name) > 3 or (len(name) > 1 and not name.isdecimal())}
