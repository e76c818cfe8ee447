"""How long to wait before another try."""

import random

FIRST_RETRY_S, LONGEST_RETRY_S = 2.0, 300.0


def retry_delay_s(attempt: int) -> float:
    """Return how long to wait after the given attempt (from 1): exponential, bounded, jittered."""
    longest = min(LONGEST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(attempt - 1, 16))
    return round(random.uniform(longest / 2, longest), 2)  # noqa: S311 - spreads load, guards nothing
