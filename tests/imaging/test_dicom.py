import gzip
import io
import logging
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from imagecodecs import htj2k_encode, jpeg2k_encode, jpeg8_encode, jpegls_encode
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from pneumo_hf.imaging.decoders import PLUGIN_OF
from pneumo_hf.imaging.dicom import dicom_facts, read_dicom
from pneumo_hf.imaging.film import UnreadableFilmError, describe, load_xray
from pneumo_hf.imaging.quality import MEAN_CHEST, SHOWN_RANGE, chest_correlation, thumbnail
from tests.conftest import make_film

FILM = make_film(3, pneumonia=True)  # [80, 96] uint8
ENCODERS = {  # of stored values of so many bits
    JPEGBaseline8Bit: lambda stored, bits: jpeg(stored),
    JPEGExtended12Bit: lambda stored, bits: jpeg8_encode(stored, level=100, bitspersample=bits),
    JPEGLosslessSV1: lambda stored, bits: lossless_jpeg(stored, bits),
    JPEGLossless: lambda stored, bits: jpeg8_encode(stored, lossless=True, predictor=6, bitspersample=bits),
    JPEGLSLossless: lambda stored, bits: jpegls_encode(stored),
    JPEG2000Lossless: lambda stored, bits: jpeg2k_encode(
        stored, codecformat="J2K", bitspersample=bits, reversible=True, level=0
    ),
    HTJ2KLossless: lambda stored, bits: htj2k_encode(stored),
}
LOSSLESS = (RLELossless, JPEGLosslessSV1, JPEGLossless, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless)


def dicom(stored: np.ndarray, photometric="MONOCHROME2", syntax=ExplicitVRLittleEndian, bits=None, **tags) -> bytes:
    """A DICOM film of stored values `[H, W]` or `[H, W, 3]`, in any syntax that can be written here."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    film = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    film.SOPClassUID, film.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    film.Rows, film.Columns = stored.shape[:2]
    film.SamplesPerPixel, film.PhotometricInterpretation = (3 if stored.ndim == 3 else 1), photometric
    if stored.ndim == 3:
        film.PlanarConfiguration = 0
    film.BitsAllocated = 8 * stored.itemsize
    film.BitsStored = bits or film.BitsAllocated
    film.HighBit = film.BitsStored - 1
    film.PixelRepresentation = int(np.issubdtype(stored.dtype, np.signedinteger))
    for name, value in tags.items():
        setattr(film, name, value)
    little = stored.astype(stored.dtype.newbyteorder("<")).tobytes()
    film.PixelData = little + b"\0" * (len(little) % 2)
    film["PixelData"].VR = "OW" if stored.itemsize > 1 else "OB"
    buffer = io.BytesIO()
    if syntax == RLELossless:
        film.compress(syntax, generate_instance_uid=False)
    elif syntax in ENCODERS:
        film.PixelData = encapsulate([ENCODERS[syntax](stored, film.BitsStored)])
        film["PixelData"].VR = "OB"
        meta.TransferSyntaxUID = syntax
    elif syntax == ExplicitVRBigEndian:
        film.PixelData = stored.astype(stored.dtype.newbyteorder(">")).tobytes()
        meta.TransferSyntaxUID = syntax
        pydicom.dcmwrite(buffer, film, implicit_vr=False, little_endian=False, enforce_file_format=True)
        return buffer.getvalue()
    else:
        meta.TransferSyntaxUID = syntax
    film.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def jpeg(stored: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(stored).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def lossless_jpeg(stored: np.ndarray, bits: int) -> bytes:
    """Process 14, selection value 1 (ITU T.81 annex H), with one Huffman code of five bits for every category."""
    height, width = stored.shape
    values, codes = stored.astype(int), []
    for y in range(height):
        for x in range(width):
            above = values[y - 1, 0] if y else 1 << (bits - 1)
            predicted = values[y, x - 1] if x else above
            difference = int(values[y, x] - predicted + 2**15) % 2**16 - 2**15
            category = abs(difference).bit_length()
            extra = difference if difference >= 0 else difference + (1 << category) - 1
            codes.append(f"{category:05b}" + (f"{extra:0{category}b}" if 0 < category < 16 else ""))
    stream = "".join(codes)
    stream += "1" * (-len(stream) % 8)
    data = bytes(int(stream[i : i + 8], 2) for i in range(0, len(stream), 8)).replace(b"\xff", b"\xff\x00")
    table = bytes([0] * 4 + [17] + [0] * 11) + bytes(range(17))
    frame = b"\xff\xc3" + struct.pack(">HBHHB", 11, bits, height, width, 1) + b"\x01\x11\x00"
    huffman = b"\xff\xc4" + struct.pack(">H", 3 + len(table)) + b"\x00" + table
    scan = b"\xff\xda" + struct.pack(">HB", 8, 1) + b"\x01\x00" + b"\x01\x00\x00"
    return b"\xff\xd8" + frame + huffman + scan + data + b"\xff\xd9"


def pixels(content: bytes) -> np.ndarray:
    film = load_xray(content)
    assert film.mode == "L"
    return np.asarray(film)


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize(
    ("dtype", "bits"),
    [(np.uint8, 8), (np.uint16, 10), (np.uint16, 12), (np.uint16, 14), (np.uint16, 16), (np.int16, 12)],
)
@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, *LOSSLESS],
    ids=lambda syntax: syntax.name.split(",")[0][:24],
)
def test_exact_pixels_per_syntax_depth_sign_and_photometric(syntax, dtype, bits: int, photometric: str) -> None:
    """Stored so that the display values are the film's own: every grey level must come back."""
    if dtype == np.int16 and syntax in (JPEGLosslessSV1, JPEGLossless, JPEGLSLossless):
        pytest.skip("these codecs have no signed pixels")
    shown = FILM if photometric == "MONOCHROME2" else 255 - FILM
    deep = np.round(shown * ((2**bits - 1) / 255)).astype(np.uint16)
    deep[0, :2] = 0, 2**bits - 1  # the whole depth
    expected = FILM.copy()
    expected[0, :2] = (0, 255) if photometric == "MONOCHROME2" else (255, 0)
    tags = {}
    if dtype == np.int16:
        deep = deep.astype(np.int16) - 2 ** (bits - 1)
        tags = {"WindowCenter": "0", "WindowWidth": str(2**bits), "VOILUTFunction": "LINEAR"}
    content = dicom(deep.astype(dtype), photometric, syntax, bits, **tags)
    np.testing.assert_array_equal(pixels(content), expected)


