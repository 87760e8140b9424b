"""The one thread in which networks run: images of concurrent requests as batches, other work between them."""

import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from utils.class_choice import class_ids
from utils.config import PredictOptions
from utils.datasets.letterboxing import letterbox
from utils.device import Timer
from utils.engine.predictor import Predictor
from utils.nms import non_max_suppression
from utils.runtimes.network import give_thresholds
from utils.serve.uploads import UploadError
from utils.types import Detections, Letterbox, Speeds


@dataclass(frozen=True)
class Answer:
    """What a network found in one image.

    Attributes:
        detections: In pixels of the image, by falling confidence.
        shape: (height, width) of the network's input.
        times: Milliseconds per image.
        batch: Number of images that ran together.
    """

    detections: Detections
    shape: tuple[int, int]
    times: Speeds
    batch: int


@dataclass
class _Job:
    work: Callable[[], Any] | None = None
    predictor: Predictor | None = None
    canvas: np.ndarray | None = None
    placed: Letterbox | None = None
    options: PredictOptions = field(default_factory=PredictOptions)
    milliseconds: float = 0.0
    future: Future = field(default_factory=Future)

    @property
    def key(self) -> tuple:
        """Return what images must share to run together."""
        assert self.canvas is not None
        options = self.options
        return (id(self.predictor), self.canvas.shape, options.augment, options.conf_thres, options.iou_thres)


class NetworkWorker:
    """Runs networks in a thread of its own. Start it with `with`.

    Args:
        batch_size: Most images of one batch.
        wait_s: Seconds that an image waits for others.
        most_waiting: Most jobs that wait; more are refused.
    """

    def __init__(self, batch_size: int = 8, wait_s: float = 0.005, most_waiting: int = 64):
        self._batch_size, self._wait_s = batch_size, wait_s
        self._jobs: queue.Queue[_Job | None] = queue.Queue(most_waiting)
        self._networks = ThreadPoolExecutor(1, "networks")  # one thread, and what it raises is kept for who asked
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)

    def __enter__(self) -> "NetworkWorker":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._jobs.put(None)
        self._thread.join(timeout=30)
        self._networks.shutdown()

    def detect(self, predictor: Predictor, image: np.ndarray, options: PredictOptions) -> "Future[Answer]":
        """Return the future answer for one image; the letterbox is made in the caller's thread.

        Args:
            predictor: The network.
            image: (H, W, 3) uint8 RGB.
            options: Image size, thresholds and classes.

        Returns:
            A future of `Answer`.

        Raises:
            UploadError: If too many wait (503).
            ConfigError: If the network takes another image size.
        """
        started = time.perf_counter()
        shape = predictor.input_shape(options.imgsz)
        canvas, placed = letterbox(image, shape, auto=not predictor.fixed_shape, stride=predictor.stride)
        spent = (time.perf_counter() - started) * 1000
        return self._enqueue(_Job(None, predictor, canvas, placed, options, spent))

    def call(self, work: Callable[[], Any]) -> Future:
        """Return the future result of a function that is called in the thread, between batches.

        Raises:
            UploadError: If too many wait (503).
        """
        return self._enqueue(_Job(work))

    def _enqueue(self, job: _Job) -> Future:
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            raise UploadError("too many requests wait: try again in a few seconds", 503) from None
        return job.future

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            jobs, is_last = self._joined(job)
            groups: dict[tuple, list[_Job]] = defaultdict(list)
            for each in jobs:
                if not each.future.set_running_or_notify_cancel():
                    continue  # whoever asked is gone
                if each.work is not None:
                    _settle([each], self._networks.submit(_call, [each]))
                else:
                    groups[each.key].append(each)
            for group in groups.values():
                _settle(group, self._networks.submit(_detect_batch, group))
            if is_last:
                return

    def _joined(self, first: _Job) -> tuple[list[_Job], bool]:
        """Return the jobs that run now, and whether the worker ends after them."""
        jobs, until = [first], time.monotonic() + self._wait_s
        while len(jobs) < self._batch_size and first.work is None:
            try:
                job = self._jobs.get(timeout=max(until - time.monotonic(), 0))
            except queue.Empty:
                break
            if job is None:
                return jobs, True
            jobs.append(job)
        return jobs, False


def _settle(jobs: Sequence[_Job], run: "Future[Sequence[Any]]") -> None:
    """Give each job its result, or all the error: the thread goes on whatever a network raises."""
    error = run.exception()
    for index, job in enumerate(jobs):
        if error is not None:
            job.future.set_exception(error)
        else:
            job.future.set_result(run.result()[index])


def _call(jobs: Sequence[_Job]) -> list[Any]:
    return [job.work() for job in jobs if job.work is not None]


@torch.no_grad()
def _detect_batch(jobs: Sequence[_Job]) -> list[Answer]:
    """Return the answers for images of one shape and network."""
    predictor, options = jobs[0].predictor, jobs[0].options
    assert predictor is not None
    timers = [Timer(predictor.device) for _ in range(3)]
    with timers[0]:
        give_thresholds(predictor.model, options.conf_thres, options.iou_thres)
        images = predictor.tensor(np.stack([job.canvas for job in jobs if job.canvas is not None]))
    with timers[1]:
        decoded, _ = predictor.model(images, augment=options.augment)
    with timers[2]:
        found = [
            non_max_suppression(
                decoded[index : index + 1],
                job.options.conf_thres,
                job.options.iou_thres,
                classes=class_ids(job.options.classes, predictor.names),
                agnostic=job.options.agnostic,
                max_det=job.options.max_det,
            )[0]
            for index, job in enumerate(jobs)
        ]
    pre, inference, nms = (timer.seconds * 1000 / len(jobs) for timer in timers)
    answers = []
    for job, detections in zip(jobs, found, strict=True):
        assert job.placed is not None
        times = Speeds(job.milliseconds + pre, inference, nms)
        answers.append(Answer(detections.to_native(job.placed).cpu(), job.placed.shape, times, len(jobs)))
    return answers
