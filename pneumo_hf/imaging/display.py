"""Stored values of a DICOM film become display values, as PS3.3 C.11 orders it: modality LUT, then VOI LUT.

What a header says that cannot be applied is left out, and a note says so; it quotes no value.
"""

import math
import struct
import zlib

import numpy as np
import pydicom
from pydicom.pixels import apply_modality_lut, apply_windowing

DAMAGE = (  # what pydicom and its decoders raise on damaged files
    *(AttributeError, ValueError, TypeError, KeyError, IndexError, NotImplementedError, RuntimeError),
    *(OSError, EOFError, OverflowError, MemoryError, struct.error, zlib.error),
    *(pydicom.errors.InvalidDicomError, pydicom.errors.BytesLengthException),
)
FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")  # of a VOI LUT
ROWS_AT_ONCE = 256
Range = tuple[float, float]  # the values that are shown black and white


def display(
    film: pydicom.Dataset, stored: np.ndarray, padding: np.ndarray | None
) -> tuple[np.ndarray, list[str], Range | None]:
    """Map stored values `[H, W]` to uint8 display values, before any inversion; 8-bit without LUT passes untouched.

    A window or LUT maps to its whole output range, other films by the depth they are stored in.

    Returns:
        The values; notes on what could not be applied, which is taken out of `film`; and which values, behind the
        modality LUT, are shown as 0 and as 255, None where no straight line joins them (a VOI LUT, a sigmoid).
    """
    inside = stored if padding is None or padding.all() else stored[~padding]
    notes = _leave_out_impossible(film, inside)
    plain = not any(name in film for name in ("VOILUTSequence", "ModalityLUTSequence", "RescaleSlope", "WindowWidth"))
    if plain and film.BitsStored <= 8 and not film.PixelRepresentation and stored.max() < 256:
        return stored.astype(np.uint8), notes, (0, 255)
    # Signed values say nothing of their range; unsigned ones fill the depth that they are stored in.
    whole = [inside.min(), inside.max()] if film.PixelRepresentation else [0, 2 ** _depth(film, inside) - 1]
    ends = np.array(whole, stored.dtype)
    shown = np.empty(stored.shape, np.uint8)
    for row in range(0, len(stored), ROWS_AT_ONCE):  # in double precision, but not the whole film at once
        values, low, high = _values(film, stored[row : row + ROWS_AT_ONCE], ends)
        part = np.zeros(1) if low == high else ((values - low) / (high - low)).clip(0, 1) * 255
        shown[row : row + ROWS_AT_ONCE] = np.round(part)
    return shown, notes, _shown_range(film, ends)


def is_raised(film: pydicom.Dataset) -> bool:
    """Return whether a header says that values lie in the upper bits of their cells (HighBit above BitsStored - 1)."""
    high = film.get("HighBit")
    return high is not None and film.BitsStored <= high < film.BitsAllocated


def lowered(film: pydicom.Dataset, cells: np.ndarray) -> np.ndarray:
    """Move the values of raised cells down.

    Values that fit into the lower bits, and use the lowest of them, lie there already, whatever the header says.
    """
    above, below = film.BitsAllocated - 1 - film.HighBit, film.HighBit + 1 - film.BitsStored
    low = (cells << (above + below)) >> (above + below)
    fits = bool((low == cells).all()) or not (cells >> film.BitsStored).any()
    if fits and (cells & (2**below - 1)).any():
        return low
    return (cells << above) >> (above + below)  # what lies above and below, overlays perhaps, falls out


def padding_of(film: pydicom.Dataset, stored: np.ndarray) -> np.ndarray | None:
    """Find where the film is padding and no picture (PS3.3 C.7.5.1.1.2), `[H, W]` bool; None where it has no such."""
    first = _padding_value(film, "PixelPaddingValue")
    if first is None:
        return None
    last = _padding_value(film, "PixelPaddingRangeLimit")
    low, high = sorted((first, first if last is None else last))
    return (stored >= low) & (stored <= high)


def _padding_value(film: pydicom.Dataset, name: str) -> float | None:
    """A value of the padding, which many films write unsigned though their pixels are signed, or the other way."""
    value, bits = number(film, name), film.BitsAllocated
    if value is None:
        return None
    if film.PixelRepresentation:
        return value - 2**bits if value >= 2 ** (bits - 1) else value
    return value + 2**bits if value < 0 else value


