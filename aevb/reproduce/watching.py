"""How far a job is, told from inside the training loop."""

from aevb.reproduce.jobs import Share
from aevb.training import Callback

EVERY = 100
"""Steps from one word to the next."""


class Told(Callback):
    """Tells the share of the steps that are done, times what training is of the whole job."""

    def __init__(self, share: Share, whole: float = 1.0) -> None:
        self.share, self.whole, self.total = share, whole, 1

    def begin(self, done: int, total: int, steps_per_epoch: int) -> None:
        self.total = total

    def step(self, t: int) -> None:
        if t % EVERY == 0:
            self.share(self.whole * t / self.total)
