"""What the pictures of plot-race and plot-stream have in common."""
import math


def round_step(value):
    """A round number not below `value`: 1, 2 or 5 times a power of ten."""
    power = 10 ** math.floor(math.log10(value))
    return next((step * power for step in (1, 2, 5) if value <= step * power), 10 * power)
