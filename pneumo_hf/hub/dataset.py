"""A prepared data set becomes one of the Hub: its card, and the upload."""

from collections.abc import Sequence
from pathlib import Path

from httpx2 import HTTPError  # the client of huggingface_hub
from huggingface_hub import DatasetCard, DatasetCardData, HfApi

from pneumo_hf import DISCLAIMER
from pneumo_hf.data.audit import audit
from pneumo_hf.data.sources import read_source
from pneumo_hf.errors import InputError
from pneumo_hf.reporting.audit import FIGURES, write_audit
from pneumo_hf.reporting.page import TEMPLATES

ANONYMOUS = "Chest X-rays"  # the title of an anonymized set: a source could be called after somebody
UPLOADED = ["data/*.parquet", "audit/*", "README.md"]


def push_data(folder: Path, repo_id: str, private: bool) -> str:
    """Upload a prepared folder as a Hub data set; returns its address.

    Raises:
        InputError: the Hub cannot be reached or refuses.
    """
    try:
        hub = HfApi()
        repo = hub.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        hub.upload_folder(folder_path=folder, repo_id=repo.repo_id, repo_type="dataset", allow_patterns=UPLOADED)
    except (OSError, ValueError, HTTPError) as error:
        raise InputError(
            f"{repo_id} cannot be pushed ({type(error).__name__}): is there a network, and a token that may write "
            f"(`hf auth login`)? The data set itself is in {folder}"
        ) from error
    return str(repo)


def write_dataset_card(folder: Path, found: dict, labels: Sequence[str], anonymized: bool) -> None:
    """Write the card of a prepared data set from its audit."""
    splits = [{"split": split, "path": f"data/{split}-*.parquet"} for split in found["counts"]]
    card = DatasetCard.from_template(
        DatasetCardData(
            license="unknown",
            task_categories=["image-classification"],
            tags=["chest-x-ray", "pneumonia", "radiology", "research-only"],
            pretty_name=found["dataset"],
            configs=[{"config_name": "default", "data_files": splits}],
        ),
        template_path=str(TEMPLATES / "dataset_card.md.jinja"),
        audit=found,
        labels=labels,
        anonymized=anonymized,
        disclaimer=DISCLAIMER,
        figures={f"audit/{name}": caption for name, caption in FIGURES.items() if (folder / "audit" / name).exists()},
    )
    card.save(folder / "README.md")


def document(folder: Path, title: str, labels: Sequence[str], anonymized: bool) -> None:
    """Audit a prepared data set as it lies there, and write `audit/` and the card."""
    found, survey = audit(read_source(folder, labels), ANONYMOUS if anonymized else title, labels)
    write_audit(folder / "audit", found, survey, labels)
    write_dataset_card(folder, found, labels, anonymized)
