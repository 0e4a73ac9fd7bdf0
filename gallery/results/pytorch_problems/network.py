"""What all problems share: examples of ten classes, a network with batch norms, its training."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

CLASSES, FEATURES = 10, 20
OFFSETS = torch.linspace(-20, 20, FEATURES)  # far from mean 0 and variance 1, at which norms start
SCALES = torch.logspace(-1, 1, FEATURES)


def examples(number, seed, *, part=0):
    """Examples of ten classes, as many of each, in the order of their classes.

    The same seed has the same classes; another ``part`` has other examples of them.
    """
    centres = torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(seed))
    random = torch.Generator().manual_seed(1000 + 10 * seed + part)
    labels = torch.arange(number) * CLASSES // number
    x = centres[labels] + 0.7 * torch.randn(number, FEATURES, generator=random)
    return TensorDataset(OFFSETS + SCALES * x, labels)


def executed(code, **names):
    """All names that there are once the code is executed; it knows these, and torch and nn."""
    names |= {"torch": torch, "nn": nn}
    exec(code, names)
    return names


def network(norm=nn.BatchNorm1d):
    """Two hidden layers, each with a norm, which ``norm`` makes for a number of channels."""
    hidden = [nn.Linear(FEATURES, 64), norm(64), nn.ReLU(), nn.Linear(64, 64), norm(64), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Linear(64, CLASSES))


def norms(model):
    """The batch norms of a model."""
    return [each for each in model.modules() if isinstance(each, nn.BatchNorm1d)]


def shuffled(data, seed, batch_size=50):
    """A loader of batches in an order that the seed decides."""
    random = torch.Generator().manual_seed(seed)
    return DataLoader(data, batch_size, shuffle=True, generator=random)


def loss_of(model, x, y):
    """The loss of a batch, by the mode that the model is in."""
    return nn.functional.cross_entropy(model(x), y)


def train(model, batches, rate=0.05, before_step=None):
    """One epoch of SGD, in the mode that the model is in; what is frozen stays.

    ``before_step`` is called before each step, if it is given.
    """
    trainable = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.SGD(trainable, rate)
    for x, y in batches:
        if before_step is not None:
            before_step()
        optimizer.zero_grad()
        loss_of(model, x, y).backward()
        optimizer.step()


def accuracy(model, batches):
    """The share of right answers in per cent, by the mode that the model is in."""
    with torch.no_grad():
        right = torch.cat([model(x).argmax(1) == y for x, y in batches])
    return 100 * right.float().mean().item()


def trained(seed):
    """A network that has learned 2,000 examples, in inference mode."""
    torch.manual_seed(seed)
    model = network()
    for epoch in range(5):
        train(model, shuffled(examples(2000, seed), 10 * seed + epoch))
    return model.eval()


def test_examples(seed):
    """1,000 other examples, in batches of 50, of which each is of one class."""
    return DataLoader(examples(1000, seed, part=1), 50)
