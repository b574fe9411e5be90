"""The columns of every data set here, and how the names that others give their labels become ours."""

import difflib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import PurePosixPath

from datasets import ClassLabel, Dataset, Features, Image, Value, concatenate_datasets

from pneumo_hf.config import LABELS, InputError
from pneumo_hf.data.files import UNREADABLE, read_film
from pneumo_hf.data.patients import keyed_hash, parse_file_name
from pneumo_hf.imaging.dicom import dicom_facts, is_dicom
from pneumo_hf.imaging.film import FILM_SUFFIXES

logger = logging.getLogger(__name__)

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
ROWS_AT_ONCE = 10_000  # so that a table of any length is built in little memory


def features(labels: Sequence[str] = LABELS) -> Features:
    """The columns, for two labels or for three; what a source does not say is None (`subtype`: "")."""
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
    """A row of the table from a film's place and name, and from its header where it is DICOM."""
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
    """A row for a film in a file; of DICOM the header is read."""
    image = {"bytes": None, "path": file}
    dicom = None
    if PurePosixPath(file_name).suffix.lower() not in FILM_SUFFIXES - {".dcm", ".dicom"}:
        try:
            dicom = read_film(image)
        except UNREADABLE:  # whoever decodes the film lists it
            dicom = None
    return film_row(image, file_name, label, source, dicom if dicom and is_dicom(dicom) else None)


def make_table(rows: Iterable[dict], labels: Sequence[str]) -> Dataset:
    """A table from at least one row, built piece by piece."""
    pieces = [Dataset.from_list(chunk, features=features(labels)) for chunk in in_batches(rows, ROWS_AT_ONCE)]
    return concatenate_datasets(pieces)


def in_batches(items: Iterable, size: int) -> Iterator[list]:
    """Lists of `size` items, the last perhaps shorter."""
    items = iter(items)
    return iter(lambda: list(islice(items, size)), [])


def one_ahead(items: Iterator) -> Iterator:
    """The same items, none of them None, each but the first made by a thread while the one before it is in use."""
    item = next(items, None)
    with ThreadPoolExecutor(1) as pool:
        while item is not None:
            coming = pool.submit(next, items, None)
            yield item
            item = coming.result()


class LabelNames:
    """From the names of a source (folders, a CSV's column, a Hub set's classes) to the numbers of `labels`.

    The labels themselves are known, in any case of letters, and so are `bacteria` and `virus`; `label_map` adds
    others. With three labels a film called pneumonia takes its kind from its subtype. `left_out` counts the names
    that have no label.

    Raises:
        InputError: `label_map` maps to something that is none of `labels`.
    """

    def __init__(self, labels: Sequence[str], label_map: Mapping[str, str] | None = None):
        self.labels = tuple(labels)
        self.left_out = Counter()
        self.mapped = set(label_map or {})  # the names that the user gave
        kinds = {"bacteria": "PNEUMONIA", "virus": "PNEUMONIA"} if "PNEUMONIA" in labels else {}
        self.numbers = {name.lower(): labels.index(label) for name, label in kinds.items()}
        self.numbers |= {label.lower(): number for number, label in enumerate(labels)}
        if len(labels) == 2:
            self.numbers |= {"0": 0, "1": 1}  # pneumonia: no, yes
        for name, label in (label_map or {}).items():
            if label.upper() not in self.labels:
                near = difflib.get_close_matches(label.upper(), self.labels, n=1, cutoff=0)[0]
                raise InputError(f"label_map: {name}={label}, but the labels are {', '.join(labels)}; {near}?")
            self.numbers[name.strip().lower()] = self.labels.index(label.upper())

    def __contains__(self, name: str) -> bool:
        return name.strip().lower() in self.numbers or name.strip().lower() == "pneumonia"

    def number(self, name: str, subtype: str = "") -> int | None:
        """The label of a film, or None, which is counted."""
        name = name.strip()
        number = self.numbers.get(name.lower())
        if number is None and name.lower() == "pneumonia":
            number = self.numbers.get(subtype)
            name = f"{name} of no known kind"
        if number is None:
            self.left_out[name] += 1
        return number

    def report(self, source: str) -> None:
        """Log what was left out, with the remedy."""
        if self.left_out:
            counts = ", ".join(f"{count} {name or '(no label)'}" for name, count in self.left_out.most_common(8))
            logger.warning("%s: left out %s (a label_map, NAME=LABEL, would keep them)", source, counts)


def assert_every_label(found: Iterable[int], labels: Sequence[str], message: str) -> None:
    """Raise InputError if a label is not among `found`; `{}` in the message is for the names of those missing."""
    missing = set(range(len(labels))) - set(found)
    if missing:
        raise InputError(f"{message.format(', '.join(labels[label] for label in missing))}; every label is needed")


def parse_label_map(text: str | None) -> dict[str, str]:
    """`{"COVID19": "PNEUMONIA"}` as JSON, or `COVID19=PNEUMONIA,No Finding=NORMAL`.

    Raises:
        InputError: it is neither.
    """
    if not text:
        return {}
    try:
        pairs = (
            json.loads(text) if text.lstrip().startswith("{") else dict(part.split("=", 1) for part in text.split(","))
        )
        return {str(name).strip(): str(label).strip() for name, label in pairs.items()}
    except ValueError as error:
        raise InputError(f"label_map: {text} is neither JSON nor NAME=LABEL,NAME=LABEL") from error
