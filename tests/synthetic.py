"""Studies drawn from a known truth: evaluations of networks of a given skill, with noise of seeds, images and objects.

An object of image i with difficulty z is met by a network with quality q = skill + liking[variant, i] - z + noise; its
box overlaps the better the higher q, its confidence follows q with noise, and false positives join. Skill is the
variant's plus the seed's. Two variants of equal skill and equal scatter have the same expected AP, whatever the noise.
"""

from dataclasses import dataclass

import numpy as np

from utils.statistics import MatchedDetections


@dataclass(frozen=True)
class World:
    """What a study is drawn from. seed_sd: scatter of skill between trainings (0.1 is about 2 points of mAP50-95);
    liking_sd: how differently a variant takes to images, alike in all its seeds; labels: mean per image and class;
    clutter: false positives per image, on average."""

    images: int = 40
    nc: int = 2
    labels: float = 1.5
    clutter: float = 2.0
    seed_sd: float = 0.05
    liking_sd: float = 0.0

    def study(self, rng: np.random.Generator, skills, seeds: int, seed_sds=None) -> list[dict[int, MatchedDetections]]:
        """Evaluations by seed of one variant a skill, all of the same drawn images."""
        counts = rng.poisson(self.labels, (self.images, self.nc))
        image = np.repeat(np.arange(self.images), counts.sum(1))
        cls = np.concatenate([np.repeat(np.arange(self.nc), row) for row in counts])
        difficulty = rng.normal(0, 1, len(image)) + rng.normal(0, 0.5, self.images)[image]
        seed_sds = [self.seed_sd] * len(skills) if seed_sds is None else seed_sds
        study = []
        for skill, seed_sd in zip(skills, seed_sds, strict=True):
            ease = skill + rng.normal(0, self.liking_sd, self.images)[image] - difficulty
            study.append(
                {
                    seed: self._evaluation(rng, image, cls, ease + rng.normal(0, seed_sd), counts)
                    for seed in range(seeds)
                }
            )
        return study

    def _evaluation(self, rng, image, cls, ease, counts) -> MatchedDetections:
        quality = ease + rng.normal(0, 0.7, len(ease))
        found = quality > -1
        overlap = 1 / (1 + np.exp(-(1.2 + quality[found])))
        correct = overlap[:, None] >= np.linspace(0.5, 0.95, 10)
        clutter = rng.poisson(self.clutter, self.images)
        conf = np.concatenate((quality[found] + rng.normal(0, 0.7, len(overlap)), rng.normal(-1.2, 1, clutter.sum())))
        image = np.concatenate((image[found], np.repeat(np.arange(self.images), clutter)))
        cls = np.concatenate((cls[found], rng.integers(0, self.nc, clutter.sum())))
        correct = np.concatenate((correct, np.zeros((clutter.sum(), 10), bool)))
        rank = (-conf).argsort()
        parts = image.astype(np.int32), (1 / (1 + np.exp(-conf))).astype(np.float32), cls.astype(np.int32), correct
        return MatchedDetections(*(part[rank] for part in parts), counts.astype(np.int32))
