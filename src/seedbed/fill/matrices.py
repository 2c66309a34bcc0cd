"""Matrices that are more than their elements one by one."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from seedbed import threefry
from seedbed.initializers import Dirac, Identity, Orthogonal, Sparse
from seedbed.region import Region


def orthogonal(start: Orthogonal, normals: NDArray[np.float32], lead: int) -> NDArray[np.float32]:
    """Orthonormal rows or columns, of normal values of a parameter's shape; `lead` axes count such matrices."""
    rows, columns = normals.shape[lead], math.prod(normals.shape[lead + 1 :])
    z = normals.reshape(-1, rows, columns)
    values = np.empty(z.shape, np.float32)
    for matrix, out in zip(z, values, strict=True):
        out[...] = (_reflected(matrix) if rows >= columns else _reflected(matrix.T).T) * start.gain
    return values.reshape(normals.shape)


def _reflected(z: NDArray[np.float32], width: int = 128) -> NDArray[np.float64]:
    """Orthonormal columns, as many as `z` has: those of H1 H2 ... times the signs of their heads.

    Hj sends column j of `z`, from its diagonal down, onto its first axis (Stewart 1980). Reflections are
    applied `width` at a time, as I - V T V' (Schreiber and Van Loan 1989), to columns 512 at a time.
    """
    rows, columns = z.shape
    q = np.eye(rows, columns)
    for first in range(0, columns, width)[::-1]:
        v = np.tril(z[first:, first : first + width]).astype(np.float64)
        head, norm = np.diagonal(v).copy(), np.sqrt(np.einsum("ij,ij->j", v, v))
        sign = np.where(head < 0, -1.0, 1.0)
        np.fill_diagonal(v, head + sign * np.where(norm > 0, norm, 1.0))
        products = v.T @ v
        t = np.linalg.inv(np.triu(products, 1) + np.diag(np.diagonal(products) / 2))
        after = t @ v.T
        rest = q[first:, first:]
        for place in range(0, columns - first, 512):
            rest[:, place : place + 512] -= v @ (after @ rest[:, place : place + 512])
        q[:, first : first + width] *= -sign
    return q


def thin(start: Sparse, values: NDArray[np.float32], words: threefry.Words, first: int) -> None:
    """Put zeros where a column's words are smallest; ties to the lower row.

    Args:
        start: Says how many.
        values: Rows from `first` on of some columns.
        words: For each of these columns, as a row, the words of all its rows.
        first: The row of the whole that `values` begins with.
    """
    rows = words.shape[1]
    zeros = math.ceil(start.sparsity * rows)
    if zeros:
        order = words.astype(np.uint64) << np.uint64(32)
        order += np.arange(rows, dtype=np.uint64)  # no two are equal
        last = np.partition(order, zeros - 1, axis=1)[:, zeros - 1]
        values[(order <= last[:, None]).T[first : first + values.shape[0]]] = 0


def delta(start: Identity | Dirac, sizes: tuple[int, ...], region: Region) -> NDArray[np.float32]:
    """A region of an identity matrix, or of convolution kernels that hand their input on."""
    places = np.ogrid[region.slices]
    if isinstance(start, Identity):
        return np.where(places[0] == places[1], np.float32(start.gain), np.float32(0))
    out, into, *window = sizes
    channel = places[0] % (out // start.groups)
    hit = np.logical_and(channel == places[1], channel < min(out // start.groups, into))
    for place, size in zip(places[2:], window, strict=True):
        hit = np.logical_and(hit, place == size // 2)
    return np.broadcast_to(hit, region.shape).astype(np.float32)
