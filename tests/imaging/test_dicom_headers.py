"""Headers as scanners, archives and converters leave them: what each of them means for the pixels."""

import gzip
import io
import logging
import zlib

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    RLELossless,
)

from pneumo_hf.imaging.dicom import HEAD, dicom_facts, is_dicom
from pneumo_hf.imaging.film import UnreadableFilmError, describe, load_xray
from pneumo_hf.imaging.quality import LATERAL_VIEW, MEAN_CHEST, NOTES, QUALITY_ISSUES, quality_issue
from tests.imaging.test_dicom import FILM, LOSSLESS, dicom, pixels

DEEP = FILM.astype(np.uint16) * 16 + 7  # 12 bits, the lowest too
FULL_RANGE = np.round(DEEP / 4095 * 255)
NARROW = {"WindowCenter": "1000", "WindowWidth": "300"}


def linear(values: np.ndarray, center: float, width: float) -> np.ndarray:
    """PS3.3 C.11.2.1.2.1."""
    return np.round(np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1) * 255)


def rewritten(content: bytes, change) -> bytes:
    """A DICOM file whose data set `change` has been at."""
    film, buffer = pydicom.dcmread(io.BytesIO(content)), io.BytesIO()
    change(film)
    film.save_as(buffer)
    return buffer.getvalue()


def without_meta(content: bytes) -> bytes:
    """The data set alone: no preamble, no magic word, no group 2."""
    length = int.from_bytes(content[140:144], "little")  # of group 2, after its own element of 12 bytes
    return content[144 + length :]


def without_syntax(content: bytes) -> bytes:
    """A file whose meta information does not say the transfer syntax."""
    length = int.from_bytes(content[140:144], "little")
    meta, tag = content[144 : 144 + length], b"\x02\x00\x10\x00UI"
    start = meta.index(tag)
    stop = start + 8 + int.from_bytes(meta[start + 6 : start + 8], "little")
    shorter = meta[:start] + meta[stop:]
    return content[:140] + len(shorter).to_bytes(4, "little") + shorter + content[144 + length :]


