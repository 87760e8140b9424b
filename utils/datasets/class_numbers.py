"""What class numbers that a data yaml does not have seem to be."""

from collections.abc import Collection

# COCO's category ids run from 1 to 90; these ten belong to no category of its 80.
COCO_CLASSES, COCO_LAST = 80, 90
COCO_GAPS = frozenset((12, 26, 29, 30, 45, 66, 68, 69, 71, 83))
_LARGEST_ID = 100_000  # a larger number is a mistake, not an id
_ENOUGH = 40  # classes of COCO in use among which one of the gaps would be expected if numbers were without gaps


def explain(used: Collection[int], nc: int) -> str:
    """Return what the class numbers of a dataset seem to be and what to do, "" if nothing is known that fits.

    Args:
        used: Every class number that occurs in the labels.
        nc: Number of classes of the data yaml, which has 0 to nc - 1.

    Returns:
        One clause for the user.
    """
    used = set(used)
    if not used or min(used) < 1 or max(used) < nc:
        return ""
    if nc == COCO_CLASSES and _are_coco_ids(used):
        return (
            "the labels seem to hold COCO's category ids (1 to 90, with gaps): write the index of each among the 80 "
            "ids in order, 1 becomes 0 and 90 becomes 79, in all files"
        )
    if max(used) == nc:
        return "the labels seem to count classes from 1: subtract 1 from every class, in all files"
    foreign = {number for number in used if number >= nc}
    if len(used) <= nc and 2 * len(foreign) > len(used) and max(used) < _LARGEST_ID:
        ids = ", ".join(map(str, sorted(used)[:10])) + (", ..." if len(used) > 10 else "")
        return (
            f"the labels seem to hold the category ids of where they come from ({ids}): write the index of the name in "
            "the data yaml instead, in all files"
        )
    return ""


def _are_coco_ids(used: set[int]) -> bool:
    """Whether numbers are COCO's ids and not 1 to 80, of which the last 80 ids leave the gaps out."""
    fits = max(used) <= COCO_LAST and not used & COCO_GAPS
    return fits and (max(used) > COCO_CLASSES or len(used) >= _ENOUGH)