def test_jpeg_baseline_gives_what_pil_gives() -> None:
    expected = np.asarray(Image.open(io.BytesIO(jpeg(FILM))))
    np.testing.assert_array_equal(pixels(dicom(FILM, syntax=JPEGBaseline8Bit)), expected)
    inverted = 255 - np.asarray(Image.open(io.BytesIO(jpeg(255 - FILM))))
    np.testing.assert_array_equal(pixels(dicom(255 - FILM, "MONOCHROME1", JPEGBaseline8Bit)), inverted)


def test_extended_jpeg_of_12_bits() -> None:
    """Lossy, but at quality 100: two of 4096 levels at most, so one of 256."""
    deep = FILM.astype(np.uint16) * 16
    shown = pixels(dicom(deep, syntax=JPEGExtended12Bit, bits=12)).astype(int)
    assert np.abs(shown - np.round(deep / 4095 * 255)).max() <= 1


@pytest.mark.parametrize(
    "syntax", [JPEGBaseline8Bit, JPEGExtended12Bit, *LOSSLESS], ids=lambda syntax: syntax.name[:30]
)
def test_other_decoders_agree_where_they_are_installed(syntax) -> None:
    """Lossless is exact; an inverse DCT may round otherwise: libjpeg's from libjpeg-turbo's, by a level or two."""
    bits = 8 if syntax == JPEGBaseline8Bit else 12
    stored = (FILM if bits == 8 else FILM.astype(np.uint16) * 16 + 15) if syntax != RLELossless else FILM
    film = pydicom.dcmread(io.BytesIO(dicom(stored, syntax=syntax, bits=bits if stored.itemsize > 1 else 8)))
    decoder = get_decoder(syntax)
    ours = decoder.as_array(film, decoding_plugin=PLUGIN_OF[syntax])[0].astype(int)
    others = set(decoder.available_plugins) - {PLUGIN_OF[syntax]}
    if syntax == JPEGExtended12Bit:
        others -= {"gdcm", "pillow"}  # which know 8 bits only
    if not others:
        pytest.skip("no other decoder")
    for plugin in others:
        tolerance = 1 if plugin == "pylibjpeg" and syntax in (JPEGBaseline8Bit, JPEGExtended12Bit) else 0
        theirs = decoder.as_array(film, decoding_plugin=plugin)[0]
        assert np.abs(ours - theirs).max() <= tolerance, plugin


