"""Question 3: which statistics are used when."""

import torch
from torch import nn
from torch.utils.data import TensorDataset

from pytorch_problems import network as net


def accuracy_class_by_class(code, seed):
    """Test accuracy that a loop reports, where the test examples come class by class."""
    torch.manual_seed(seed)
    names = net.executed(
        code,
        epochs=5,
        model=net.network(),
        train=net.train,
        test=net.accuracy,
        train_loader=net.shuffled(net.examples(2000, seed), seed),
        test_loader=net.test_examples(seed),
    )
    return names["accuracy"]


def move_of_frozen_statistics(code, seed):
    """How far an epoch on new data moves a running mean of the base, in deviations; the largest."""
    base = net.trained(seed)[:-1]
    model = nn.Sequential(base, nn.Linear(64, net.CLASSES))
    before = [norm.running_mean.clone() for norm in net.norms(base)]
    model.train()  # as an epoch of training begins
    net.executed(code, base=base, model=model)
    x, y = net.examples(2000, seed, part=2).tensors
    net.train(model, net.shuffled(TensorDataset(x + net.SCALES, y), seed))
    moves = [
        (norm.running_mean - mean).abs() / norm.running_var.sqrt()
        for norm, mean in zip(net.norms(base), before, strict=True)
    ]
    return max(move.max().item() for move in moves)


def accuracy_of_exported(code, seed):
    """Test accuracy of an exported program, where the test examples come class by class."""
    model, test = net.trained(seed).train(), net.test_examples(seed)
    program = net.executed(code, model=model, x=next(iter(test))[0])["program"]
    return net.accuracy(program.module(), test)


def error_of_folded(code, seed):
    """How far a dense layer with a folded norm is from both, over the largest output."""
    dense, bn, *_ = net.trained(seed)[3:]
    with torch.no_grad():
        bn.running_var *= torch.logspace(-4, 0, 64)  # some small beside ε, as after pruning
    x = torch.randn(100, 64, generator=torch.Generator().manual_seed(seed))
    folded = net.executed(code, dense=dense, bn=bn)["folded"]
    with torch.no_grad():
        expected = bn(dense(x))
        return ((folded(x) - expected).abs().max() / expected.abs().max()).item()
