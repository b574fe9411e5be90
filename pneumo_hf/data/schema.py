"""The columns of every data set here, and the rows of films."""

from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from datasets import ClassLabel, Dataset, Features, Image, Value, concatenate_datasets

from pneumo_hf.data.files import UNREADABLE, read_film
from pneumo_hf.data.patients import keyed_hash, parse_file_name
from pneumo_hf.data.reading import in_batches
from pneumo_hf.imaging.dicom import dicom_facts, is_dicom
from pneumo_hf.imaging.film import PICTURE_SUFFIXES
from pneumo_hf.labels import LABELS

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
CLINICAL_COLUMNS = ("age", "sex", "view")  # what a header, a shard or a table may tell of a film and its patient
ROWS_AT_ONCE = 10_000  # so that a table of any length is built in little memory


def features(labels: Sequence[str] = LABELS) -> Features:
    """Return the columns for these labels; what a source does not say is None (`subtype`: "")."""
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
        }
    )


def film_row(image: dict, file_name: str, label: int | None, source: str, dicom: bytes | None = None) -> dict:
    """Make a row of the table from a film's place and name, and from its header where it is DICOM."""
    patient_id, subtype = parse_file_name(file_name)
    row = dict.fromkeys(features()) | {
        "image": image,
        "label": label,
        "patient_id": patient_id,
        "subtype": subtype,
        "source": source,
        "file_name": file_name,
    }
    if dicom is not None:
        try:
            facts = dicom_facts(dicom)
        except ValueError:  # damaged: whoever decodes the film lists it
            return row
        patient = facts.pop("patient")
        facts.pop("bits")
        row |= facts | ({"patient_id": keyed_hash(patient)} if patient else {})
    return row


def file_row(file: str, file_name: str, label: int | None, source: str) -> dict:
    """Make a row for a film in a file; of DICOM the header is read."""
    image = {"bytes": None, "path": file}
    dicom = None
    if PurePosixPath(file_name).suffix.lower() not in PICTURE_SUFFIXES:
        try:
            dicom = read_film(image)
        except UNREADABLE:  # whoever decodes the film lists it
            dicom = None
    return film_row(image, file_name, label, source, dicom if dicom and is_dicom(dicom) else None)


def make_table(rows: Iterable[dict], labels: Sequence[str]) -> Dataset:
    """Make a table from at least one row, built piece by piece."""
    pieces = [Dataset.from_list(chunk, features=features(labels)) for chunk in in_batches(rows, ROWS_AT_ONCE)]
    return concatenate_datasets(pieces)
