"""Intervals of a mean over few seeds: Student's t, never 1.96 standard errors."""

import math
from statistics import mean, stdev

# the 97.5% quantile of Student's t for 1, 2, ... 30 degrees of freedom
T975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


def t_interval(values):
    """(mean, half width of the 95% interval of the mean) of independent runs.

    Raises:
        ValueError: for fewer than 2 values, or more than 31.
    """
    if not 2 <= len(values) <= len(T975) + 1:
        raise ValueError(f"an interval needs 2 to {len(T975) + 1} runs, not {len(values)}")
    return mean(values), T975[len(values) - 2] * stdev(values) / math.sqrt(len(values))


def percent(values):
    """`95 ± 2`: mean and half width in per cent, of shares."""
    centre, half = t_interval([100 * value for value in values])
    return f"{centre:.0f} ± {half:.0f}" if half >= 0.5 else f"{centre:.0f} ± {half:.1f}"
