"""Question 2: how the statistics of batches become those that are remembered."""

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn
from torch.utils.data import TensorDataset

from pytorch_problems import network as net


def accuracy_of_copy(code, seed):
    """Test accuracy of a new network that was given what a trained one has learned."""
    names = net.executed(code, model=net.trained(seed), other=net.network())
    return net.accuracy(names["other"].eval(), net.test_examples(seed))


def accuracy_of_averaged(code, seed):
    """Test accuracy of the weights averaged over an epoch of 10,000 examples."""
    torch.manual_seed(seed)
    model = net.network()
    optimizer = torch.optim.SGD(model.parameters(), 0.2)

    def train_step(model, x, y):
        optimizer.zero_grad()
        net.loss_of(model, x, y).backward()
        optimizer.step()

    names = net.executed(
        code,
        model=model,
        loader=net.shuffled(net.examples(10000, seed), seed),
        train_step=train_step,
        AveragedModel=AveragedModel,
        update_bn=update_bn,
    )
    return net.accuracy(names["averaged"], net.test_examples(seed))


def error_of_running_mean(code, seed):
    """How far a running mean is from that of the data, in their deviations, over 64 channels.

    As root mean square, after 1,000 batches of 8.
    """
    bn = net.executed(code)["bn"]
    random = torch.Generator().manual_seed(seed)
    for _ in range(1000):
        bn(3 + 2 * torch.randn(8, 64, generator=random))
    return ((bn.running_mean - 3) / 2).square().mean().sqrt().item()


def running_variance(code, seed):
    """The running variance of a norm of momentum 0.01 after 1,000 batches, whose variance is 4."""
    model = nn.Sequential(nn.BatchNorm1d(1, momentum=0.01))
    x = torch.randn(1024, 1, generator=torch.Generator().manual_seed(seed))
    x = 2 * (x - x.mean()) / x.std()
    for _ in range(1000):
        net.executed(code, model=model, x=x, device="cpu")
    return model[0].running_var.item()


def accuracy_after_second_passes(code, seed):
    """Test accuracy of a network that passes unlabelled data of another scale in each step."""
    torch.manual_seed(seed)
    model = net.network()
    unlabelled = 100 * net.examples(50, seed, part=2).tensors[0]

    def second_pass():
        net.executed(code, model=model, unlabelled=unlabelled)

    for epoch in range(5):
        batches = net.shuffled(net.examples(2000, seed), 10 * seed + epoch)
        net.train(model, batches, before_step=second_pass)
    return net.accuracy(model.eval(), net.test_examples(seed))


def share_of_partners_found(code, seed):
    """How many test examples find a partner of their class at inference, in per cent.

    A network encodes examples and their negatives, as a Siamese network does.
    """
    torch.manual_seed(seed)
    network = net.network()
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)

    def similarities(a, b):
        names = net.executed(code, network=network, a=a, b=b)
        one, other = (nn.functional.normalize(names[name]) for name in ("one", "other"))
        return 10 * one @ other.T

    for epoch in range(5):
        for x, y in net.shuffled(net.examples(2000, seed), 10 * seed + epoch):
            same = (y[:, None] == y).float()
            logits = similarities(x, -x)
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits, same / same.sum(1, keepdim=True)).backward()
            optimizer.step()
    network.eval()
    x, y = net.examples(1000, seed, part=1).tensors
    with torch.no_grad():
        nearest = similarities(x[::2], -x[1::2]).argmax(1)
    return 100 * (y[::2] == y[1::2][nearest]).float().mean().item()


def accuracy_after_few_steps(code, seed):
    """Accuracy on the examples of another kind that a trained network was tuned on, in five steps.

    The batches mix the classes, in training and afterwards.
    """
    model = net.trained(seed).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    x, y = net.examples(250, seed).tensors
    loader = list(net.shuffled(TensorDataset(x + 40 * net.SCALES, y), seed))

    def train_step(model, x, y):
        optimizer.zero_grad()
        net.loss_of(model, x, y).backward()
        optimizer.step()

    names = net.executed(
        code, model=model, loader=loader, train_step=train_step, update_bn=update_bn
    )
    return net.accuracy(names["model"], loader)


def gamma_after_an_epoch(code, seed):
    """The mean of γ over all norms after an epoch with a weight decay of 0.05."""
    torch.manual_seed(seed)
    model = net.network()
    optimizer = net.executed(code, model=model, decay=0.05)["optimizer"]
    for x, y in net.shuffled(net.examples(2000, seed), seed):
        optimizer.zero_grad()
        net.loss_of(model, x, y).backward()
        optimizer.step()
    return torch.cat([norm.weight for norm in net.norms(model)]).mean().item()
