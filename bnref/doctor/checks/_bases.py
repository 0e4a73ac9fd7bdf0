"""Models within a model, and what they were called with when it was made."""


def called_with(case, training):
    """The layers that a graph of layers calls with this ``training``, by their paths."""
    return {
        path: layer
        for path, layer in case.layers
        for node in getattr(layer, "_inbound_nodes", ())
        if getattr(getattr(node, "arguments", None), "kwargs", {}).get("training") is training
    }


def within(norms, bases):
    """Those of the norms that are one of these layers, or in one."""
    return [
        norm
        for norm in norms
        if any(
            norm.path.startswith(f"{path}/") or norm.layer is layer for path, layer in bases.items()
        )
    ]
