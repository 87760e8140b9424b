"""Near-duplicate images: a 64-bit hash each finds candidates, a correlation of small images decides.

An image is brought to 32 x 32 gray pixels X (whatever its shape) and C = D X D' are its cosine coefficients, D the
orthonormal DCT-II matrix (Ahmed, Natarajan and Rao 1974); the 16 x 16 lowest are kept. Its hash is the signs of the 64
lowest in zigzag order but the mean's (the family of Zauner 2010, "Implementation and benchmarking of perceptual image
hash functions", whose threshold is a median): light and contrast do not change a sign. Pairs whose hashes differ in few
bits are candidates; they are near duplicates if the details of both, which are the coefficients but for the smooth
ones u + v < 3 (brightness, slopes, vignettes), have a cosine similarity of at least a limit. Images almost without
details (plain, black) take no part: their signs are noise.

A mirrored image has C with the odd columns' signs changed, a rotated one its transpose, so that all eight orientations
come from the same coefficients.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

SIDE, KEPT = 32, 16  # pixels per side that the cosine transform gets, coefficients per side that are kept
RADIUS = 12  # bits of 64 in which the hashes of a candidate pair may differ
SIMILAR = 0.9  # least cosine similarity of the details of near duplicates
LEAST_DETAIL = 1.0  # gray levels (root mean square of the details) below which an image is plain
CANDIDATES = 32  # nearest hashes of an image that are compared, in its own split and in earlier ones
_SMOOTH = 3
_ROWS, _COLUMNS, _FIRST_COLUMNS, _PAIRS = 128, 8192, 256, 4096  # of a block of hashes; pairs of a block of correlations
ORIENTATIONS = (
    "",
    "mirrored",
    "rotated by 180 degrees",
    "mirrored upside down",
    "mirrored at a diagonal",
    "rotated left by 90 degrees",
    "rotated right by 90 degrees",
    "mirrored at the other diagonal",
)
# what each is: columns reversed, rows reversed, and before either the image transposed
_CHANGES = ((0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1), (1, 0, 1), (1, 1, 1))


@dataclass(frozen=True)
class DuplicatePairs:
    """The best earlier partner of each of n images.

    Attributes:
        index: (n,) int64, -1 if there is none.
        similarity: (n,) float32, 0 if there is none.
        orientation: (n,) int8 into ORIENTATIONS, how the image shows its partner.
    """

    index: np.ndarray
    similarity: np.ndarray
    orientation: np.ndarray

    @staticmethod
    def none(count: int) -> "DuplicatePairs":
        return DuplicatePairs(np.full(count, -1, np.int64), np.zeros(count, np.float32), np.zeros(count, np.int8))

    def improve(self, images: np.ndarray, partners: np.ndarray, similarity: np.ndarray, orientation: int) -> None:
        """Take the pairs that are closer than what is known; of equal ones the earliest partner.

        Args:
            images: (k,) indices.
            partners: (k,) indices of earlier images.
            similarity: (k,) of each pair.
            orientation: Index into ORIENTATIONS.
        """
        order = np.lexsort((partners, -similarity, images))
        images, partners, similarity = images[order], partners[order], similarity[order]
        first = np.concatenate(([True], images[1:] != images[:-1])) if len(images) else np.zeros(0, bool)
        first &= similarity > self.similarity[images]
        self.index[images[first]] = partners[first]
        self.similarity[images[first]] = similarity[first]
        self.orientation[images[first]] = orientation


def coefficients(rgb: np.ndarray) -> np.ndarray:
    """Return (16, 16) float16 lowest cosine coefficients of an RGB uint8 image of any size."""
    gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(
        gray, (SIDE, SIDE), interpolation=cv2.INTER_AREA if min(gray.shape) >= SIDE else cv2.INTER_LINEAR
    )
    basis = _basis()
    return (basis @ small.astype(np.float32) @ basis.T).astype(np.float16)


def hashes(coefs: np.ndarray) -> np.ndarray:
    """Return (n,) uint64 hashes of (n, 16, 16) coefficients: bit k is set if the k-th lowest frequency is positive."""
    rows, columns = _zigzag()
    bits = np.packbits(coefs[:, rows, columns] > 0, axis=1, bitorder="little")
    return np.ascontiguousarray(bits).view("<u8").reshape(-1).astype(np.uint64)


def is_plain(coefs: np.ndarray) -> np.ndarray:
    """Return (n,) bool of (n, 16, 16) coefficients: too little detail to be distinguished from other images."""
    plain = np.zeros(len(coefs), bool)
    for start in range(0, len(coefs), _PAIRS):
        norms = np.linalg.norm(_details(coefs[start : start + _PAIRS]), axis=1)
        plain[start : start + _PAIRS] = norms < LEAST_DETAIL * SIDE
    return plain


def find_duplicates(
    coefs: np.ndarray, group: np.ndarray, *, similar: float = SIMILAR, radius: int = RADIUS, turned: bool = False
) -> tuple[DuplicatePairs, DuplicatePairs]:
    """Return each image's best earlier partner.

    Memory is n coefficients (512 bytes each) and blocks of fixed size; time is n^2 / 2 comparisons of 64 bits.

    Args:
        coefs: (n, 16, 16).
        group: (n,) index of the split, rising.
        similar: Least similarity.
        radius: Bits of 64 in which the hashes of a pair may differ.
        turned: Also look for mirrored and rotated copies.

    Returns:
        The partner in its own group, and the partner in an earlier group.
    """
    own, earlier = DuplicatePairs.none(len(coefs)), DuplicatePairs.none(len(coefs))
    used = np.flatnonzero(~is_plain(coefs))
    kept = coefs if len(used) == len(coefs) else coefs[used]
    base = hashes(kept)
    for orientation in range(8 if turned else 1):
        queries = hashes(orient(kept, orientation))
        for images, partners in _candidates(queries, base, group[used], radius):
            for start in range(0, len(images), _PAIRS):
                i, j = images[start : start + _PAIRS], partners[start : start + _PAIRS]
                similarity = _cosine(_details(orient(kept[i], orientation)), _details(kept[j]))
                near = similarity >= similar
                same = group[used[i]] == group[used[j]]
                for matches, chosen in ((own, near & same), (earlier, near & ~same)):
                    matches.improve(used[i[chosen]], used[j[chosen]], similarity[chosen], orientation)
    return own, earlier


def orient(coefs: np.ndarray, orientation: int) -> np.ndarray:
    """Return the coefficients of images in another orientation.

    Args:
        coefs: (n, 16, 16).
        orientation: Index into ORIENTATIONS.

    Returns:
        (n, 16, 16).
    """
    signs = np.where(np.arange(KEPT) % 2, -1, 1).astype(coefs.dtype)
    across, down, swap = _CHANGES[orientation]
    result = coefs.swapaxes(1, 2) if swap else coefs
    result = result * signs if across else result
    return result * signs[:, None] if down else result


def _candidates(
    queries: np.ndarray, base: np.ndarray, group: np.ndarray, radius: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (images, earlier images) whose hashes are near.

    Per image they are the CANDIDATES nearest of its own group and as many of earlier groups, so that a dataset of one
    scene costs no more memory than any other.
    """
    for begin, end in _runs(group):
        for start in range(begin, end, _ROWS):
            rows = np.arange(start, min(start + _ROWS, end))
            for low, high in ((0, begin), (begin, rows[-1])):
                pairs = _scan(queries[rows], rows, base, low, high, radius)
                if len(pairs[0]):
                    yield pairs[0], pairs[1]


