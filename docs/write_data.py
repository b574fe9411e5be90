"""Write docs/DATA.md and docs/data/ from the whole Kermany set: `python docs/write_data.py chest_xray.zip`.

The audit's figures and numbers, and the two ways to hold out a validation split beside the official test.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader

from pneumo_hf.config import LABELS, one_line_errors
from pneumo_hf.data.audit import FIGURES, audit
from pneumo_hf.data.duplicates import copy_pairs
from pneumo_hf.data.patients import patient_group, split_by_patient
from pneumo_hf.data.shortcuts import SIDE, linear_baselines, region_features
from pneumo_hf.data.sources import load_data
from pneumo_hf.data.survey import survey_films

DOCS = Path(__file__).parent
FRACTION, SEED = 0.2, 42


def main(source: str) -> None:
    folder = DOCS / "data"
    shutil.rmtree(folder, ignore_errors=True)
    data = load_data(source)
    found = audit(data, Path(source).name, LABELS, folder)
    (folder / "index.html").unlink()  # the same figures once more
    splits = validation_splits(data)
    (folder / "splits.json").write_text(json.dumps(splits, indent=2) + "\n")
    write_page(found, splits)


def validation_splits(data) -> dict[str, dict]:
    """For `random` and `block`: what is held out, and how well linear models fitted to the rest do on it.

    The official test stands beside them, with models fitted to all of train.
    """
    films = survey_films(data)
    is_test, labels, patients = (np.array(x) for x in (films.splits, films.labels, films.patients))
    is_test = is_test == "test"
    thumbnails = films.thumbnails[np.arange(len(labels))]
    features = region_features(thumbnails)
    whole = thumbnails.reshape(len(labels), SIDE, 2, SIDE, 2).mean(axis=(2, 4))
    features["whole_film"] = whole.reshape(len(labels), -1).astype(np.float32)
    train = np.flatnonzero(~is_test)
    copies = copy_pairs(np.array(films.contents)[train], thumbnails[train])
    result = {}
    for method in ("random", "block"):
        by_fold = []
        for fold in range(round(1 / FRACTION)):
            rest, held_out = split_by_patient(patients[train], labels[train], FRACTION, SEED, method, fold, copies)
            rows = train[np.concatenate([rest, held_out])]
            part = {name: values[rows] for name, values in features.items()}
            is_held_out = np.arange(len(rows)) >= len(rest)
            floors = linear_baselines(part, labels[rows], patients[rows], is_held_out)
            by_fold.append(floors["whole_film"]["value"])
            if fold == 0:
                first = {**described(labels[train][held_out], patients[train][held_out]), "floors": floors}
        result[method] = {**first, "whole_film_by_fold": by_fold}
    floors = linear_baselines(features, labels, patients, is_test)
    result["official test"] = {**described(labels[is_test], patients[is_test]), "floors": floors}
    return result


def described(labels: np.ndarray, patients: np.ndarray) -> dict:
    numbers = {}
    for prefix in ("IM-", "NORMAL2-IM-", "person"):
        found = [int("".join(c for c in patient_group(p).split("-")[-1] if c.isdigit())) for p in patients
                 if p.startswith(prefix)]  # fmt: skip
        numbers[prefix] = [min(found), max(found)]
    return {
        "films": {label: int((labels == number).sum()) for number, label in enumerate(LABELS)},
        "patients": len(set(patients)),
        "ids": numbers,
    }


def write_page(found: dict, splits: dict) -> None:
    pages = Environment(loader=FileSystemLoader(DOCS), trim_blocks=True, lstrip_blocks=True)
    figures = {name: caption for name, caption in FIGURES.items() if (DOCS / "data" / name).exists()}
    page = pages.get_template("DATA.md.jinja").render(audit=found, splits=splits, figures=figures, labels=LABELS)
    (DOCS / "DATA.md").write_text(page)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="a zip or folder in Kaggle's layout")
    with one_line_errors():
        main(parser.parse_args().source)