def test_a_syntax_without_a_decoder_is_not_called_damage() -> None:
    content = pydicom.dcmread(io.BytesIO(dicom(FILM, syntax=JPEGBaseline8Bit)))
    content.file_meta.TransferSyntaxUID = MPEG2MPML
    buffer = io.BytesIO()
    content.save_as(buffer)
    with pytest.raises(UnreadableFilmError, match="^no decoder for this DICOM's transfer syntax .MPEG2") as error:
        load_xray(buffer.getvalue())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("syntax", [JPEGExtended12Bit, *LOSSLESS], ids=lambda syntax: syntax.name[:30])
def test_damaged_frames_are_one_line_and_the_process_lives(syntax) -> None:
    """python-gdcm ends the process on one such frame in a hundred."""
    stored = FILM.astype(np.uint16) * 16 + 15
    film, random = pydicom.dcmread(io.BytesIO(dicom(stored, syntax=syntax, bits=12))), np.random.default_rng(0)
    frame = pydicom.encaps.get_frame(film.PixelData, 0, number_of_frames=1)
    for cut in [len(frame) // 2] + [None] * 60:
        broken = bytearray(frame[:cut])
        for place in random.integers(2, min(len(broken), 250), 4):
            broken[place] = random.integers(256)
        film.PixelData = encapsulate([bytes(broken)])
        buffer = io.BytesIO()
        film.save_as(buffer)
        try:
            read_dicom(buffer.getvalue())
        except ValueError as error:
            assert str(error).startswith("damaged DICOM")
            assert "\n" not in str(error)
        else:
            assert cut is None, "half a frame has been read"


@pytest.mark.parametrize(
    ("syntax", "size"),
    [
        (JPEGLSLossless, struct.pack(">HH", 80, 96)),
        (JPEGLosslessSV1, struct.pack(">HH", 80, 96)),
        (JPEG2000Lossless, struct.pack(">II", 96, 80)),
    ],
    ids=["JPEG-LS", "JPEG", "JPEG 2000"],
)
def test_a_frame_that_claims_a_huge_size_is_not_decoded(syntax, size: bytes) -> None:
    film = pydicom.dcmread(io.BytesIO(dicom(FILM, syntax=syntax)))
    frame = pydicom.encaps.get_frame(film.PixelData, 0, number_of_frames=1)
    huge = struct.pack(">HH" if len(size) == 4 else ">II", 60_000, 60_000)
    film.PixelData = encapsulate([frame.replace(size, huge)])
    buffer = io.BytesIO()
    film.save_as(buffer)
    with pytest.raises(UnreadableFilmError, match="another size"):
        load_xray(buffer.getvalue())


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_slope_and_window(function: str) -> None:
    stored = FILM.astype(np.uint16) * 10
    tags = {"RescaleSlope": "1", "RescaleIntercept": "-100", "WindowCenter": "1000", "WindowWidth": "800"}
    tags["VOILUTFunction"] = function
    values = stored - 100.0
    expected = {  # PS3.3 C.11.2.1.2 and C.11.2.1.3
        "LINEAR": np.clip((values - 999.5) / 799 + 0.5, 0, 1),
        "LINEAR_EXACT": np.clip((values - 1000) / 800 + 0.5, 0, 1),
        "SIGMOID": 1 / (1 + np.exp(-4 * (values - 1000) / 800)),
    }[function]
    shown = pixels(dicom(stored, "MONOCHROME2", bits=12, **tags))
    np.testing.assert_array_equal(shown, np.round(expected * 255))
    np.testing.assert_array_equal(pixels(dicom(stored, "MONOCHROME1", bits=12, **tags)), 255 - shown)


@pytest.mark.parametrize(
    ("tags", "photometric", "expected"),
    [
        ({"WindowCenter": "1830", "WindowWidth": "3060"}, "MONOCHROME2", (300, 3359)),
        ({"WindowCenter": "1000", "WindowWidth": "800", "VOILUTFunction": "LINEAR_EXACT"}, "MONOCHROME2", (600, 1400)),
        ({"WindowCenter": "1000", "WindowWidth": "800", "VOILUTFunction": "SIGMOID"}, "MONOCHROME2", None),
        ({}, "MONOCHROME2", (0, 4095)),
        ({}, "MONOCHROME1", (4095, 0)),
        ({"RescaleSlope": "2", "RescaleIntercept": "-100"}, "MONOCHROME2", (-100, 8090)),
        ({"WindowCenter": "", "WindowWidth": "0"}, "MONOCHROME2", (0, 4095)),
    ],
)
def test_which_values_are_shown_black_and_white(tags: dict, photometric: str, expected: tuple | None) -> None:
    stored = FILM.astype(np.uint16) * 16
    film = load_xray(dicom(stored, photometric, bits=12, **tags))
    assert film.info[SHOWN_RANGE] == expected
    if expected is not None:
        values = stored * float(tags.get("RescaleSlope", 1)) + float(tags.get("RescaleIntercept", 0))
        low, high = expected
        np.testing.assert_allclose(film, (255 * (values - low) / (high - low)).clip(0, 255), atol=0.51)


def test_a_wide_window_is_not_stretched_and_the_first_of_several_is_taken() -> None:
    stored = np.linspace(1000, 2000, 80 * 96).reshape(80, 96).astype(np.uint16)
    shown = pixels(dicom(stored, bits=12, WindowCenter=["2048", "1500"], WindowWidth=["4096", "100"]))
    np.testing.assert_array_equal(shown, np.round(stored / 4095 * 255))


@pytest.mark.parametrize(("depth", "explicit_type"), [(16, "US"), (12, "OW"), (8, "US")])
def test_voi_lut(depth: int, explicit_type: str) -> None:
    table = np.round((np.arange(4096) / 4095) ** 2 * (2**depth - 1)).astype(np.uint16)
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [4096, 0, depth])
    data = table.astype("<u2").tobytes() if explicit_type == "OW" else table.tolist()
    item.add_new("LUTData", explicit_type, data)
    stored = FILM.astype(np.uint16) * 16
    shown = pixels(dicom(stored, bits=12, VOILUTSequence=[item]))
    np.testing.assert_array_equal(shown, np.round(table[stored] / (2**depth - 1) * 255))


