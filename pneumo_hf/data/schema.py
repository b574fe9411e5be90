"""The columns of every data set here, and the rows of films."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from pneumo_hf.data.files import UNREADABLE, is_utf8, read_film, readable
from pneumo_hf.data.patients import keyed_hash, parse_file_name
from pneumo_hf.data.reading import in_batches
from pneumo_hf.errors import InputError
from pneumo_hf.imaging.age import years
from pneumo_hf.imaging.dicom import dicom_facts, is_dicom
from pneumo_hf.imaging.film import PICTURE_SUFFIXES
from pneumo_hf.labels import LABELS

if TYPE_CHECKING:
    from datasets import Dataset, Features  # a second to import: not for scoring files

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
CLINICAL_COLUMNS = ("age", "sex", "view")  # what a header, a shard or a table may tell of a film and its patient
DEVICE_COLUMNS = ("manufacturer", "device_model", "patient_position")  # how a film was taken
COLUMNS = (  # of `features`
    *("image", "label", "patient_id", "subtype", "source", "file_name", "view", "age", "sex", "body_part", "modality"),
    *DEVICE_COLUMNS,
)
SPLIT_WORD = re.compile(r"(train|val|valid|validation|validate|dev|test)(?:ing|set|data|list|labels?|images?|films?)?")
HELD_OUT_WORDS = {"holdout", "heldout", "hold", "held", "eval", "evaluation", "unseen", "tst", "trn", "tune", "tuning"}
SEXES = dict.fromkeys(("f", "female", "woman"), "F") | dict.fromkeys(("m", "male", "man"), "M")
VIEWS = {"L": "LATERAL", "LAT": "LATERAL", "AP_HORIZONTAL": "AP", "AP_SUPINE": "AP", "AP SUPINE": "AP"}
ROWS_AT_ONCE = 10_000  # so that a table of any length is built in little memory


def split_in(name: str) -> str | None:
    """Return the split that the name of a file or folder has as a word; train before validation, else one alone.

    >>> [split_in(name) for name in ("test_COVIDx9A", "labelsTrain", "train_val_list", "train_test_data", "attested")]
    ['test', 'train', 'train', None, None]
    """
    found = {SPLITS[match[1]] for match in map(SPLIT_WORD.fullmatch, _words(name)) if match}
    return found.pop() if len(found) == 1 else "train" if found == {"train", "validation"} else None


def seems_split(name: str) -> bool:
    """Return whether a name seems to mean a split, and `split_in` cannot say which: `holdout`, `val_or_test`."""
    words = _words(name)
    found = {SPLITS[match[1]] for match in map(SPLIT_WORD.fullmatch, words) if match}
    return found == {"validation", "test"} or bool(HELD_OUT_WORDS & set(words))


def split_of_path(path: str) -> str | None:
    """Return the split that the folders of a path mean, from the outermost: one in a train folder can refine it.

    Raises:
        InputError: they mean two.
    """
    result = None
    for part in PurePosixPath(path).parts:
        found = split_in(part)
        if found and result not in (None, "train", found):
            raise InputError(f"{path} seems to be in {result} and in {found}: rename one of its folders")
        result = found or result
    return result


def _words(name: str) -> list[str]:
    return [word.lower() for word in re.split(r"[\W\d_]+|(?<=[a-z])(?=[A-Z])", name) if word]


def clinical_values(told: Mapping[str, str | None]) -> dict[str, Any]:
    """Read `age` in years, `sex` (F or M), `view` and how a film was taken, as tables and shards write them.

    What is not known is left out.

    >>> clinical_values({"age": "000Y", "sex": "Female", "view": "L"})
    {'age': 0.0, 'sex': 'F', 'view': 'LATERAL'}
    """
    view = (told.get("view") or "").strip().upper()
    values = {
        "age": years(told.get("age")),
        "sex": SEXES.get((told.get("sex") or "").strip().lower()),
        "view": VIEWS.get(view, view) or None,
        **{name: (told.get(name) or "").strip().upper() or None for name in DEVICE_COLUMNS},
    }
    return {name: value for name, value in values.items() if value is not None}


def features(labels: Sequence[str] = LABELS) -> "Features":
    """Return the columns for these labels; what a source does not say is None (`subtype`: "")."""
    from datasets import ClassLabel, Features, Image, Value

    return Features(
        {
            "image": Image(decode=False),  # {"bytes", "path"}: reading is load_xray's
            "label": ClassLabel(names=list(labels)),
            "patient_id": Value("string"),
            "subtype": Value("string"),  # bacteria, virus, normal or ""
            "source": Value("string"),
            "file_name": Value("string"),  # as below the data's root
            "view": Value("string"),  # PA, AP, LATERAL, ...
            "age": Value("float32"),  # years
            "sex": Value("string"),  # F or M
            "body_part": Value("string"),
            "modality": Value("string"),
            **{name: Value("string") for name in DEVICE_COLUMNS},
        }
    )


def film_row(image: dict, file_name: str, label: int | None, source: str, dicom: bytes | None = None) -> dict:
    """Make a row of the table from a film's place and name, and from its header where it is DICOM."""
    patient_id, subtype = parse_file_name(readable(file_name))
    row = dict.fromkeys(COLUMNS) | {
        "image": image,
        "label": label,
        "patient_id": patient_id,
        "subtype": subtype,
        "source": source,
        "file_name": readable(file_name),
    }
    if dicom is not None:
        try:
            facts = dicom_facts(dicom)
        except ValueError:  # damaged: whoever decodes the film lists it
            return row
        patient = facts["patient"]
        row |= {name: value for name, value in facts.items() if name in row} | (
            {"patient_id": keyed_hash(patient)} if patient else {}
        )
    return row


def file_row(file: str, file_name: str, label: int | None, source: str) -> dict:
    """Make a row for a film in a file; of DICOM the header is read.

    A path that is not UTF-8 fits no table: the film itself does.
    """
    image: dict[str, Any] = {"bytes": None, "path": file}
    if not is_utf8(file):
        try:
            image = {"bytes": read_film(image), "path": None}
        except UNREADABLE:  # whoever decodes the film lists it
            image = {"bytes": None, "path": readable(file)}
    dicom = None
    if PurePosixPath(file_name).suffix.lower() not in PICTURE_SUFFIXES:
        try:
            dicom = read_film(image)
        except UNREADABLE:  # whoever decodes the film lists it
            dicom = None
    return film_row(image, file_name, label, source, dicom if dicom and is_dicom(dicom) else None)


def make_table(rows: Iterable[dict], labels: Sequence[str]) -> "Dataset":
    """Make a table from at least one row, built piece by piece."""
    from datasets import Dataset, concatenate_datasets

    pieces = [Dataset.from_list(chunk, features=features(labels)) for chunk in in_batches(rows, ROWS_AT_ONCE)]
    return concatenate_datasets(pieces)
