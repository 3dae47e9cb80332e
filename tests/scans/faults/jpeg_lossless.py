"""An encoder of lossless JPEG with the first predictor (ISO 10918-1 annex H), since none comes with the libraries that read it."""

import struct

import numpy as np

# Code lengths of the categories 0 to 16: fifteen codes of 4 bits, one of 5, one of 6; all ones stay unused, as they must.
CODES = [(category, 4) for category in range(15)] + [(0b11110, 5), (0b111110, 6)]


def encode(image: np.ndarray, precision: int = 16) -> bytes:
    """(rows, columns) of numbers below 2 ** precision -> a JPEG stream."""
    rows, columns = image.shape
    numbers = image.astype(np.int64) & ((1 << precision) - 1)
    before = np.empty_like(numbers)
    before[:, 1:], before[1:, 0], before[0, 0] = numbers[:, :-1], numbers[:-1, 0], 1 << precision - 1
    frame = struct.pack(">HBHHB3B", 11, precision, rows, columns, 1, 1, 0x11, 0)
    table = struct.pack(">HB16B17B", 19 + 17, 0, 0, 0, 0, 15, 1, 1, *[0] * 10, *range(17))
    scan = struct.pack(">HB2B3B", 8, 1, 1, 0, 1, 0, 0)
    return b"\xff\xd8\xff\xc3" + frame + b"\xff\xc4" + table + b"\xff\xda" + scan + _bits((numbers - before).ravel()) + b"\xff\xd9"


def _bits(differences: np.ndarray) -> bytes:
    """Each difference, modulo 2^16, as the code of its category and its bits; H.1.2.2."""
    words = []
    for difference in (differences + 32768) % 65536 - 32768:
        category = 16 if difference == -32768 else int(abs(difference)).bit_length()
        words.append(format(CODES[category][0], f"0{CODES[category][1]}b"))
        if 0 < category < 16:
            words.append(format(int(difference) if difference > 0 else int(difference) + (1 << category) - 1, f"0{category}b"))
    text = "".join(words)
    text += "1" * (-len(text) % 8)
    return bytes(int(text[at : at + 8], 2) for at in range(0, len(text), 8)).replace(b"\xff", b"\xff\0")