@pytest.mark.parametrize(
    ("tags", "note"),
    [
        ({**NARROW, "VOILUTFunction": "LOG"}, "VOI LUT function is unknown"),
        ({"WindowCenter": "1000", "WindowWidth": "0.5"}, "window is too narrow"),
        ({"WindowCenter": "1000", "WindowWidth": "0", "VOILUTFunction": "SIGMOID"}, "window is too narrow"),
        ({"WindowCenter": "1000", "WindowWidth": "-300", "VOILUTFunction": "LINEAR_EXACT"}, "window is too narrow"),
        ({"WindowCenter": None, "WindowWidth": None}, "window is empty"),
        ({"WindowCenter": None, "WindowWidth": "300"}, "window is empty"),
        ({"WindowCenter": ["", "1000"], "WindowWidth": ["", "300"]}, "window is empty"),
        ({"WindowCenter": "90000", "WindowWidth": "300"}, "window lies beside all its values"),
        ({"WindowCenter": "-90000", "WindowWidth": "300"}, "window lies beside all its values"),
    ],
    ids=str,
)
def test_a_window_that_cannot_be_applied_is_left_out_with_a_note(
    tags: dict, note: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        film = load_xray(dicom(DEEP, bits=12, **tags))
    np.testing.assert_array_equal(film, FULL_RANGE)
    assert film.info[NOTES] == [f"its {note}: left out, the film is shown by its full range"]
    assert film.info[NOTES][0] in caplog.text


@pytest.mark.parametrize("text", [b"wide", b"nan ", b"inf "])
def test_a_window_that_is_no_number_is_left_out(text: bytes) -> None:
    content = dicom(DEEP, bits=12, WindowCenter="1000", WindowWidth="9876")
    np.testing.assert_array_equal(pixels(content.replace(b"9876", text)), FULL_RANGE)


def test_an_empty_function_is_linear_as_an_absent_one_is() -> None:
    """PS3.5 7.4.5: an empty element of type 3 is the same as none."""
    np.testing.assert_array_equal(
        pixels(dicom(DEEP, bits=12, VOILUTFunction="", **NARROW)), linear(DEEP, center=1000, width=300)
    )
    whole = {"WindowCenter": "2048", "WindowWidth": "4096"}
    np.testing.assert_array_equal(pixels(dicom(DEEP, bits=12, VOILUTFunction="", **whole)), FULL_RANGE)


def test_8_bit_pixels_pass_untouched_where_the_window_is_impossible() -> None:
    for tags in ({**NARROW, "VOILUTFunction": "LOG"}, {"WindowCenter": "100", "WindowWidth": "0.5"}):
        np.testing.assert_array_equal(pixels(dicom(FILM, **tags)), FILM)


@pytest.mark.parametrize("descriptor", [None, [0, 0, 16], [4096, 0, 12]])
@pytest.mark.parametrize("data", [None, [7] * 4096])
def test_a_voi_table_that_is_empty_or_says_nothing_gives_way_to_the_window(
    descriptor: list[int] | None, data: list[int] | None
) -> None:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", descriptor)
    item.add_new("LUTData", "US", data)
    for tables in ([], [item]):
        film = load_xray(dicom(DEEP, bits=12, VOILUTSequence=tables))
        np.testing.assert_array_equal(film, FULL_RANGE)
        assert film.info[NOTES] == ["its VOI LUT is empty or damaged: left out"]
        shown = pixels(dicom(DEEP, bits=12, VOILUTSequence=tables, **NARROW))
        np.testing.assert_array_equal(shown, linear(DEEP, center=1000, width=300))


def test_an_empty_modality_lut_is_none() -> None:
    tags = {"RescaleSlope": None, "RescaleIntercept": None, "ModalityLUTSequence": []}
    np.testing.assert_array_equal(pixels(dicom(DEEP, bits=12, **tags)), FULL_RANGE)
    np.testing.assert_array_equal(pixels(dicom(DEEP, bits=12, RescaleSlope="0", RescaleIntercept="0")), FULL_RANGE)


CHESTS = ["PECHO", "T?RAX", "TÒRAX", "TÃ\x93RAX", "THORACIC", "THX", "CXR", "BRUSTKORB", "TORACE", "CHES"]


@pytest.mark.parametrize("part", [*CHESTS, "HEART", "KLATKA PIERSIOWA", "MUELLER HANS", "TRONC", "WHOLEBODY", "X"])
def test_chests_of_other_languages_and_unknown_parts_go_by_the_picture(part: str) -> None:
    tags = {"SpecificCharacterSet": "ISO_IR 192", "BodyPartExamined": part, "Modality": "DX"}
    np.testing.assert_array_equal(pixels(dicom(FILM, **tags)), FILM)


def test_a_part_in_bytes_of_any_encoding_is_no_damage() -> None:
    content = dicom(FILM, BodyPartExamined="ABCDEF")
    for part in ("胸部", "Грудь"[:3], "흉부"):
        np.testing.assert_array_equal(pixels(content.replace(b"ABCDEF", part.encode())), FILM)


@pytest.mark.parametrize(
    ("part", "known"),
    [
        ("KNEE", "KNEE"),
        ("L_KNEE OF MUELLER", "KNEE"),
        ("THORACIC SPINE", "SPINE"),
        ("TSPINE", "TSPINE"),
        ("C-SPINE", "C-SPINE"),
        ("Hands", "HANDS"),
        ("ABDOMENPELVIS", "ABDOMENPELVIS"),
    ],
)
def test_parts_that_are_known_to_be_others_are_refused_and_only_they_are_quoted(part: str, known: str) -> None:
    with pytest.raises(UnreadableFilmError) as error:
        load_xray(dicom(FILM, BodyPartExamined=part))
    assert str(error.value) == f"not a chest film: body part {known}"


def test_a_chest_together_with_another_part_is_read() -> None:
    for part in ("CHEST/ABDOMEN", "NECKCHEST", "RIBS LEFT ARM UP", "TORAX HOMBRO SHOULDER"):
        np.testing.assert_array_equal(pixels(dicom(FILM, BodyPartExamined=part)), FILM)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_without_transfer_syntax_or_preamble(syntax) -> None:
    content = dicom(DEEP, syntax=syntax, bits=12, PatientAge="004Y")
    for broken in (without_syntax(content), without_meta(content), content[132:]):
        assert is_dicom(broken) and is_dicom(broken[:HEAD])
        np.testing.assert_array_equal(pixels(broken), FULL_RANGE)
        assert dicom_facts(broken)["age"] == 4.0 and describe(broken) == describe(content)


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGExtended12Bit, *LOSSLESS], ids=lambda uid: uid.name[:30])
def test_compressed_films_without_transfer_syntax(syntax) -> None:
    content = dicom(
        FILM if syntax == JPEGBaseline8Bit else DEEP, syntax=syntax, bits=8 if syntax == JPEGBaseline8Bit else 12
    )
    np.testing.assert_array_equal(pixels(without_syntax(content)), pixels(content))
    np.testing.assert_array_equal(pixels(without_meta(content)), pixels(content))


