"""One step of a layer of PyTorch, in a process of its own where there are several.

``python torch_process.py FOLDER RANK COUNT`` joins COUNT processes by gloo on 127.0.0.1, takes
``job.pickle`` from the folder and leaves ``RANK.pickle`` there. It imports nothing of bnref.
"""

import datetime
import pickle
import sys
from pathlib import Path

__all__ = ["step"]

SECONDS = 60  # a process whose peer is gone gives up after so long


def step(job: dict, rank: int = 0, count: int = 1) -> dict:
    """The outputs of one replica, as a dict of arrays, channels last."""
    import torch

    device = f"cuda:{rank % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"
    x = tensor(job["parts"][rank], device).requires_grad_()
    layer = getattr(torch.nn, job["layer"])(x.shape[1], **job["options"]).to(device)
    if x.dtype == torch.float64:
        layer = layer.double()
    if job["start"] is not None:
        layer.running_mean.copy_(torch.tensor(job["start"][0]))
        layer.running_var.copy_(torch.tensor(job["start"][1]))
    model = looped = torch.nn.Sequential(layer)
    if count > 1:
        looped = torch.nn.parallel.DistributedDataParallel(model)
    if job["switch"] == "layer.eval()":  # once, when the model is made; the loop calls train()
        layer.eval()
    looped.train()
    if job["switch"] == "layer.eval() after every model.train()":
        layer.eval()
    y = looped(x) if job["masks"] is None else layer(x, mask=torch.tensor(job["masks"][rank]))
    if job["dy"] is not None:
        y.backward(tensor(job["dy"][rank], device).to(y.dtype))
    along = None
    if job["direction"] is not None:
        weights, direction = (tensor(job[name][rank], device) for name in ("weights", "direction"))
        loss = (weights * y.tanh()).sum()
        (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
        (along,) = torch.autograd.grad((gradient * direction).sum(), x)
    torch.save(model.state_dict(), path := Path(job["folder"]) / f"model{rank}.pt")
    saved = torch.load(path)
    evaluated = None if job["then"] is None else looped.eval()(tensor(job["then"], device))
    found = {"y": y, "dx": x.grad, "evaluated": evaluated, "along": along}
    kind = job["parts"][rank].dtype  # what comes back as bfloat16 was given so
    return {name: None if v is None else array(v, kind) for name, v in found.items()} | {
        name: saved[f"0.running_{key}"].cpu().numpy()
        for name, key in (("mean", "mean"), ("variance", "var"))
    }


def tensor(values, device):
    """Channels first, as PyTorch has them."""
    import numpy as np
    import torch

    first = np.moveaxis(values, -1, 1).copy()
    if first.dtype.name == "bfloat16":  # which PyTorch does not take from NumPy
        return torch.tensor(first.astype("float32"), device=device).bfloat16()
    return torch.tensor(first, device=device)


def array(values, bfloat16):
    """Channels last; `bfloat16` is NumPy's type for PyTorch's of that name."""
    import numpy as np

    values = values.detach().cpu()
    if str(values.dtype) == "torch.bfloat16":  # which PyTorch does not give to NumPy
        return np.moveaxis(values.float().numpy(), 1, -1).astype(bfloat16)
    return np.moveaxis(values.numpy(), 1, -1)


def main(folder, rank, count):
    """Join the others, step once, and leave the outputs or the error."""
    from torch import distributed

    job = pickle.loads((folder / "job.pickle").read_bytes())
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=count,
        timeout=datetime.timedelta(seconds=SECONDS),
    )  # fmt: skip
    try:
        result = step(job, rank, count)
    except (TypeError, ValueError, RuntimeError) as error:
        result = error
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps(result))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
