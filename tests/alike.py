"""Whether two arrays could have come from one law: of a framework's own start, and of seedbed's."""

import numpy as np

CHANCE = 1e-9
"""Of arrays of one law, how many are called different."""
SAMPLE = 40_000


def unlike(own, ours):
    """What is different, in words; empty where nothing is.

    Arrays of few values must be equal. Others are compared by the test of Kolmogorov and Smirnov, and by their fourth
    moments, which tell a uniform law from a normal one in some thousand values.
    """
    own, ours = (np.asarray(a, np.float64).ravel() for a in (own, ours))
    if own.shape != ours.shape:
        return f"sizes {own.size} and {ours.size}"
    if not np.isfinite(ours).all():
        return "not finite"
    few = max(len(np.unique(a[:5000])) for a in (own, ours)) <= 3 <= own.size // 3
    if few or np.isin(own, (0, 1)).all():
        return "" if np.array_equal(own, ours) else f"constants {own[:3]} and {ours[:3]}"
    step = max(1, own.size // SAMPLE)
    a, b = np.sort(own[::step]), np.sort(ours[::step])
    if len(a) < 30:
        return ""
    both = np.concatenate([a, b])
    distance = np.abs(np.searchsorted(a, both, "right") - np.searchsorted(b, both, "right")).max() / len(a)
    if distance > np.sqrt(np.log(2 / CHANCE) / len(a)):
        return f"distance {distance:.3f}, deviations {a.std():.4g} and {b.std():.4g}"
    fourth = [float((((x - x.mean()) / x.std()) ** 4).mean()) for x in (a, b)]
    if abs(fourth[0] - fourth[1]) > 8 * np.sqrt(48 / len(a)):
        return f"fourth moments {fourth[0]:.3f} and {fourth[1]:.3f}"
    return ""
