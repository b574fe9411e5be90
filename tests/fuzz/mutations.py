"""Files that someone or something has spoilt: bytes changed blindly, and values changed with intent."""

import json
import struct
from typing import Any

import numpy as np

VALUES = [
    None,
    True,
    -1,
    0,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "NaN",
    "None",
    "../..",
    [],
    {},
    [[]],
    {"a": 1},
    "é\0",
    2**63,
]
CELLS = [
    "",
    "NaN",
    "-1",
    "1e999",
    '"',
    "'",
    ",",
    ";",
    "\t",
    "\0",
    "../../etc/passwd",
    "/etc/passwd",
    "=1+1",
    "\u202e",
    "x" * 300,
]


def mutate_bytes(content: bytes, random: np.random.Generator) -> bytes:
    """Change bytes in one to four places: flipped, cut off, repeated, put in, blanked or moved."""
    data = bytearray(content)
    for _ in range(random.integers(1, 5)):
        size = len(data)
        if not size:
            break
        # headers decide: half of all changes are to the first bytes
        start = int(random.integers(min(size, 400)) if random.random() < 0.5 else random.integers(size))
        length = int(random.integers(1, 65))
        match random.integers(7):
            case 0:
                data[start] ^= 1 << int(random.integers(8))
            case 1:
                del data[start:]
            case 2:
                data[start:start] = data[start : start + length]
            case 3:
                data[start:start] = random.bytes(length)
            case 4:
                data[start : start + length] = bytes(length)
            case 5:
                data[start : start + 4] = struct.pack("<I", int(random.choice([0, 1, 2**16, 2**31 - 1, 2**32 - 1])))
            case 6:
                chunk = data[start : start + length]
                del data[start : start + length]
                data.extend(chunk)
    return bytes(data)


def mutate_table(text: str, random: np.random.Generator) -> bytes:
    """Change cells, lines, the separator or the encoding of a CSV."""
    lines = text.splitlines()
    for _ in range(random.integers(1, 5)):
        number = int(random.integers(len(lines)))
        cells = lines[number].split(",")
        match random.integers(5):
            case 0:
                cells[random.integers(len(cells))] = CELLS[random.integers(len(CELLS))]
            case 1:
                cells.pop()
            case 2:
                cells *= 2
            case 3:
                lines.insert(number, lines[random.integers(len(lines))])
            case 4:
                cells.reverse()
        lines[number] = ",".join(cells)
    text = ("\n", "\r\n", "\r")[random.integers(3)].join(lines).replace(",", ",;\t|"[random.integers(4)])
    content = text.encode(
        ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252")[random.integers(5)], errors="replace"
    )
    return mutate_bytes(content, random) if random.random() < 0.2 else content


def mutate_json(text: str, random: np.random.Generator) -> str:
    """Give one to three values of a JSON document another value, or take them out."""
    document = json.loads(text)
    for _ in range(random.integers(1, 4)):
        holder, key = _places(document)[random.integers(len(_places(document)))]
        if random.random() < 0.2:
            del holder[key]
        else:
            holder[key] = VALUES[random.integers(len(VALUES))]
        if not _places(document):
            break
    return json.dumps(document)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """`(holder, key)` of every value in a document."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [place for key in keys for place in [(value, key), *_places(value[key])]]
