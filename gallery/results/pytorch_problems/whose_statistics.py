"""Question 1: over which values mean and variance are taken."""

import torch
from torch.utils.data import DataLoader, TensorDataset

from pytorch_problems import network as net

MESSAGE = "Expected more than 1 value per channel when training"


def epochs_ended_by_the_last_batch(code, seed):
    """How many of 3 epochs of 97 examples end in the error of a batch of one."""
    torch.manual_seed(seed)
    data = TensorDataset(*net.examples(97, seed).tensors)
    loader = net.executed(code, DataLoader=DataLoader, data=data)["loader"]
    model, errors = net.network(), 0
    for _ in range(3):
        try:
            net.train(model, loader)
        except ValueError as error:
            if MESSAGE not in str(error):
                raise
            errors += 1
    return errors


def largest_mean_of_a_channel(code, seed):
    """The largest mean of a channel that a norm puts out for sequences (N, steps, channels)."""
    random = torch.Generator().manual_seed(seed)
    x = torch.linspace(-5, 5, 8) + torch.randn(64, 12, 8, generator=random)
    y = net.executed(code, x=x)["y"]
    return y.mean((0, 1)).abs().max().item()


def error_of_accumulated_gradient(code, seed):
    """How far the gradient of 8 micro-batches of 8 is from that of the batch of 64.

    In lengths of the latter.
    """
    x, y = next(iter(net.shuffled(net.examples(640, seed), seed, batch_size=64)))

    def gradient(parts):
        torch.manual_seed(seed)
        model = net.network(lambda channels: net.executed(code)["norm"])
        for x_part, y_part in zip(x.chunk(parts), y.chunk(parts), strict=True):
            (net.loss_of(model, x_part, y_part) / parts).backward()
        return torch.cat([each.grad.flatten() for each in model.parameters()])

    whole = gradient(1)
    return ((gradient(8) - whole).norm() / whole.norm()).item()
