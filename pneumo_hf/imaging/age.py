"""How old a patient was, as headers and tables say it."""

import re
from datetime import datetime


def years(text: str | None) -> float | None:
    """Parse an age as `45`, `45.5` or DICOM's `045Y`, `018M`, `006W`, `010D`, in years; None for anything else.

    Above 120 years it stands for one that is not known, as DICOM's 999Y does.
    """
    match = re.fullmatch(r"(\d{1,3}(?:\.\d+)?)([YMWD]?)", (text or "").strip().upper())
    age = match and round(float(match[1]) / {"Y": 1, "": 1, "M": 12, "W": 52.18, "D": 365.25}[match[2]], 2)
    return age if age is not None and age <= 120 else None


def age_of(said: str | None, born: str | None, taken: str | None) -> float | None:
    """Return an age in years as it is said, or else by DICOM's dates of birth and study; None where neither is known.

    >>> age_of("", "19400216", "20040315")
    64.1
    """
    age = years(said)
    if age is not None:
        return age
    try:
        first, last = (datetime.strptime(date or "", "%Y%m%d") for date in (born, taken))
    except ValueError:  # not said, or no date
        return None
    return years(f"{(last - first).days / 365.25:.1f}")
