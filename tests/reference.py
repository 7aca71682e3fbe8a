"""The method in NumPy float64, line by line as in the paper: every implementation is tested against it."""

import numpy as np


def grda_recursion(w, gradients, lrs, *, c, mu, momentum=0.0, nesterov=False, weight_decay=0.0, maximize=False):
    """The paper's recursion in NumPy float64; a gradient of None is a step without one. Yields (w, v, g)."""
    w = v = np.asarray(w, dtype=np.float64)
    g, n, buffer = 0.0, 0, None
    for gradient, lr in zip(gradients, lrs, strict=True):
        if gradient is not None:
            d = np.asarray(gradient, dtype=np.float64) * (-1 if maximize else 1) + weight_decay * w
            if momentum:
                buffer = d if buffer is None else momentum * buffer + d
                d = d + momentum * buffer if nesterov else buffer
            if lr:
                n += 1
                v = v - lr * d
                g = g + c * lr ** (0.5 + mu) * (n**mu - (n - 1) ** mu)
                w = np.sign(v) * np.maximum(np.abs(v) - g, 0.0)
        yield w, v, g
