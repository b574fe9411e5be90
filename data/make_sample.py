"""Write the embedded sample `data/chest_xray_sample/` from the whole Kermany set in Kaggle's layout.

    python data/make_sample.py chest_xray_224.zip

All official test films, and whole patients of train, drawn at random within each label until the sample holds its
share of 1,200 films. The JPEG bytes are the archive's own, embedded.
"""

import argparse
from pathlib import Path

import numpy as np
from datasets import Dataset, Image

from pneumo_hf.config import LABELS, one_line_errors
from pneumo_hf.data.patients import patient_group
from pneumo_hf.data.sources import FEATURES, load_data, read_film

TRAIN_FILMS, SEED = 1200, 0


def main(source: str, output_dir: Path) -> None:
    data = load_data(source)
    output_dir.mkdir(parents=True, exist_ok=True)
    train = data["train"]
    for split, films in {"train": train.select(draw_patients(train)), "test": data["test"]}.items():
        embed(films).to_parquet(output_dir / f"{split}-00000-of-00001.parquet")
        counts = ", ".join(f"{films['label'].count(number)} {label}" for number, label in enumerate(LABELS))
        print(f"{split}: {counts}, {len(set(films['patient_id']))} patients")


def draw_patients(films: Dataset) -> list[int]:
    """Indices of the films of randomly drawn patients, the label ratio kept."""
    groups = np.array([patient_group(patient_id) for patient_id in films["patient_id"]])
    labels = np.array(films["label"])
    drawn = []
    for label in range(len(LABELS)):
        wanted = round(TRAIN_FILMS * np.mean(labels == label))
        patients = np.random.default_rng(SEED).permutation(np.unique(groups[labels == label]))
        counts = np.array([np.sum(groups == patient) for patient in patients])
        drawn += list(patients[np.cumsum(counts) <= wanted])
    return np.flatnonzero(np.isin(groups, drawn)).tolist()


def embed(films: Dataset) -> Dataset:
    """The same table with each film's file in it."""
    rows = [
        {
            **film,
            "image": {"bytes": read_film(film["image"]), "path": Path(film["file_name"]).name},
            "source": "kermany",
        }
        for film in films
    ]
    return Dataset.from_list(rows, features=FEATURES).cast_column("image", Image())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="a zip or folder in Kaggle's layout")
    parser.add_argument("--output_dir", type=Path, default=Path(__file__).parent / "chest_xray_sample")
    with one_line_errors():
        main(**vars(parser.parse_args()))
