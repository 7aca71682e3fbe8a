"""Numbers as texts for readers, and the names of the two networks."""

import math

NOT_FINITE, MISSING = "not finite", "–"
NAMES = {"sgd": "dense baseline", "grda": "gRDA"}


def percent(fraction: float, digits: int = 1) -> str:
    r"""A fraction as a percentage that never rounds to 0 or 100 what is neither.

    >>> percent(0.926), percent(0.99996), percent(1.0), percent(0.0)
    ('92.6\xa0%', '99.996\xa0%', '100\xa0%', '0\xa0%')
    """
    if not math.isfinite(fraction):
        return NOT_FINITE
    if fraction in (0.0, 1.0):
        return f"{100 * fraction:.0f}\N{NO-BREAK SPACE}%"
    while digits < 9 and round(100 * fraction, digits) in (0.0, 100.0):
        digits += 1
    return f"{100 * fraction:.{digits}f}\N{NO-BREAK SPACE}%"


def points(difference: float | None) -> str:
    """A difference of two fractions in percentage points, with its sign.

    >>> points(0.0012), points(-0.105), points(-0.00001)
    ('+0.12', '−10.50', '0.00')
    """
    if difference is None:
        return MISSING
    if not math.isfinite(difference):
        return NOT_FINITE
    rounded = round(100 * difference, 2) + 0.0
    return f"{rounded:+.2f}".replace("-", "\N{MINUS SIGN}") if rounded else "0.00"


def size(count: float) -> str:
    r"""Bytes in decimal units.

    >>> size(379_000), size(17_040), size(61_000_000), size(512)
    ('379\xa0kB', '17.0\xa0kB', '61.0\xa0MB', '512\xa0bytes')
    """
    if not math.isfinite(count):
        return NOT_FINITE
    if count < 1000:
        return f"{count:.0f}\N{NO-BREAK SPACE}bytes"
    return _scaled(count, ("kB", "MB", "GB", "TB"))


def amount(count: float, exact: float = 100_000) -> str:
    r"""How many: every digit below ``exact``, three digits and a unit from there on.

    >>> amount(73_728), amount(2_359_296)
    ('73,728', '2.36\xa0M')
    """
    if not math.isfinite(count):
        return NOT_FINITE
    return f"{count:,.0f}" if count < exact else _scaled(count, ("k", "M", "G", "T"))


def duration(seconds: float) -> str:
    r"""Seconds, with minutes or hours when there are many.

    >>> duration(15.2), duration(754), duration(7300)
    ('15.2\xa0s', '12\xa0min\xa034\xa0s', '2\xa0h\xa002\xa0min')
    """
    if not math.isfinite(seconds):
        return NOT_FINITE
    if seconds < 99.95:
        text = f"{seconds:.1f} s"
    elif seconds < 3600:
        text = f"{round(seconds) // 60} min {round(seconds) % 60:02} s"
    else:
        text = f"{round(seconds / 60) // 60} h {round(seconds / 60) % 60:02} min"
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def decimal(value: float, digits: int = 3) -> str:
    """A number to some significant digits, powers of ten written as such.

    >>> decimal(0.13812), decimal(0.1), decimal(3e-05), decimal(1.5e7)
    ('0.138', '0.1', '3×10⁻⁵', '1.5×10⁷')
    """
    if not math.isfinite(value):
        return NOT_FINITE
    if value == 0 or 1e-4 <= abs(value) < 1e5:
        return f"{float(f'{value:.{digits}g}'):g}"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    power = "10" + str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return power if mantissa == "1" else f"{mantissa}×{power}"


def shortened(name: str, longest: int = 24) -> str:
    """A long name without its middle."""
    return name if len(name) <= longest else f"{name[:9]}…{name[10 - longest :]}"


def _scaled(count: float, units: tuple[str, ...]) -> str:
    """``count`` in the first unit of thousands that leaves it below 1000, to three digits."""
    for unit in units:
        count /= 1000
        if count < 999.5 or unit == units[-1]:
            break
    digits = 2 if count < 9.995 else 1 if count < 99.95 else 0
    return f"{count:.{digits}f}\N{NO-BREAK SPACE}{unit}"