def test_modality_lut_and_negative_slope() -> None:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [256, 0, 16])
    item.add_new("LUTData", "US", (np.arange(256)[::-1] * 257).tolist())  # a negative
    item.ModalityLUTType = "US"
    shown = pixels(dicom(FILM, ModalityLUTSequence=[item]))
    np.testing.assert_array_equal(shown, 255 - FILM)
    deep = FILM.astype(np.uint16) * 257
    np.testing.assert_array_equal(pixels(dicom(deep, RescaleSlope="-1", RescaleIntercept="65535")), 255 - FILM)


def test_a_modality_table_of_12_bits() -> None:
    item = Dataset()
    table = np.round(np.sqrt(np.arange(4096) / 4095) * 4095).astype(np.uint16)
    item.add_new("LUTDescriptor", "US", [4096, 0, 12])
    item.add_new("LUTData", "US", table.tolist())
    item.ModalityLUTType = "US"
    stored = FILM.astype(np.uint16) * 16
    shown = pixels(dicom(stored, bits=12, ModalityLUTSequence=[item]))
    np.testing.assert_array_equal(shown, np.round(table[stored] / 4095 * 255))


def test_neither_padding_nor_a_speck_makes_a_film_dark() -> None:
    stored = FILM.astype(np.uint16) * 16
    stored[:3] = 65535
    expected = np.round(stored / 4095 * 255)
    expected[:3] = 0
    np.testing.assert_array_equal(pixels(dicom(stored, PixelPaddingValue=65535)), expected)
    stored[:3], stored[5, 5] = 0, 5000  # one pixel over the 12 bits that the film uses
    assert np.abs(pixels(dicom(stored)).astype(int) - np.round(stored / 4095 * 255).clip(0, 255)).max() == 0


def test_messages_quote_nothing_that_could_be_a_name() -> None:
    for tags in ({"BodyPartExamined": "MUELLER KNEE"}, {"Modality": "MUELLER"}):
        with pytest.raises(UnreadableFilmError) as error:
            load_xray(dicom(FILM, **tags))
        assert "MUELLER" not in str(error.value)


