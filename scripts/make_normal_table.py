"""Make the table of the normal distribution that every engine reads; needs mpmath, takes a minute.

    python scripts/make_normal_table.py src/seedbed/normal_table.npy

For a word whose lower 31 bits are m, the value is the quantile of the lower tail (m + 1/2) / 2**32.
float32(m) picks the row: row 0 for m = 0, then 256 rows an octave, and one more for the m that round
up to 2**31. Its next 12 bits are t, and z = A[row] + B[row] * t. B is rounded to 12 significant bits,
so that B * t is exact in float32. A is set between the largest and the smallest deviation in its row,
and no row may rise above the one before it. See docs/determinism.md.
"""

import math
import sys

import numpy as np
from mpmath import erfinv, mp, mpf, sqrt

OCTAVES, ROWS = 31, 256


def quantile(m: float) -> float:
    """-Phi^-1((m + 1/2) / 2**32), to 30 digits, rounded once."""
    with mp.workdps(30):
        return float(sqrt(2) * erfinv(1 - (2 * mpf(m) + 1) / mpf(2) ** 32))


def twelve_bits(value: float) -> float:
    """`value` rounded to 12 significant bits."""
    mantissa, exponent = math.frexp(value)
    return math.ldexp(round(mantissa * 4096) / 4096, exponent)


def row(octave: int, number: int) -> tuple[float, float]:
    """A and B of one row."""
    width = 2.0 ** (octave - 8)
    first = 2.0**octave + number * width
    if width <= 1:
        return quantile(first), 0.0
    slope = twelve_bits((quantile(min(first + width, 2.0**31 - 0.5)) - quantile(first)) / 4096)
    step = width / 4096
    count = min(width, 4096)  # how many t there are
    deviations = []
    for part in range(5):  # the deviation is smooth: five places tell its extremes
        t = round((count - 1) * part / 4) * (4096 / count)
        first_m, last_m = first + t * step, first + t * step + max(step - 1, 0)
        deviations += [quantile(m) - slope * t for m in (first_m, last_m)]
    return (max(deviations) + min(deviations)) / 2, slope


def table() -> np.ndarray:
    """float32, shape (2, 2 + 31 * 256): A and B."""
    rows = [(quantile(0), 0.0)]
    for octave in range(OCTAVES):
        rows += [row(octave, number) for number in range(ROWS)]
    rows.append((quantile(2.0**31 - 32), 0.0))
    result = np.array(rows, dtype=np.float64).T.astype("<f4")
    a, b = result
    last = a + b * np.float32(4095)
    rises = np.flatnonzero(a[1:] > last[:-1])
    for r in rises:  # one unit in the last place at most: hold the row to the end of the one before
        assert a[r + 1] - last[r] < 2e-6, (r, a[r + 1], last[r])
        a[r + 1] = last[r]
    return result


if __name__ == "__main__":
    np.save(sys.argv[1], table())
