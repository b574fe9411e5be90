"""An answer to a film as a DICOM structured report: TID 1500 of PS3.16, made by highdicom."""

import hashlib
import json
import logging
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from uuid import NAMESPACE_OID, uuid5

from highdicom import sr
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom import Dataset
from pydicom.sr.codedict import Code, codes

from pneumo_hf import __version__
from pneumo_hf.inference.onnx import weights_digest
from pneumo_hf.inference.scorer import Scorer
from pneumo_hf.labels import column_of

# highdicom's warnings and logs quote names.
warnings.filterwarnings("ignore", module="highdicom")
logging.getLogger("highdicom").setLevel(logging.CRITICAL)

NAME = "pneumo_hf"
SCHEME = "99PNEUMO_HF"  # of the codes that no standard has; private ones begin with 99
NOTICE = "Research use only, not a diagnosis"
PNEUMONIA = Code("233604007", "SCT", "Pneumonia")
CHEST_FILM = Code("399208008", "SCT", "Plain chest X-ray")
PROBABILITY = Code("probability", SCHEME, "Probability of pneumonia")
THRESHOLD = Code("threshold", SCHEME, "Decision threshold")
PREDICTION = Code("prediction", SCHEME, "Prediction")
FLAG = Code("flag", SCHEME, "Flag")
OPERATING_POINT = Code("operating_point", SCHEME, "Operating point")
FLAGS = {  # in words that a viewer shows
    "": Code("none", SCHEME, "No flag: below the threshold, which excludes nothing"),
    "review": Code("review", SCHEME, "Review: at or above the threshold"),
    "abstain": Code("abstain", SCHEME, "No answer: not certain enough, or the film is unsuitable"),
    "not_chest_xray": Code("not_chest_xray", SCHEME, "No answer: not like a chest film"),
}
REPORT_SERIES, HEATMAP_SERIES = 9901, 9902  # numbers behind those of the films


@dataclass(frozen=True)
class Model:
    """What an answer says of the model: its name, a digest of its weights, and how it decides."""

    name: str
    version: str
    threshold: float
    operating_point: str
    identity: str = field(repr=False)  # a digest of all that a score or a decision depends on but the film

    @classmethod
    def of(cls, scorer: Scorer, **options: object) -> "Model":
        """Describe a scorer; `options` is what else changes its answers."""
        settings = scorer.settings
        name = Path(scorer.name).name if Path(scorer.name).exists() else scorer.name  # no folder of this machine
        version = "-".join(weights_digest(member.model)[:12] for member in scorer.members)
        decided = {**settings.to_config(), "flip": scorer.flip, **options}
        text = json.dumps([version, __version__, decided], sort_keys=True, default=str)
        identity = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        return cls(name, version, settings.threshold, settings.method, identity)

    def uid(self, kind: str, film: str = "") -> str:
        """Name an answer to a film, by UUIDs as in PS3.5 B.2: a film that is answered again has the same answer."""
        return f"2.25.{uuid5(NAMESPACE_OID, f'{NAME} {kind} {self.identity} {film}').int}"

    @property
    def equipment(self) -> dict:
        """What every answer says of where it comes from, as highdicom's arguments."""
        return {
            "manufacturer": NAME,
            "manufacturer_model_name": self.name[:64],
            "software_versions": [__version__, self.version[:64]],
            "device_serial_number": self.identity,
        }


def structured_report(header: Dataset, answer: dict, model: Model) -> Dataset:
    """Make the structured report of an answer.

    The probability is there twice, as the standard has it: to 16 characters, and bit for bit as a double.

    Args:
        header: of `pneumo_hf.pacs.screening.screen`.
        answer: "probability", "prediction", "flag" and "error", as of `Scorer`; of more than two labels
            "probability_NAME" of each, too.
    """
    film = header.SOPInstanceUID
    observer = sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=model.uid("device"), name=NAME, manufacturer_name=NAME, model_name=model.name
        ),
    )
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=CHEST_FILM,
        imaging_measurements=[_measurement_group(header, answer, model)],
    )
    return sr.ComprehensiveSR(
        evidence=[header],
        content=report[0],
        series_instance_uid=model.uid("reports", film),
        series_number=REPORT_SERIES,
        sop_instance_uid=model.uid("report", film),
        instance_number=1,
        is_complete=True,
        series_description=f"{NAME}: {NOTICE.lower()}",
        coding_schemes=[CodingSchemeIdentificationItem(SCHEME, name=NAME, responsible_organization=NAME, version="1")],
        **model.equipment,
    )


def _measurement_group(header: Dataset, answer: dict, model: Model) -> sr.MeasurementsAndQualitativeEvaluations:
    source = sr.SourceImageForMeasurement(header.SOPClassUID, header.SOPInstanceUID)
    measured = [sr.Measurement(PROBABILITY, answer["probability"], codes.UCUM.NoUnits, referenced_images=[source])]
    for name in (name for name in answer if name.startswith(column_of(""))):
        label = name.removeprefix(column_of(""))
        code = Code(name[:16], SCHEME, f"Probability of {label}"[:64])
        measured.append(sr.Measurement(code, answer[name], codes.UCUM.NoUnits, referenced_images=[source]))
    measured.append(sr.Measurement(THRESHOLD, float(model.threshold), codes.UCUM.NoUnits))
    prediction = answer["prediction"]
    found = {"PNEUMONIA": PNEUMONIA, "NORMAL": codes.SCT.Normal}.get(
        prediction, Code(prediction[:16], SCHEME, prediction[:64])
    )
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(model.uid("finding", header.SOPInstanceUID), f"{NAME} 1"),
        finding_type=PNEUMONIA,
        finding_sites=[sr.FindingSite(codes.SCT.Lung)],
        algorithm_id=sr.AlgorithmIdentification(
            model.name,
            model.version,
            [f"{NAME} {__version__}, operating point {model.operating_point}"],
            manufacturer=NAME,
        ),
        measurements=measured,
        qualitative_evaluations=[
            sr.QualitativeEvaluation(PREDICTION, found),
            sr.QualitativeEvaluation(FLAG, FLAGS[answer["flag"]]),
        ],
        source_images=[sr.SourceImageForMeasurementGroup(header.SOPClassUID, header.SOPInstanceUID)],
    )
    texts = [(OPERATING_POINT, model.operating_point), (codes.DCM.Comment, NOTICE)]
    if answer["error"]:
        texts.append((codes.DCM.Comment, answer["error"]))
    for code, text in texts:  # TID 1501 may be extended
        group[0].ContentSequence.append(sr.TextContentItem(code, text, sr.RelationshipTypeValues.CONTAINS))
    return group
