"""One self-contained page about one film, to print or to keep; of a header nothing that names a person."""

import datetime
import hashlib
from pathlib import Path

from PIL import Image

from pneumo_hf import DISCLAIMER, __version__
from pneumo_hf.app.decoding import call
from pneumo_hf.app.files import download_path
from pneumo_hf.app.model_tab import Report
from pneumo_hf.app.pages import as_address, render
from pneumo_hf.app.points import Point, measured_by, measured_elsewhere, name_of, of_hundred, offered
from pneumo_hf.app.verdict import at_threshold, cautions, decimals_of, in_words, shares_of_labels, trained_on, trust
from pneumo_hf.app.viewer import heat_scale
from pneumo_hf.data.processes import TooSlowError
from pneumo_hf.imaging.dicom import MODALITIES, dicom_facts, is_dicom
from pneumo_hf.imaging.film import describe
from pneumo_hf.imaging.quality import NOTES
from pneumo_hf.inference.onnx import weights_digest
from pneumo_hf.inference.scorer import Scorer
from pneumo_hf.inference.settings import CheckpointSettings

DIGITS = 16  # of the file's digest
LARGEST_PRINTED = 900  # pixels a side
FACTS = {"view": "view", "age": "age in years", "sex": "sex", "body_part": "body part", "modality": "modality"}
SHOWN = {  # of a header's free text: anything else could be a name
    "view": {"PA", "AP", "LATERAL", "LL", "RL"},
    "body_part": {"CHEST", "THORAX", "LUNG", "LUNGS", "RIB", "RIBS"},
    "modality": MODALITIES,
}


def file_facts(content: bytes, film: Image.Image) -> dict[str, str]:
    """Return what a file is, and of a DICOM its header's facts; nothing that names a person, as file names do."""
    try:
        found = call(describe, content)
    except TooSlowError:  # its pixels could be read all the same
        return {}
    bits = f", {found['bits']} bits" if isinstance(found["bits"], int) else ""
    facts = {"file": f"{found['kind']}{bits}, {film.width} x {film.height} pixels"}
    # which file it was, whatever it is called
    facts["SHA-256, its beginning"] = hashlib.sha256(content).hexdigest()[:DIGITS]
    if not is_dicom(content):
        return facts
    try:
        header = call(dicom_facts, content)
    except (ValueError, TooSlowError):
        return facts
    known = {key: value for key, value in header.items() if value is not None and value in SHOWN.get(key, {value})}
    if notes := film.info.get(NOTES):
        facts["note"] = "; ".join(notes)
    return facts | {words: _in_short(known[key]) for key, words in FACTS.items() if key in known}


def _figures(settings: CheckpointSettings, report: Report | None, point: Point, validated: dict | None) -> tuple:
    """A point, from which score it flags, what the test measured, and validation, where it measured the same."""
    limit = settings.flagged_from(point.threshold)
    return (
        point,
        limit,
        measured_by(settings, report, point.threshold),
        validated if limit == point.threshold else None,
    )


def _in_short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def write_case_report(
    predictor: Scorer,
    result: dict,
    threshold: float,
    pictures: dict[str, Image.Image],
    facts: dict[str, str],
    report: Report | None = None,
) -> str:
    """Write the page: the path of its file.

    Args:
        pictures: `{caption: picture}`, of the film and of its heatmap, if there is one.
        facts: of `file_facts`.
        report: the checkpoint's, where there is one.
    """
    decided, settings = at_threshold(predictor, result, threshold), predictor.settings
    points, age = offered(settings), facts.get(FACTS["age"])
    validation = {point["name"]: point for point in settings.operating_points}
    now = datetime.datetime.now().astimezone()
    # by the time: a film's name can name a person, and stays out of a list of downloads
    path = download_path(f"case_report_{now:%Y-%m-%d_%H%M%S}.html")
    path.write_text(
        render(
            "case_report.html.jinja",
            verdict=in_words(predictor, decided, threshold, report),
            cautions=cautions(predictor, decided, threshold, float(age) if age else None, report),
            result=decided,
            threshold=threshold,
            facts=facts,
            disclaimer=DISCLAIMER,
            trained_on=trained_on(predictor),
            pictures={caption: as_address(picture, LARGEST_PRINTED) for caption, picture in pictures.items()},
            point=name_of(settings, threshold),
            is_offered=any(point.threshold == threshold for point in points),
            flagged_from=settings.flagged_from(threshold),
            points=[_figures(settings, report, point, validation.get(point.name)) for point in points],
            here=measured_by(settings, report, threshold),
            elsewhere=measured_elsewhere(settings, report, threshold),
            places=decimals_of(predictor, decided, threshold),
            scale=heat_scale() if len(pictures) > 1 else "",
            trust=trust(predictor, decided),
            of_hundred=of_hundred,
            chosen_on=predictor.chosen_on,
            model=Path(predictor.name).name,
            version=__version__,
            weights="-".join(weights_digest(member.model)[:12] for member in predictor.members),
            finding=predictor.task.finding,
            labels=shares_of_labels(decided, predictor.task),
            time=now.strftime("%Y-%m-%d %H:%M %Z"),
        )
    )
    return str(path)
