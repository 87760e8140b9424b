"""What every tracker script here shares: boxes followed from frame to frame by their overlap."""

import numpy as np


class IouTracker:
    """Each box (xywh) continues the track that it overlaps most, above a threshold, or begins one."""

    def __init__(self, least_overlap=0.3, patience=5):
        self.least_overlap, self.patience = least_overlap, patience
        self.tracks = {}  # identity -> (box, class, frames since it was seen)
        self.count = 0

    def update(self, xywh, classes):
        """Return (identity, box, class) of each box."""
        result, free = [], dict(self.tracks)
        for box, cls in zip(xywh.tolist(), classes.tolist(), strict=True):
            overlaps = {key: overlap(box, held) for key, (held, kind, _) in free.items() if kind == cls}
            best = max(overlaps, key=overlaps.get, default=None)
            if best is None or overlaps[best] < self.least_overlap:
                self.count += 1
                best = self.count
            free.pop(best, None)
            self.tracks[best] = (box, cls, 0)
            result.append((best, box, cls))
        for key in free:
            box, kind, age = self.tracks[key]
            self.tracks[key] = (box, kind, age + 1)
        self.tracks = {key: track for key, track in self.tracks.items() if track[2] <= self.patience}
        return result


def overlap(a, b):
    left, top = (max(a[i] - a[i + 2] / 2, b[i] - b[i + 2] / 2) for i in range(2))
    right, bottom = (min(a[i] + a[i + 2] / 2, b[i] + b[i + 2] / 2) for i in range(2))
    shared = max(right - left, 0) * max(bottom - top, 0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared + 1e-9)


def written(file, rows):
    np.savetxt(file, np.array(rows, dtype=float).reshape(-1, 8), fmt="%.3f")
