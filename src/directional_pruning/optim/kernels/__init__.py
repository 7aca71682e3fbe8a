"""Kernels that update many tensors in one pass over memory: C on the CPU, Triton on CUDA."""

from .launch import SGDOptions, are_wanted, available, can_update, histogram, make_weights, scale_gradients, update

__all__ = [
    "SGDOptions",
    "are_wanted",
    "available",
    "can_update",
    "histogram",
    "make_weights",
    "scale_gradients",
    "update",
]
