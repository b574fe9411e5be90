"""Write the embedded sample `data/chest_xray_sample/` from the whole Kermany set in Kaggle's layout.

    python data/make_sample.py chest_xray_224.zip

All official test films, and whole patients of train, drawn at random within each label until the sample holds its
share of 1,200 films. The JPEG bytes are the archive's own, embedded. The mean of those train films goes into
`pneumo_hf/imaging/mean_chest.png`, by which the package distinguishes a film from its negative, and
near-duplicates from different films. Digests of every film of the set go into `pneumo_hf/data/kermany_films.npy`, by
which the package knows them again under other names; `--digests_alone` writes nothing else.
"""

import argparse
from pathlib import Path

import numpy as np
from datasets import Dataset
from datasets import Image as ImageColumn
from PIL import Image

from pneumo_hf.data.digests import KERMANY, PUBLIC_BYTES
from pneumo_hf.data.duplicates import film_digests
from pneumo_hf.data.files import read_film
from pneumo_hf.data.patients import patient_group
from pneumo_hf.data.schema import features
from pneumo_hf.data.sources import load_data
from pneumo_hf.errors import one_line_errors
from pneumo_hf.imaging.film import load_xray
from pneumo_hf.imaging.quality import MEAN_CHEST, thumbnail
from pneumo_hf.labels import LABELS

TRAIN_FILMS, SEED = 1200, 0
COLUMNS = ["image", "label", "patient_id", "subtype", "source", "file_name"]  # of which this set knows something
LONE_FILM = "person447_virus_921_1"


def main(source: str, output_dir: Path, digests_alone: bool = False) -> None:
    data = load_data(source)
    if not digests_alone:
        write_sample(data, output_dir)
    thumbnails = [thumbnail(load_xray(read_film(film["image"]))) for split in data.values() for film in split]
    digests = np.unique(film_digests(np.stack(thumbnails))[:, :PUBLIC_BYTES], axis=0)
    np.save(KERMANY, digests)
    print(f"{KERMANY.name}: {len(digests)} of {len(thumbnails)} films differ")


def write_sample(data: dict[str, Dataset], output_dir: Path) -> None:
    """Write the sample's shards, and the mean of its train films."""
    output_dir.mkdir(parents=True, exist_ok=True)
    train = data["train"]
    for split, films in {"train": train.select(draw_patients(train)), "test": data["test"]}.items():
        embed(films).to_parquet(output_dir / f"{split}-00000-of-00001.parquet")
        if split == "train":
            thumbnails = [thumbnail(load_xray(read_film(film["image"]))) for film in films]
            Image.fromarray(np.mean(thumbnails, axis=0).round().astype(np.uint8)).save(MEAN_CHEST)
        counts = ", ".join(f"{films['label'].count(number)} {label}" for number, label in enumerate(LABELS))
        print(f"{split}: {counts}, {len(set(films['patient_id']))} patients")


def draw_patients(films: Dataset) -> list[int]:
    """Indices of the films of randomly drawn patients, the label ratio kept."""
    groups = np.array([patient_group(patient_id) for patient_id in films["patient_id"]], dtype=object)
    # Its name has one number more than others, so it was a patient of its own when the sample was drawn.
    groups[films["file_name"].index(f"train/PNEUMONIA/{LONE_FILM}.jpeg")] = LONE_FILM
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
    return Dataset.from_list(rows, features=features()).select_columns(COLUMNS).cast_column("image", ImageColumn())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="a zip or folder in Kaggle's layout")
    parser.add_argument("--output_dir", type=Path, default=Path(__file__).parent / "chest_xray_sample")
    parser.add_argument("--digests_alone", action="store_true")
    with one_line_errors():
        main(**vars(parser.parse_args()))