def test_a_damaged_deflated_film_is_one_line() -> None:
    content = dicom(FILM, syntax=DeflatedExplicitVRLittleEndian)
    broken = content[:-2000] + bytes(2000)
    with pytest.raises(UnreadableFilmError, match="damaged DICOM"):
        load_xray(broken)
    assert describe(broken)["kind"] == "DICOM"


def test_padding_is_black_and_does_not_stretch() -> None:
    stored = FILM.astype(np.int16) * 4
    stored[:5] = -2000
    tags = {"PixelPaddingValue": -2000}
    inside = stored[5:].astype(float)
    expected = np.round((inside - inside.min()) / (inside.max() - inside.min()) * 255)
    for photometric in ("MONOCHROME2", "MONOCHROME1"):
        shown = pixels(dicom(stored, photometric, bits=12, **tags))
        assert not shown[:5].any()
        np.testing.assert_array_equal(shown[5:], expected if photometric == "MONOCHROME2" else 255 - expected)


def test_a_film_tagged_monochrome1_by_mistake_keeps_its_dark_lungs(caplog: pytest.LogCaptureFixture) -> None:
    """The tag says: low is white. But stored as it is, this is a chest film already."""
    film = np.asarray(Image.open(MEAN_CHEST).resize((200, 220)))
    with caplog.at_level(logging.INFO):
        np.testing.assert_array_equal(pixels(dicom(film, "MONOCHROME1")), film)
    assert "not inverted" in caplog.text
    np.testing.assert_array_equal(pixels(dicom(255 - film, "MONOCHROME1")), film)


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"Modality": "CT"}, "not an X-ray film: modality CT"),
        ({"Modality": "DX", "BodyPartExamined": "EXTREMITY"}, "not a chest film: body part EXTREMITY"),
        ({"NumberOfFrames": "3"}, "several frames"),
        ({"Rows": 30000, "Columns": 30000}, "too many pixels"),
    ],
)
def test_what_is_no_chest_film_is_refused_with_the_reason(tags: dict, reason: str) -> None:
    with pytest.raises(UnreadableFilmError, match=reason):
        load_xray(dicom(FILM, **tags))


@pytest.mark.parametrize("part", ["CHEST", "Thorax", "PORT CHEST", "TÓRAX", "LUNG", "UNKNOWN", ""])
def test_chests_by_any_name_are_read(part: str) -> None:
    tags = {"SpecificCharacterSet": "ISO_IR 192", "BodyPartExamined": part, "Modality": "DX"}
    np.testing.assert_array_equal(pixels(dicom(FILM, **tags)), FILM)