def _leave_out_impossible(film: pydicom.Dataset, inside: np.ndarray) -> list[str]:
    """Take out of a header what cannot be applied, so that the film is shown by its full range; notes on it."""
    notes = []
    if not number(film, "RescaleSlope") or number(film, "RescaleIntercept") is None:
        film.pop("RescaleSlope", None)
    if not film.get("ModalityLUTSequence"):
        film.pop("ModalityLUTSequence", None)
    if not film.get("VOILUTFunction"):
        film.pop("VOILUTFunction", None)  # empty is the same as absent (PS3.5 7.4.5), and that is LINEAR
    if "VOILUTSequence" in film and not _has_table(film):
        film.pop("VOILUTSequence")
        notes.append("its VOI LUT is empty or damaged: left out")
    if "VOILUTSequence" not in film and (fault := _window_fault(film, inside)):
        film.pop("WindowWidth", None)
        notes.append(f"its {fault}: left out, the film is shown by its full range")
    return notes


def _has_table(film: pydicom.Dataset) -> bool:
    try:
        return bool(np.ptp(_table(film.VOILUTSequence[0])[1]) > 0)
    except DAMAGE:
        return False


def _window_fault(film: pydicom.Dataset, inside: np.ndarray) -> str:
    """Why a window cannot be applied to the values inside a film, empty where it can or where there is none."""
    if "WindowWidth" not in film and "WindowCenter" not in film:
        return ""
    width, center = number(film, "WindowWidth"), number(film, "WindowCenter")
    function = str(film.get("VOILUTFunction", FUNCTIONS[0])).upper()
    if function not in FUNCTIONS:
        return "VOI LUT function is unknown"
    if width is None or center is None:
        return "window is empty"
    if width <= 0 or (function == FUNCTIONS[0] and width < 1):
        return "window is too narrow"
    low, high = _modality_range(film, np.array([inside.min(), inside.max()]))
    beside = center + width / 2 < low or center - width / 2 > high
    return "window lies beside all its values" if beside else ""


def _values(film: pydicom.Dataset, stored: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Stored values through modality and VOI LUT, and the ends of their range, as `ends` are of the stored values'."""
    low, high = _modality_range(film, ends)
    if "ModalityLUTSequence" in film:
        values = _look_up(_table(film.ModalityLUTSequence[0]), stored)
    else:
        values = np.asarray(apply_modality_lut(stored, film), dtype=np.float64)
    if "VOILUTSequence" in film:
        table = _table(film.VOILUTSequence[0])
        values, low, high = _look_up(table, values), table[1].min(), table[1].max()
    elif "WindowWidth" in film:
        with np.errstate(over="ignore"):
            low, high = apply_windowing(np.array([-1e9, 1e9]), film)  # the ends of its output range
            values = apply_windowing(values, film)
    return values, low, high


def _shown_range(film: pydicom.Dataset, ends: np.ndarray) -> Range | None:
    function = str(film.get("VOILUTFunction", FUNCTIONS[0])).upper()
    width, center = number(film, "WindowWidth"), number(film, "WindowCenter")
    if "VOILUTSequence" in film or (width is not None and function == "SIGMOID"):
        return None
    if width is None or center is None:
        low, high = _modality_range(film, ends)
        return float(low), float(high)
    if function == FUNCTIONS[0]:  # counts whole numbers (PS3.3 C.11.2.1.2)
        center, width = center - 0.5, width - 1
    return center - width / 2, center + width / 2


def _modality_range(film: pydicom.Dataset, ends: np.ndarray) -> tuple[float, float]:
    if "ModalityLUTSequence" in film:
        entries = _table(film.ModalityLUTSequence[0])[1]
        return entries.min(), entries.max()
    low, high = sorted(np.asarray(apply_modality_lut(ends, film), dtype=np.float64))
    return low, high


def _table(item: pydicom.Dataset) -> tuple[int, np.ndarray]:
    """The first value mapped, and what the values from there on become.

    (pydicom 3.0's own functions wrap 8-bit tables of many entries, and refuse modality tables of 10 or 12 bits.)
    """
    entries, first, _ = item.LUTDescriptor
    data = item.LUTData
    if isinstance(data, bytes):
        data = np.frombuffer(data, np.uint8 if len(data) == (entries or 2**16) else "<u2")
    return first, np.asarray(data, dtype=np.float64)


def _look_up(table: tuple[int, np.ndarray], values: np.ndarray) -> np.ndarray:
    first, entries = table
    return entries[(values.astype(np.float64) - first).clip(0, len(entries) - 1).astype(np.int64)]


def _depth(film: pydicom.Dataset, inside: np.ndarray) -> int:
    """Bits stored; where a file claims all that it allocates, those that the film but its brightest specks uses."""
    if film.BitsStored < film.BitsAllocated:
        return film.BitsStored
    most = np.percentile(inside, 99.9)
    return next(bits for bits in (8, 10, 12, 14, 16, 32) if most < 2**bits)


def number(film: pydicom.Dataset, name: str) -> float | None:
    """Read a finite number of a header, the first of several; None where there is none."""
    value = film.get(name)
    value = value[0] if isinstance(value, pydicom.multival.MultiValue) and value else value
    try:
        return float(value) if math.isfinite(float(value)) else None
    except (TypeError, ValueError):  # nothing, or no number
        return None
