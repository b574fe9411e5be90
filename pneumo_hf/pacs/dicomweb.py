"""A study comes from a PACS by DICOMweb, and its answers go back: QIDO-RS, WADO-RS and STOW-RS of PS3.18."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pydicom
import requests
from dicomweb_client.api import DICOMwebClient

from pneumo_hf.errors import InputError
from pneumo_hf.pacs.screening import ANSWERED, is_uid

logger = logging.getLogger(__name__)
logging.getLogger("dicomweb_client").setLevel(logging.CRITICAL)

PATIENCE = 60.0  # seconds
KEYS = {"SOPInstanceUID": "00080018", "SeriesInstanceUID": "0020000E", "Modality": "00080060"}


class WebStudy:
    """A study on a DICOMweb server; user and password are those of ~/.netrc, if it has any.

    Args:
        url: of the service, as http://127.0.0.1:8042/dicom-web.

    Raises:
        InputError: it is no address, or no UID.
    """

    def __init__(self, url: str, study: str):
        if not is_uid(study):
            raise InputError(f"--study is a Study Instance UID, not {study}")
        try:
            self.client = DICOMwebClient(url, session=requests.Session(), timeout=PATIENCE)
        except ValueError as error:
            raise InputError(f"--dicomweb is the address of a DICOMweb service, not {url}") from error
        self.client.set_http_retry_params(retry=False)
        self.study = study

    def fetch(self, folder: Path) -> None:
        """Fetch the films of the study that may be answered into a folder, `UID.dcm` each; those there are kept.

        Raises:
            InputError: the server cannot be reached or refuses, or has no such film.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with _as_input_errors():
            found = self.client.search_for_instances(self.study, fields=list(KEYS), get_remaining=True)
            rows = [{name: _value(row, tag) for name, tag in KEYS.items()} for row in found]
            others = Counter(row["Modality"] for row in rows if row["Modality"] not in ANSWERED)
            if others:
                logger.info("not asked for: %s", ", ".join(f"{name or '?'} {count}" for name, count in others.items()))
            wanted = [row for row in rows if row["Modality"] in ANSWERED and is_uid(row["SOPInstanceUID"])]
            if not wanted:
                raise InputError(f"the study {self.study} has no film of {', '.join(ANSWERED)} there")
            for row in wanted:
                path = folder / f"{row['SOPInstanceUID']}.dcm"
                if not path.exists():
                    film = self.client.retrieve_instance(self.study, row["SeriesInstanceUID"], row["SOPInstanceUID"])
                    film.save_as(path.with_suffix(".partial"), enforce_file_format=True)
                    path.with_suffix(".partial").replace(path)

    def store(self, documents: Sequence[Path]) -> None:
        """Store documents in the study; those that are there already, from an earlier time, stay.

        Raises:
            InputError: the server cannot be reached, or refuses one.
        """
        with _as_input_errors():
            for document in documents:
                answer = self.client.store_instances([pydicom.dcmread(document)], self.study)
                if answer.get("FailedSOPSequence"):
                    raise InputError(f"the server did not store {document.name}")
        logger.info("stored in the study: %d", len(documents))


@contextmanager
def _as_input_errors() -> Iterator[None]:
    try:
        yield
    except requests.HTTPError as error:
        what = str(error).partition(" for url")[0]
        raise InputError(f"the DICOMweb server answers {what}") from error
    except requests.RequestException as error:
        raise InputError(f"the DICOMweb server cannot be reached ({type(error).__name__})") from error
    except ValueError as error:  # no JSON, no DICOM
        raise InputError("the server's answer is not of a DICOMweb service") from error


def _value(row: dict, tag: str) -> str:
    return str((row.get(tag, {}).get("Value") or [""])[0])
