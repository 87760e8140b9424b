"""Augmentation of training images: mosaic, copy-paste, mixup, random views, flips and changes of color.

Pure functions of images, labels, gains and a generator. A scene is drawn first, from the labels alone (`scenes`), and
then rendered (`rendering`).
"""

from collections.abc import Sequence

import cv2
import numpy as np

from utils.config import Hyperparameters
from utils.datasets.color_jitter import Jitter, random_jitter
from utils.datasets.color_ops import random_color_ops
from utils.datasets.image_source import ImageSource
from utils.datasets.rendering import render
from utils.datasets.scenes import mosaic_scene, pasted, single_scene
from utils.types import Labels


def augmented(
    images: ImageSource,
    index: int,
    shape: tuple[int, int],
    hyp: Hyperparameters,
    generator: np.random.Generator,
    mosaic: bool = True,
) -> tuple[np.ndarray, Labels]:
    """Return one training image and its labels.

    A gain of 0 of what v6.1 does not have draws nothing, so the image is the one without it.

    Args:
        images: The dataset.
        index: The image that it is about.
        shape: (height, width) of the output in pixels.
        hyp: Gains of views, flips and colors; with `mosaic`, `hyp.mosaic` is the probability of several images in one,
            `hyp.mixup` that of blending two such and `hyp.box_paste` that of boxes of another image in it.
        generator: Decides everything.
        mosaic: Whether images are combined; otherwise the image alone is letterboxed into `shape`.

    Returns:
        (H, W, 3) uint8 RGB and its labels.
    """
    jitter = random_jitter(hyp.hsv_h, hyp.hsv_s, hyp.hsv_v, generator)
    flips = generator.random() < hyp.fliplr, generator.random() < hyp.flipud
    if not mosaic:
        image, cls, xyxy = render(images, single_scene(images, index, shape, hyp, generator), jitter)
    elif generator.random() >= hyp.mosaic:
        scene = pasted(images, single_scene(images, index, shape, hyp, generator), hyp, generator)
        image, cls, xyxy = render(images, scene, jitter)
    elif generator.random() >= hyp.mixup:
        scene = pasted(images, mosaic_scene(images, index, shape, hyp, generator), hyp, generator)
        image, cls, xyxy = render(images, scene, jitter)
    else:
        image, cls, xyxy = _mixed(images, index, shape, hyp, generator, jitter)
    image, xyxy = _flipped(image, xyxy, *flips)
    random_color_ops(image, hyp.color_ops, hyp.color_magnitude, generator)
    return image, _normalized(cls, xyxy, shape)


def _mixed(
    images: ImageSource,
    index: int,
    shape: tuple[int, int],
    hyp: Hyperparameters,
    generator: np.random.Generator,
    jitter: Jitter,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return two mosaics blended or, if the gate of class balance stays shut, the first alone.

    `hyp.mixup_gate` is the share of blends that are gated. The second mosaic of these is about an image that is drawn
    in proportion to the rarity of its rarest class, 1 / (objects of that class in the dataset), and it is blended only
    if the objects it shows are rarer on average than those of the first. (Without the gate it is about any image.) The
    weights are the inverse frequencies with which Cui et al. 2019 ("Class-Balanced Loss", beta to 1) resample classes.
    """
    gated = hyp.mixup_gate > 0 and generator.random() < hyp.mixup_gate
    other = images.census.draw_image(generator) if gated else int(generator.integers(len(images)))
    scenes = [
        pasted(images, mosaic_scene(images, each, shape, hyp, generator), hyp, generator) for each in (index, other)
    ]
    if gated:
        rarity, others = (images.census.rarity(scene.visible()[0]) for scene in scenes)
        if others <= rarity:
            return render(images, scenes[0], jitter)
    first, second = [render(images, scene, Jitter()) for scene in scenes]
    image, cls, xyxy = mixup(first, second, generator.beta(32.0, 32.0))
    jitter.apply(image, image)
    return image, cls, xyxy


def mixup(one: tuple, other: tuple, share: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return two training images blended, with the objects of both (Zhang et al. 2018, "mixup").

    Args:
        one: (image, cls, xyxy).
        other: The same of another.
        share: Share of the first, 0..1.

    Returns:
        (image, cls, xyxy).
    """
    return (
        cv2.addWeighted(one[0], share, other[0], 1 - share, 0),
        np.concatenate((one[1], other[1])),
        np.concatenate((one[2], other[2])),
    )


def _flipped(image: np.ndarray, xyxy: np.ndarray, left_right: bool, up_down: bool) -> tuple[np.ndarray, np.ndarray]:
    height, width = image.shape[:2]
    if left_right:
        xyxy = xyxy[:, [2, 1, 0, 3]] * np.array([-1, 1, -1, 1], np.float32) + np.array([width, 0, width, 0], np.float32)
    if up_down:
        xyxy = xyxy[:, [0, 3, 2, 1]] * np.array([1, -1, 1, -1], np.float32) + np.array(
            [0, height, 0, height], np.float32
        )
    if left_right or up_down:  # in place: a twentieth of a millisecond, cheaper than a mirrored resampling
        cv2.flip(image, -1 if left_right and up_down else int(left_right), dst=image)
    return image, xyxy


def _normalized(cls: np.ndarray, xyxy: np.ndarray, shape: tuple[int, int]) -> Labels:
    size = np.array([shape[1], shape[0]], np.float32)
    return Labels(
        cls, np.concatenate(((xyxy[:, :2] + xyxy[:, 2:]) / (2 * size), (xyxy[:, 2:] - xyxy[:, :2]) / size), 1)
    )


def quadrupled(samples: Sequence[tuple[np.ndarray, Labels]], enlarge: bool) -> tuple[np.ndarray, Labels]:
    """Return one image of twice the size, made of four.

    Args:
        samples: Four (H, W, 3) images with labels.
        enlarge: Double the first instead of joining all four in a 2 x 2 grid.

    Returns:
        (2H, 2W, 3) and its labels.
    """
    if enlarge or len(samples) < 4:
        image, labels = samples[0]
        return cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR), Labels(labels.cls, labels.xywhn)
    rows = [np.concatenate((samples[left][0], samples[left + 2][0]), 1) for left in (0, 1)]
    corners = np.array([[0, 0], [0, 0.5], [0.5, 0], [0.5, 0.5]], np.float32)  # down first, then right
    boxes = [
        np.concatenate((labels.xywhn[:, :2] / 2 + corner, labels.xywhn[:, 2:] / 2), 1)
        for (_, labels), corner in zip(samples, corners, strict=False)
    ]
    return np.concatenate(rows, 0), Labels(np.concatenate([labels.cls for _, labels in samples]), np.concatenate(boxes))
