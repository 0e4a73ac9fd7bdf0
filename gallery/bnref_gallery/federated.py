"""Clients that train one network by turns, each on examples of its own."""

from collections.abc import Sequence

import numpy as np

from bnref import training
from bnref_gallery.datasets import Dataset

__all__ = ["Clients"]


class Clients:
    """Clients of federated training, in one process and with one network that all of them use.

    Client k has the training images k, k + K, k + 2K, … in a fog of its own, and is tested on all
    test images in the same fog: x becomes f + (1 − f) x.

    Parameters
    ----------
    run : bnref.training.Run
        The network and its optimizer, which must keep nothing from step to step, as plain SGD.
    data : Dataset
        Images of brightness 0 to 1 and their classes.
    fogs : sequence of float, 0 ≤ f < 1
        One a client.
    steps, batch_size : int
        Of each client in each round.

    Raises
    ------
    ValueError
        Fewer than two clients, or a fog that is none.
    """

    def __init__(
        self, run: training.Run, data: Dataset, *, fogs: Sequence[float], steps: int = 20,
        batch_size: int = 32,
    ):  # fmt: skip
        if len(fogs) < 2 or not all(0 <= fog < 1 for fog in fogs):
            raise ValueError(f"fogs must be two numbers or more, 0 ≤ fog < 1; received {fogs}")
        self.run, self.steps, self.batch_size = run, steps, batch_size
        count = len(fogs)
        self.images = [fog + (1 - fog) * data.x_train[k::count] for k, fog in enumerate(fogs)]
        self.labels = [data.y_train[k::count] for k in range(count)]
        self.tests, self.test_labels = [fog + (1 - fog) * data.x_test for fog in fogs], data.y_test
        self.begin(0)

    def begin(self, seed: int) -> None:
        """Draw the batches of all clients anew, from a seed."""
        self._batches = [
            training.shuffled_batches(x, y, batch_size=self.batch_size, seed=seed)
            for x, y in zip(self.images, self.labels, strict=True)
        ]

    def train(self, sent: Sequence[list]) -> list[list]:
        """One round: the variables of each client's network, from those that it was sent."""
        ended = []
        for weights, batches in zip(sent, self._batches, strict=True):
            self.run.model.set_weights(weights)
            for _ in range(self.steps):
                self.run.step(*next(batches))
            ended.append(self.run.model.get_weights())
        return ended

    def accuracy(self, variables: Sequence[list]) -> float:
        """Test accuracy, the mean over the clients, each with variables and images of its own."""
        found = []
        for weights, x in zip(variables, self.tests, strict=True):
            self.run.model.set_weights(weights)
            found.append(self.run.evaluate(x, self.test_labels)[1])
        return float(np.mean(found))
