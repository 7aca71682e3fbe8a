"""Kernels that update many tensors in one pass over memory: C on the CPU, Triton on CUDA."""
