"""Which films are answered, and what of their headers the answer needs. Runs in processes of its own: no torch."""

import re
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from pydicom import Dataset, config
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
)
from pydicom.valuerep import DA, TM, PersonName

from pneumo_hf.imaging.dicom import CHEST, is_dicom, is_lateral, parse_dicom
from pneumo_hf.imaging.display import DAMAGE
from pneumo_hf.imaging.film import UnreadableFilmError, load_xray

ANSWERED = ("DX", "CR", "RG")  # modalities of projection radiographs; RG is film that was scanned
CLASSES = {  # of storage, that such films come in
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    SecondaryCaptureImageStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
}
UIDS = {"SOPInstanceUID": "film", "SeriesInstanceUID": "series", "StudyInstanceUID": "study"}
UID = re.compile(r"\d+(\.\d+)+")
LONGEST_UID = 64
WHERE = (  # what may say which part of the body is shown, and from where
    *(
        "BodyPartExamined",
        "ProtocolName",
        "SeriesDescription",
        "StudyDescription",
        "PerformedProcedureStepDescription",
    ),
    *("RequestedProcedureDescription", "AcquisitionDeviceProcessingDescription"),
)
CODED = ("AnatomicRegionSequence", "ViewCodeSequence")
OBLIQUE = re.compile(r"(?<![A-Z])(LAO|RAO|LPO|RPO|LLO|RLO|OBL(IQUE)?|SCHR(AE|Ä)G)(?![A-Z])")
COPIED = (  # of the film's patient and study, to the answer
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientAge"),
    *("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "StudyDescription", "AccessionNumber"),
    "ReferringPhysicianName",
)
KEPT = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Modality", "Rows", "Columns")
ALWAYS = (  # an answer has these, if only empty
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
UTF_8 = "ISO_IR 192"

# A film's own values are copied as they are, even where they are longer than their kind allows.
config.settings.writing_validation_mode = config.IGNORE


class Screened(NamedTuple):
    """A film to answer with the part of its header that the answer needs, or the reason why there is no answer."""

    header: Dataset | None
    film: Image.Image | None = None  # mode "L"
    reason: str = ""


def is_uid(text: str) -> bool:
    """Return whether a text is a UID: digits and dots, so that it may be in a log, and the name of a file."""
    return len(text) <= LONGEST_UID and bool(UID.fullmatch(text))


def screen_file(path: str) -> Screened:
    """Screen the film in a file that is called by its UID."""
    screened = screen(Path(path).read_bytes())
    if screened.header is not None and screened.header.SOPInstanceUID != Path(path).stem:
        return Screened(None, reason="its UID is not the one that it was sent by")
    return screened


def screen(content: bytes) -> Screened:
    """Read a film if it is one to answer: a frontal chest film of DX, CR or RG, of a known study, with its pixels.

    >>> screen(b"nothing").reason
    'no DICOM'
    """
    screened = screen_header(content)
    if screened.header is None:
        return screened
    try:
        return screened._replace(film=load_xray(content))
    except UnreadableFilmError as error:
        return Screened(None, reason=str(error))


def screen_header(content: bytes) -> Screened:
    """Screen a film by its header alone."""
    if not is_dicom(content):
        return Screened(None, reason="no DICOM")
    try:
        dataset = parse_dicom(content, pixels=False)
        reason = _refusal(dataset)
        return Screened(None, reason=reason) if reason else Screened(_header(dataset))
    except ValueError as error:
        return Screened(None, reason=str(error))
    except DAMAGE:
        return Screened(None, reason="damaged DICOM: its header cannot be read")


def _refusal(dataset: Dataset) -> str:
    """Why a film is not answered by its header; empty where nothing is in the way."""
    for name, of in UIDS.items():
        if not is_uid(str(dataset.get(name) or "")):
            return f"no {of}: {name} is missing or no UID"
    modality = str(dataset.get("Modality") or "").upper()
    if modality not in ANSWERED:
        return (
            f"modality {modality if re.fullmatch('[A-Z]{2,10}', modality) else 'missing'}, not {', '.join(ANSWERED)}"
        )
    if str(dataset.get("PresentationIntentType") or "").upper() == "FOR PROCESSING":
        return "raw: its pixels are for processing, not for presentation"
    if dataset.get("SOPClassUID") not in CLASSES:
        return "not stored as a radiograph or a capture of one"
    said = [str(dataset.get(name) or "").upper() for name in WHERE] + _meanings(dataset)
    if not any(CHEST.search(text) for text in said):
        return "not a chest film: no part of its header says so"
    view = str(dataset.get("ViewPosition") or "").upper()
    views = [view] if view else said  # where the view itself is named, words about the series do not count
    if any(is_lateral(text) or OBLIQUE.search(text) for text in views):
        return "not a frontal film"
    return ""


def _meanings(dataset: Dataset) -> list[str]:
    codes = [code for name in CODED for code in dataset.get(name) or []]
    return [str(code.get("CodeMeaning") or "").upper() for code in codes]


def _header(dataset: Dataset) -> Dataset:
    """The part of a header that an answer needs, in UTF-8; dates, times and sex that are none are left empty."""
    header = Dataset()
    header.SpecificCharacterSet = UTF_8
    for name in (*KEPT, *COPIED):
        value = dataset.get(name)
        if value is not None and not (name in ALWAYS and not _is_valid(name, value)):
            setattr(header, name, PersonName(str(value)) if isinstance(value, PersonName) else value)
        elif name in ALWAYS:
            setattr(header, name, "")
    return header


def _is_valid(name: str, value: object) -> bool:
    try:
        if name.endswith("Date"):
            DA(str(value))
        elif name.endswith("Time"):
            TM(str(value))
    except ValueError:
        return False
    return name != "PatientSex" or value in ("M", "F", "O")
