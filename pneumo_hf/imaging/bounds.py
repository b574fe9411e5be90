"""What a picture may ask of its decoder: parts that cost next to nothing in a file and much time to read."""

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

# Films have some ten scans, as many markers, a strip for each row, and one tile.
MOST_SCANS = 100  # of a progressive JPEG, each of which goes over the whole picture; libtiff has the same bound
MOST_MARKERS = 1000  # before the first scan: PIL reads them one by one
MOST_STRIPS = 30_000  # or tiles of a TIFF
MOST_TILES = 1000  # of a JPEG 2000; OpenJPEG makes room for all of them first
JPEG, JPEG2000 = b"\xff\xd8", b"\xff\x4f\xff\x51"  # how a file or a codestream begins
START_OF_SCAN = 0xDA
STRIP_OFFSETS, TILE_OFFSETS = 273, 324  # tags of TIFF


def excess(content: bytes) -> str | None:
    """Say what a JPEG or JPEG 2000, a file or a frame of a DICOM, has too many of; None for all others."""
    if content.startswith(JPEG):
        # Inside a scan no FF is followed by DA.
        if content.count(bytes((0xFF, START_OF_SCAN))) > MOST_SCANS:
            return f"a JPEG of more than {MOST_SCANS} scans, not a film"
        return f"a JPEG of more than {MOST_MARKERS} markers, not a film" if _has_too_many_markers(content) else None
    start = content.find(JPEG2000, 0, 4096)  # a file has its boxes before it
    if start >= 0:
        right, bottom, left, top, width, height, tiles_left, tiles_top = (
            int.from_bytes(content[place : place + 4], "big") for place in range(start + 8, start + 40, 4)
        )
        if (
            not width
            or not height
            or -(-(right - tiles_left) // width) * -(-(bottom - tiles_top) // height) > MOST_TILES
        ):
            return f"a JPEG 2000 of more than {MOST_TILES} tiles, not a film"
    return None


def excess_of_tiff(image: Image.Image) -> str | None:
    """Say that an opened TIFF has too many strips or tiles; None if it has not, or is no TIFF."""
    if not isinstance(image, TiffImageFile):
        return None
    parts = max(len(image.tag_v2.get(tag, ())) for tag in (STRIP_OFFSETS, TILE_OFFSETS))
    return f"a TIFF of more than {MOST_STRIPS} strips or tiles, not a film" if parts > MOST_STRIPS else None


def _has_too_many_markers(content: bytes) -> bool:
    """Walk from marker to marker up to the first scan, or to where they end."""
    place, markers = 2, 0
    while markers <= MOST_MARKERS and content[place : place + 1] == b"\xff" and content[place + 1] != START_OF_SCAN:
        length = int.from_bytes(content[place + 2 : place + 4], "big")
        place, markers = place + 2 + length, markers + 1
        if place + 1 >= len(content):
            return False
    return markers > MOST_MARKERS