def test_what_begins_otherwise_is_no_dicom() -> None:
    others = [
        b"",
        b"\x08\x00",
        b"\x08\x00\x05\x00QQ\x0a\x00",
        bytes(200),
        b"\x02\x00\x00\x00\x04\x00\x00\x00",
        b"text " * 99,
    ]
    assert not any(map(is_dicom, others))
    buffer = io.BytesIO()
    Image.fromarray(FILM).save(buffer, "PNG")
    assert not is_dicom(gzip.compress(buffer.getvalue())) and not is_dicom(b"\x1f\x8b" + bytes(500))
    with pytest.raises(UnreadableFilmError, match="not a picture that can be read"):
        load_xray(gzip.compress(buffer.getvalue()))


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless], ids=lambda uid: uid.name
)
def test_values_in_the_upper_bits_of_their_cells_are_moved_down(syntax) -> None:
    overlay = np.arange(DEEP.size, dtype=np.uint16).reshape(DEEP.shape) % 16
    np.testing.assert_array_equal(pixels(dicom((DEEP << 4) | overlay, syntax=syntax, bits=12, HighBit=15)), FULL_RANGE)
    between = (DEEP << 2) | (overlay & 3) | (overlay & 3) << 14  # and something else above them
    np.testing.assert_array_equal(pixels(dicom(between, syntax=syntax, bits=12, HighBit=13)), FULL_RANGE)


def test_signed_values_in_the_upper_bits_and_a_high_bit_that_is_wrong() -> None:
    signed = DEEP.astype(np.int16) - 2048
    window = {"WindowCenter": "0", "WindowWidth": "4096"}
    expected = linear(signed, center=0, width=4096)
    np.testing.assert_array_equal(pixels(dicom(signed << 4, bits=12, HighBit=15, **window)), expected)
    np.testing.assert_array_equal(pixels(dicom(signed, bits=12, HighBit=15, **window)), expected)  # low already
    np.testing.assert_array_equal(pixels(dicom(DEEP, bits=12, HighBit=15)), FULL_RANGE)
    np.testing.assert_array_equal(pixels(dicom(DEEP, bits=12, HighBit=7)), FULL_RANGE)  # cannot be


@pytest.mark.parametrize("shape", ["INVERSE", "IDENTITY"])
def test_the_presentation_lut_shape(shape: str) -> None:
    shown = pixels(dicom(DEEP, "MONOCHROME2", bits=12, PresentationLUTShape=shape))
    np.testing.assert_array_equal(shown, 255 - FULL_RANGE if shape == "INVERSE" else FULL_RANGE)
    both = pixels(dicom(DEEP, "MONOCHROME1", bits=12, PresentationLUTShape=shape))  # INVERSE says the same again
    np.testing.assert_array_equal(both, 255 - FULL_RANGE)
    chest = np.asarray(Image.open(MEAN_CHEST).resize((200, 220)))
    np.testing.assert_array_equal(
        pixels(dicom(chest, PresentationLUTShape=shape)), chest
    )  # dark lungs: the tag is wrong


def test_padding_written_with_the_other_sign() -> None:
    signed = DEEP.astype(np.int16) - 100
    signed[:3] = -2000
    content = rewritten(dicom(signed), lambda film: film.add_new("PixelPaddingValue", "US", 65536 - 2000))
    inside = signed[3:].astype(float)
    shown = pixels(content)
    assert not shown[:3].any()
    np.testing.assert_array_equal(shown[3:], np.round((inside - inside.min()) / np.ptp(inside) * 255))
    unsigned = DEEP.copy()
    unsigned[:3] = 65535
    content = rewritten(dicom(unsigned, bits=16), lambda film: film.add_new("PixelPaddingValue", "SS", -1))
    expected = FULL_RANGE.copy()
    expected[:3] = 0
    np.testing.assert_array_equal(pixels(content), expected)


@pytest.mark.parametrize("view", ["LL", "RL", "LATERAL", "LLAT", "LEFT LATERAL", "LAT_L"])
def test_a_lateral_view_is_told_and_gets_no_answer(view: str) -> None:
    film = load_xray(dicom(FILM, ViewPosition=view))
    np.testing.assert_array_equal(film, FILM)
    assert quality_issue(film) == LATERAL_VIEW and QUALITY_ISSUES[LATERAL_VIEW] == "abstain"


def test_other_views_are_frontal_and_a_code_says_it_where_the_position_does_not() -> None:
    for view in ("PA", "AP", "", "AP SUPINE", "LLD", "LATERAL DECUBITUS", "BILATERAL", "PLAT"):
        assert quality_issue(load_xray(dicom(FILM, ViewPosition=view))) == ""
    code = Dataset()
    code.CodeMeaning = "left lateral"
    assert quality_issue(load_xray(dicom(FILM, ViewCodeSequence=[code]))) == LATERAL_VIEW
    assert quality_issue(load_xray(dicom(FILM, ViewCodeSequence=[code], ViewPosition="PA"))) == ""
    assert quality_issue(load_xray(dicom(FILM, ViewCodeSequence=[]))) == ""


