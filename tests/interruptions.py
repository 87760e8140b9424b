"""Trainings that end early, for tests."""

from utils.engine.trainer import Hook


class StopAfter(Hook):
    """Interrupts a training after `epochs` epochs, as Ctrl-C would between two of them."""

    def __init__(self, epochs):
        self.epochs = epochs

    def before_epoch(self, trainer, epoch):
        if epoch == self.epochs:
            raise KeyboardInterrupt
