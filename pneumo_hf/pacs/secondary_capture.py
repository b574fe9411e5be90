"""A heatmap as a DICOM secondary capture beside its film, with what it must not be used for burnt in."""

import numpy as np
from highdicom.sc import SCImage
from PIL import Image, ImageDraw, ImageFont
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from pneumo_hf.pacs.structured_report import HEATMAP_SERIES, NAME, Model

BURNT_IN = "NOT FOR DIAGNOSIS"
LONGEST_SIDE = 1024  # pixels: a heatmap knows no detail
BAND = 0.06  # of the height, above and below the picture


def secondary_capture(header: Dataset, overlay: Image.Image, model: Model) -> Dataset:
    """Make the secondary capture of a film under its heatmap, at most 1024 pixels a side.

    Args:
        header: of `pneumo_hf.pacs.screening.screen`.
        overlay: mode "RGB".
    """
    film = header.SOPInstanceUID
    capture = SCImage.from_ref_dataset(
        header,
        np.asarray(burn_in(overlay)),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),  # asked for by highdicom; a film that says nothing may be of any
        series_instance_uid=model.uid("heatmaps", film),
        series_number=HEATMAP_SERIES,
        sop_instance_uid=model.uid("heatmap", film),
        instance_number=1,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        series_description=f"{NAME}: heatmap, {BURNT_IN.lower()}",
        specific_character_set=header.SpecificCharacterSet,
        **model.equipment,
    )
    capture.PatientOrientation, capture.Laterality = [], ""
    capture.BurnedInAnnotation = "NO"  # none that names the patient, which is what the attribute asks
    capture.DerivationDescription = "Grad-CAM of the probability of pneumonia over the film"
    source = Dataset()
    source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = header.SOPClassUID, film
    capture.SourceImageSequence = [source]
    return capture


def burn_in(picture: Image.Image) -> Image.Image:
    """Write what a picture must not be used for in bands above and below it."""
    picture = picture.copy()
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    band = max(16, round(BAND * picture.height))
    framed = Image.new("RGB", (picture.width, picture.height + 2 * band))
    framed.paste(picture, (0, band))
    draw = ImageDraw.Draw(framed)
    font = ImageFont.load_default(min(0.7 * band, 1.5 * picture.width / len(BURNT_IN)))
    for middle in (band / 2, framed.height - band / 2):
        draw.text((framed.width / 2, middle), BURNT_IN, "yellow", font, anchor="mm")
    return framed