def test_colour() -> None:
    np.testing.assert_array_equal(pixels(dicom(np.dstack([FILM] * 3), "RGB")), FILM)  # grey, stored in colour
    with pytest.raises(UnreadableFilmError, match="a colour picture"):
        load_xray(dicom(np.dstack([FILM, FILM // 2, FILM]), "RGB"))


@pytest.mark.parametrize("cut", [140, 400, 3000])
def test_truncated_and_pixelless_dicom_are_one_clear_line(cut: int) -> None:
    with pytest.raises(UnreadableFilmError, match="DICOM") as error:
        load_xray(dicom(FILM, syntax=RLELossless)[:cut])
    assert "\n" not in str(error.value)
    film = pydicom.dcmread(io.BytesIO(dicom(FILM)))
    del film.PixelData
    buffer = io.BytesIO()
    film.save_as(buffer)
    with pytest.raises(UnreadableFilmError, match="without pixels"):
        load_xray(buffer.getvalue())


@pytest.mark.parametrize("kind", ["whole", "raised", "data set alone", "gzip"])
def test_no_byte_of_a_dicom_can_raise_anything_else(kind: str) -> None:
    tags = {"WindowCenter": "100", "WindowWidth": "200", "PixelPaddingValue": 0, "ViewPosition": "PA"}
    content = dicom(FILM.astype(np.uint16), bits=8, **tags, **({"HighBit": 9} if kind == "raised" else {}))
    if kind == "data set alone":
        content = content[144 + int.from_bytes(content[140:144], "little") :]
    random, start = np.random.default_rng(0), 0 if kind == "data set alone" else 132
    for _ in range(300):
        broken = bytearray(gzip.compress(content) if kind == "gzip" else content)
        for place in random.integers(start, 900, 4):
            broken[place] = random.integers(256)
        try:
            load_xray(bytes(broken))
        except UnreadableFilmError as error:
            assert str(error) and "\n" not in str(error)


def test_the_facts_of_a_header_and_nothing_that_names_a_person(caplog: pytest.LogCaptureFixture) -> None:
    person = {"PatientName": "Secret^Person", "PatientID": "MRN-0042", "PatientBirthDate": "20190101"}
    known = {"PatientSex": "F", "PatientAge": "018M", "ViewPosition": "PA", "BodyPartExamined": "CHEST"}
    place = {"Modality": "DX", "InstitutionName": "Secret Hospital", "StudyDate": "not a date"}
    tags = person | known | place | {"Manufacturer": "Philips", "ManufacturerModelName": "DigitalDiagnost"}
    with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.DEBUG):
        facts = dicom_facts(dicom(FILM, **tags))
        load_xray(dicom(FILM, **tags))
    expected = {"patient": "MRN-0042", "view": "PA", "age": 1.5, "sex": "F"}
    device = {"manufacturer": "PHILIPS", "device_model": "DIGITALDIAGNOST", "patient_position": None}
    device |= {"window_center": None, "window_width": None}
    assert facts == expected | device | {"body_part": "CHEST", "modality": "DX", "bits": 8}
    for window in (b"abcd", b"4,96", b"\\   "):
        spoilt = dicom(FILM, **person, WindowCenter="4096").replace(b"4096", window)
        assert dicom_facts(spoilt)["patient"] == "MRN-0042"
    erect = pydicom.Dataset()
    erect.CodeMeaning = "Erect"
    for tag, value, position in (("Position", "HFS", "HFS"), ("OrientationCodeSequence", [erect], "ERECT")):
        assert dicom_facts(dicom(FILM, **{f"Patient{tag}": value}))["patient_position"] == position
    assert "secret" not in (caplog.text + " ".join(str(warning.message) for warning in caught)).lower()
    ages = {"045Y": 45.0, "62": 62.0, "006W": 0.11, "010D": 0.03, "": None, "abc": None}
    assert {age: dicom_facts(dicom(FILM, PatientAge=age))["age"] for age in ages} == ages


def test_an_age_that_is_not_said_follows_from_the_dates() -> None:
    def age(**tags: str) -> float | None:
        return dicom_facts(dicom(FILM, **tags))["age"]

    assert age(PatientBirthDate="19400216", StudyDate="20040315") == 64.1
    assert age(PatientBirthDate="19400216", StudyDate="20040315", PatientAge="003Y") == 3
    for born, taken in (("", "20040315"), ("19400216", ""), ("18600101", "20040315"), ("20050101", "20040315")):
        assert age(PatientBirthDate=born, StudyDate=taken) is None


def test_describe_goes_by_content() -> None:
    assert describe(dicom(FILM.astype(np.uint16), bits=12)) == {"kind": "DICOM", "mode": "DICOM", "bits": 12}
    buffer = io.BytesIO()
    Image.fromarray(FILM.astype(np.uint16) * 257).save(buffer, "PNG")
    assert describe(buffer.getvalue()) == {"kind": "PNG", "mode": "I;16", "bits": 16}
    assert describe(b"  <html>")["kind"] == "HTML"
    assert describe(b"")["kind"] == "empty"


@pytest.mark.shared
def test_the_real_films(shared: Path) -> None:
    with zipfile.ZipFile(shared / "data" / "dicom_sample.zip") as archive:
        content = {Path(name).name: archive.read(name) for name in archive.namelist() if name.endswith(".dcm")}
    with pytest.raises(UnreadableFilmError, match="not a chest film: body part EXTREMITY"):
        load_xray(content.pop("RG3_J2KI.dcm"))
    assert len(content) == 3
    for name, film in content.items():
        assert chest_correlation(thumbnail(load_xray(film))[None])[0] > 0.15, name  # dark lungs, bright bones


def test_pydicoms_own_films_decode_or_give_one_line() -> None:
    folder, read = Path(pydicom.__file__).parent / "data" / "test_files", 0
    for path in sorted(folder.glob("*.dcm")):
        try:
            read += load_xray(path).mode == "L"
        except UnreadableFilmError as error:
            assert str(error)
            assert "\n" not in str(error)
    assert read >= 2