def _runs(group: np.ndarray) -> list[tuple[int, int]]:
    """(first, end) of each run of equal numbers."""
    bounds = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), len(group)]
    return [(first, end) for first, end in zip(bounds[:-1], bounds[1:], strict=True) if end > first]


def _scan(queries: np.ndarray, rows: np.ndarray, base: np.ndarray, low: int, high: int, radius: int) -> np.ndarray:
    """(3, m) rows, partners in low..high before them, and distances: the CANDIDATES nearest per row."""
    best, limit = np.zeros((3, 0), np.int64), np.full(len(rows), radius + 1)
    first, width = low, _FIRST_COLUMNS  # a narrow block first: it lowers the limit if there are many candidates
    while first < high:
        columns = np.arange(first, min(first + width, high))
        distance = np.bitwise_count(queries[:, None] ^ base[columns])
        if columns[-1] >= rows[0]:
            distance[columns >= rows[:, None]] = 64
        i, j = np.nonzero(distance < limit[:, None])
        if len(i):
            found = np.stack((rows[i], columns[j], distance[i, j].astype(np.int64)))
            best = _nearest(np.concatenate((best, found), 1))
            count = np.bincount(best[0] - rows[0], minlength=len(rows))
            farthest = np.zeros(len(rows), np.int64)
            np.maximum.at(farthest, best[0] - rows[0], best[2])
            limit = np.where(count == CANDIDATES, farthest, limit)
        first, width = first + width, _COLUMNS
    return best


def _nearest(pairs: np.ndarray) -> np.ndarray:
    """Of (3, m) images, partners and distances, the CANDIDATES nearest of each image; the earlier of equal ones."""
    order = np.lexsort((pairs[1], pairs[2], pairs[0]))
    key = pairs[0, order]
    starts = np.flatnonzero(np.concatenate(([True], key[1:] != key[:-1])))
    rank = np.arange(len(key)) - np.repeat(starts, np.diff(np.append(starts, len(key))))
    return pairs[:, order[rank < CANDIDATES]]


def _details(coefs: np.ndarray) -> np.ndarray:
    """(n, 16, 16) coefficients to (n, 250) float32 without the smooth ones."""
    u, v = np.indices((KEPT, KEPT))
    return coefs[:, u + v >= _SMOOTH].astype(np.float32)


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(m, k) and (m, k) to (m,) cosine similarities."""
    return (a * b).sum(1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-6)


@lru_cache(maxsize=1)
def _basis() -> np.ndarray:
    """(16, 32) float32: the lowest rows of the orthonormal DCT-II matrix, sqrt(2/N) cos(pi (2 x + 1) u / 2 N)."""
    u, x = np.arange(KEPT)[:, None], np.arange(SIDE)
    basis = np.sqrt(2 / SIDE) * np.cos(np.pi * (2 * x + 1) * u / (2 * SIDE))
    basis[0] /= np.sqrt(2)
    return basis.astype(np.float32)


@lru_cache(maxsize=1)
def _zigzag() -> tuple[np.ndarray, np.ndarray]:
    """(rows, columns) of the 64 lowest frequencies behind the mean, by u + v and then by u."""
    pairs = [(u, v) for u in range(KEPT) for v in range(KEPT) if u or v]
    rows, columns = np.array(sorted(pairs, key=lambda pair: (sum(pair), pair))[:64]).T
    return rows, columns
