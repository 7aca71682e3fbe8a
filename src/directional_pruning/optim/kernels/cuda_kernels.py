"""The two kernels that ``cuda.py`` launches, in Triton's language."""

import torch
import triton
import triton.language as tl

__all__ = ["TYPES", "raise_thresholds", "update"]

TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, None: None}

# The first columns of the table, as in table.h.
_W, _V, _D, _B, _G, _N = (tl.constexpr(i) for i in range(6))


@triton.jit
def _pow(x, exponent):
    """x^exponent in double precision for x >= 0; 0^mu is 0."""
    return tl.exp2(exponent * tl.log2(x))


@triton.jit(do_not_specialize=["rows"])
def raise_thresholds(
    table, thresholds, rows, lr, factor, factor_rest, mu, mu_rest,
    LR_ON_DEVICE: tl.constexpr, COLUMNS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """n += 1 and g += c lr^(1/2 + mu) (n^mu - (n-1)^mu) for each row; ``thresholds`` gets the old and the new g."""
    row = tl.program_id(0) * LANES + tl.arange(0, LANES)
    there = row < rows
    g_at = tl.load(table + row * COLUMNS + _G, mask=there, other=0).to(tl.pointer_type(tl.float64))
    n_at = tl.load(table + row * COLUMNS + _N, mask=there, other=0).to(tl.pointer_type(tl.float32))
    # Doubles again, each from the two floats it came in.
    zero = (row * 0).to(tl.float64)
    exponent = zero + mu + mu_rest
    scale = zero + factor + factor_rest
    n = tl.load(n_at, mask=there, other=0.0)
    if LR_ON_DEVICE:
        rate = tl.load(lr).to(tl.float64)
        scale = scale * _pow(rate, exponent + 0.5)
        # A rate of 0 stops the clock.
        later = n + (rate != 0.0).to(tl.float32)
    else:
        later = n + 1.0
    before = tl.maximum(later - 1.0, 0.0)
    old = tl.load(g_at, mask=there, other=0.0)
    new = old + scale * (_pow(later.to(tl.float64), exponent) - _pow(before.to(tl.float64), exponent))
    tl.store(n_at, later, mask=there)
    tl.store(g_at, new, mask=there)
    tl.store(thresholds + row, old.to(tl.float32), mask=there)
    tl.store(thresholds + rows + row, new.to(tl.float32), mask=there)


@triton.jit
def _cut(v, g, POWER: tl.constexpr):
    """0.0 up to g, beyond it v (1 - (g / |v|)^POWER), or v where POWER is 0. No comparison holds for NaN: it stays."""
    if POWER == 0:
        beyond = v
    elif POWER == 1:
        beyond = v - tl.where(v < -g, -g, tl.where(v > g, g, v))
    else:
        ratio = g / v
        loss = ratio * ratio
        if POWER >= 4:
            loss = loss * loss
        if POWER >= 8:
            loss = loss * loss
        if POWER >= 16:
            loss = loss * loss
        if POWER >= 32:
            loss = loss * loss
        if POWER >= 64:
            loss = loss * loss
        beyond = v * (1.0 - loss)
    return tl.where(tl.abs(v) <= g, 0.0, beyond)


@triton.jit
def _update_block(
    w_at, v_at, d_at, b_at, i, mask, old, new, lr, momentum, weight_decay, of_zeros,
    GRADIENT: tl.constexpr, MOMENTUM: tl.constexpr, NESTEROV: tl.constexpr, DECAY: tl.constexpr, MAXIMIZE: tl.constexpr,
    SCALE_ZEROS: tl.constexpr, POWER: tl.constexpr,
):  # fmt: skip
    v = tl.load(v_at + i, mask=mask)
    if GRADIENT is None:
        moved = tl.load(w_at + i, mask=mask)
        # The difference is taken in the precision of the weights.
        v += (moved - _cut(v, old, POWER).to(moved.dtype)).to(tl.float32)
    else:
        d = tl.load(d_at + i, mask=mask).to(tl.float32)
        if MAXIMIZE:
            d = -d
        if SCALE_ZEROS:
            d = tl.where(tl.abs(v) <= tl.where(old > 0.0, old, -1.0), d * of_zeros, d)
        if DECAY:
            d += weight_decay * tl.load(w_at + i, mask=mask).to(tl.float32)
        if MOMENTUM:
            b = momentum * tl.load(b_at + i, mask=mask) + d
            tl.store(b_at + i, b, mask=mask)
            d = d + momentum * b if NESTEROV else b
        v -= lr * d
    tl.store(v_at + i, v, mask=mask)
    # A survivor too small for half precision rounds to -0.0 or 0.0; adding 0.0 makes both 0.0.
    tl.store(w_at + i, _cut(v, new, POWER).to(w_at.dtype.element_ty) + 0.0, mask=mask)


@triton.jit(do_not_specialize=["rows"])
def update(
    table, thresholds, block_row, block_start, rows, lr, momentum, weight_decay, of_zeros,
    WEIGHT: tl.constexpr, GRADIENT: tl.constexpr, LR_ON_DEVICE: tl.constexpr, MOMENTUM: tl.constexpr,
    NESTEROV: tl.constexpr, DECAY: tl.constexpr, MAXIMIZE: tl.constexpr, SCALE_ZEROS: tl.constexpr, POWER: tl.constexpr,
    COLUMNS: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """v -= lr d, w = S_g(v) for BLOCK elements of one row, with what SGD adds to the gradient."""
    row = tl.load(block_row + tl.program_id(0)).to(tl.int64)
    start = tl.load(block_start + tl.program_id(0))
    old, new = tl.load(thresholds + row), tl.load(thresholds + rows + row)
    if LR_ON_DEVICE:
        lr = tl.load(lr).to(tl.float32)
    entry = table + row * COLUMNS
    size = tl.load(entry + SIZE)
    # Known to be aligned, so that four numbers are moved at a time.
    w_at = tl.multiple_of(tl.load(entry + _W).to(tl.pointer_type(WEIGHT)), 16)
    v_at = tl.multiple_of(tl.load(entry + _V).to(tl.pointer_type(tl.float32)), 16)
    d_at = v_at
    if GRADIENT is not None:
        d_at = tl.multiple_of(tl.load(entry + _D).to(tl.pointer_type(GRADIENT)), 16)
    b_at = tl.multiple_of(tl.load(entry + _B).to(tl.pointer_type(tl.float32)), 16)
    start = tl.multiple_of(start, BLOCK)
    i = start + tl.arange(0, BLOCK)
    if start + BLOCK <= size:
        # All lanes are there: no mask, which would break the wide loads up.
        _update_block(w_at, v_at, d_at, b_at, i, None, old, new, lr, momentum, weight_decay, of_zeros,
                      GRADIENT, MOMENTUM, NESTEROV, DECAY, MAXIMIZE, SCALE_ZEROS, POWER)  # fmt: skip
    else:
        _update_block(w_at, v_at, d_at, b_at, i, i < size, old, new, lr, momentum, weight_decay, of_zeros,
                      GRADIENT, MOMENTUM, NESTEROV, DECAY, MAXIMIZE, SCALE_ZEROS, POWER)  # fmt: skip