def test_gzip_is_seen_through_and_bounded() -> None:
    content = dicom(DEEP, bits=12, ViewPosition="AP")
    packed = gzip.compress(content)
    np.testing.assert_array_equal(pixels(packed), FULL_RANGE)
    np.testing.assert_array_equal(pixels(gzip.compress(without_meta(content))), FULL_RANGE)
    assert is_dicom(packed[:HEAD]) and dicom_facts(packed) == dicom_facts(content)
    assert describe(packed) == {"kind": "DICOM", "mode": "DICOM", "bits": 12}
    crc_wrong = packed[:-8] + bytes(8)
    squeeze = zlib.compressobj(1, wbits=31)
    bomb = squeeze.compress(content) + b"".join(squeeze.compress(bytes(1 << 24)) for _ in range(20)) + squeeze.flush()
    for broken in (packed[: len(packed) // 2], crc_wrong, bomb):
        with pytest.raises(UnreadableFilmError, match="^damaged DICOM") as error:
            load_xray(broken)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("frames", ["2", "300"])
def test_several_frames_are_refused_in_one_line(frames: str) -> None:
    for syntax in (ExplicitVRLittleEndian, RLELossless):
        content = rewritten(dicom(FILM, syntax=syntax), lambda film: setattr(film, "NumberOfFrames", frames))
        with pytest.raises(UnreadableFilmError, match="^DICOM of several frames, not a film$"):
            load_xray(content)


NUMBERS = st.none() | st.integers(-5000, 70_000) | st.sampled_from([0.5, -0.5, 1, 300, 4096])


@settings(max_examples=150, deadline=None)
@given(
    center=NUMBERS,
    width=NUMBERS,
    function=st.sampled_from([None, "", "LINEAR", "LINEAR_EXACT", "SIGMOID", "LOG"]),
    shape=st.sampled_from([None, "", "IDENTITY", "INVERSE", "OTHER"]),
    part=st.sampled_from(["", *CHESTS]),
    shift=st.integers(0, 4),
    padding=NUMBERS,
    view=st.sampled_from([None, "PA", "LL"]),
    syntax=st.sampled_from(
        [ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless]
    ),
    packing=st.sampled_from([lambda content: content, gzip.compress, without_meta, without_syntax]),
)
def test_whatever_a_header_says_the_window_of_the_standard_or_the_full_range_is_shown(
    center, width, function, shape, part, shift, padding, view, syntax, packing
) -> None:
    """A film that every viewer opens is never refused, and never shown by anything else than what the header means."""
    if syntax == DeflatedExplicitVRLittleEndian and packing in (without_meta, without_syntax):
        syntax = ExplicitVRLittleEndian  # deflated data sets cannot be known without it
    tags = {"WindowCenter": center, "WindowWidth": width, "VOILUTFunction": function, "PresentationLUTShape": shape}
    tags |= {"BodyPartExamined": part, "ViewPosition": view, "SpecificCharacterSet": "ISO_IR 192"}
    content = dicom(DEEP << shift, bits=12, syntax=syntax, HighBit=11 + shift, **tags)
    if padding is not None and 0 <= padding < 2**16:
        content = rewritten(content, lambda film: film.add_new("PixelPaddingValue", "US", int(padding)))
    film = load_xray(packing(content))
    values, is_padding = DEEP.astype(float), padding == DEEP
    low, high = values[~is_padding].min(), values[~is_padding].max()
    function = function or "LINEAR"
    known = function != "LOG" and center is not None and width is not None
    if (
        not known
        or width < (1 if function == "LINEAR" else 0.1)
        or not -width / 2 <= center - low <= high - low + width / 2
    ):
        expected = FULL_RANGE
    elif function == "SIGMOID":
        expected = np.round(255 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700))))
    elif function == "LINEAR_EXACT":
        expected = np.round(np.clip((values - center) / width + 0.5, 0, 1) * 255)
    else:
        expected = linear(values, center, width) if width > 1 else 255.0 * (values > center - 0.5)
    expected = np.where(is_padding, 0, 255 - expected if shape == "INVERSE" else expected)
    assert np.abs(np.asarray(film).astype(int) - expected).max() <= 1
    if np.ptp(np.asarray(film)) > 100:  # not blank
        assert (quality_issue(film) == LATERAL_VIEW) == (view == "LL")
