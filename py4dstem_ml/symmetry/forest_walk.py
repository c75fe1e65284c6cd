"""The walk of samples down the trees of a forest, compiled for the CPU."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

#: Samples that a tree stays in the caches for.
_TOGETHER = 64


@numba.njit(nogil=True)
def walk(
    samples: npt.NDArray[np.float32],
    roots: npt.NDArray[np.int64],
    feature: npt.NDArray[np.int16],
    threshold: npt.NDArray[np.float32],
    child: npt.NDArray[np.int32],
    reached: npt.NDArray[np.int64],
) -> None:
    """Write the row of ``values`` that each sample reaches in each tree, shape (n, trees).

    The arrays are those of a `Forest`.
    """
    n = len(samples)
    for start in range(0, n, _TOGETHER):
        for tree in range(len(roots)):
            for i in range(start, min(start + _TOGETHER, n)):
                node = roots[tree]
                while feature[node] >= 0:
                    right = samples[i, feature[node]] > threshold[node]
                    node = np.int64(child[node]) + np.int64(right)
                reached[i, tree] = child[node]
