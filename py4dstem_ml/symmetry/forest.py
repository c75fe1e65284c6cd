"""Random forests as flat arrays: scikit-learn's own votes, without scikit-learn or pickle.

All trees lie in one row of nodes, each level by level, the two children of a node side by side,
so that one number says where both are. On a GPU every sample walks down all trees together.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

#: Marks a leaf in ``feature``.
_LEAF = -1
#: Samples times trees that walk down together on a GPU.
_WALKERS = 2**20
#: Samples that are worth a thread.
_A_THREADS_SHARE = 256
_WALKED = ("roots", "feature", "threshold", "child")
_ARRAYS = (*_WALKED, "values")
#: What is written of them, `child` following from the order of the nodes.
_STORED = ("roots", "feature", "threshold", "values")


@dataclass(frozen=True, eq=False)
class Forest:
    """The trees of a random forest.

    Attributes
    ----------
    roots : torch.Tensor of int, shape (trees,)
        Node of each tree's root.
    feature : torch.Tensor of int16, shape (nodes,)
        What a node asks for; -1 in a leaf.
    threshold : torch.Tensor of float32, shape (nodes,)
        Left where the feature is not greater.
    child : torch.Tensor of int32, shape (nodes,)
        The left child, the right one being the next; in a leaf its row in ``values``.
    values : torch.Tensor, shape (leaves, k)
        Class probabilities in steps of 1/255, uint8, or regressed values, float32.
    n_features : int
    classes : tuple
        Of a classifier; empty for a regressor.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> x = np.arange(20, dtype=np.float32)[:, None]
    >>> model = RandomForestClassifier(5, random_state=0).fit(x, x[:, 0] > 9)
    >>> Forest.from_sklearn(model).votes(x[:1]).tolist()
    [[5, 0]]
    """

    roots: torch.Tensor
    feature: torch.Tensor
    threshold: torch.Tensor
    child: torch.Tensor
    values: torch.Tensor
    n_features: int
    classes: tuple[Any, ...] = ()

    @classmethod
    def from_sklearn(cls, model: RandomForestClassifier | RandomForestRegressor) -> Forest:
        """Take over a fitted forest of scikit-learn.

        Raises
        ------
        ValueError
            If it classifies several things at once, or takes more features than are counted here.
        """
        n_features = int(model.n_features_in_)
        if n_features > np.iinfo(np.int16).max:
            raise ValueError(f"{n_features} features are more than a forest takes here, 32767")
        if model.n_outputs_ > 1 and hasattr(model, "classes_"):
            raise ValueError("a forest that classifies several things at once is not supported")
        classes = tuple(np.asarray(getattr(model, "classes_", ())).tolist())
        trees = [_flat(estimator.tree_, bool(classes)) for estimator in model.estimators_]
        return cls.joined([cls(**tree, n_features=n_features, classes=classes) for tree in trees])

    @classmethod
    def joined(cls, forests: Sequence[Forest]) -> Forest:
        """Return the trees of all: of the same features, each of some of the classes."""
        classes = tuple(sorted(set().union(*(forest.classes for forest in forests))))
        parts: dict[str, list[torch.Tensor]] = {name: [] for name in _ARRAYS}
        nodes = leaves = 0
        for forest in forests:
            is_leaf = forest.feature == _LEAF
            parts["roots"].append(forest.roots + nodes)
            parts["child"].append(
                forest.child + torch.where(is_leaf, leaves, nodes).to(torch.int32)
            )
            parts["feature"].append(forest.feature)
            parts["threshold"].append(forest.threshold)
            parts["values"].append(forest._values_of(classes))
            nodes, leaves = nodes + len(forest.feature), leaves + len(forest.values)
        arrays = {name: torch.cat(some) for name, some in parts.items()}
        return cls(**arrays, n_features=forests[0].n_features, classes=classes)

    def _values_of(self, classes: tuple[Any, ...]) -> torch.Tensor:
        """What leaves hold, in the columns of more classes."""
        if classes == self.classes:
            return self.values
        wide = self.values.new_zeros(len(self.values), len(classes))
        wide[:, [classes.index(name) for name in self.classes]] = self.values
        return wide

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return what `from_tensors` takes: thresholds of inner nodes only, and no child."""
        inner = self.feature != _LEAF
        arrays = {"roots": self.roots, "feature": self.feature, "values": self.values}
        arrays["threshold"] = self.threshold[inner]
        return {name: array.cpu().contiguous() for name, array in arrays.items()}

    @classmethod
    def from_tensors(
        cls,
        tensors: Mapping[str, torch.Tensor],
        n_features: int,
        classes: Sequence[Any] = (),
        device: torch.device | str = "cpu",
    ) -> Forest:
        """Rebuild a forest from its `tensors`.

        Raises
        ------
        ValueError
            If they are not those of a forest.
        """
        if set(tensors) != set(_STORED):
            raise ValueError(f"a forest has the arrays {_STORED}, not {tuple(sorted(tensors))}")
        roots, feature = tensors["roots"], tensors["feature"]
        if not _is_sound(roots, feature, n_features):
            raise ValueError("the nodes are not those of binary trees over these features")
        inner = feature != _LEAF
        if inner.sum() != len(tensors["threshold"]) or (~inner).sum() != len(tensors["values"]):
            raise ValueError("a forest's thresholds and values do not fit its nodes")
        threshold = torch.zeros(len(feature))
        threshold[inner] = tensors["threshold"]
        tree = torch.searchsorted(roots, torch.arange(len(feature)), right=True) - 1
        before = torch.cumsum(inner, 0) - inner.long()  # inner nodes of all trees before a node
        within = before - before[roots][tree]
        # Children come in the order of their parents, in pairs, after the root.
        child = torch.where(inner, roots[tree] + 1 + 2 * within, torch.cumsum(~inner, 0) - 1)
        arrays = {
            "roots": roots, "feature": feature, "threshold": threshold,
            "child": child.to(torch.int32), "values": tensors["values"],
        }  # fmt: skip
        arrays = {name: array.to(device) for name, array in arrays.items()}
        return cls(**arrays, n_features=n_features, classes=tuple(classes))

    def __len__(self) -> int:
        return len(self.roots)

    def leaves(self, x: npt.ArrayLike | torch.Tensor) -> torch.Tensor:
        """Return the row of ``values`` that each sample reaches in each tree, shape (n, trees).

        Parameters
        ----------
        x : array_like, shape (n, features)
            Taken as float32, as scikit-learn does.

        Raises
        ------
        ValueError
            If the features are not as many as the forest knows, or not finite.
        """
        samples = torch.as_tensor(x).to(self.roots.device, torch.float32)
        if samples.ndim != 2 or samples.shape[1] != self.n_features:
            raise ValueError(
                f"the forest takes {self.n_features} features a sample, not an array of shape "
                f"{tuple(samples.shape)}"
            )
        if not bool(torch.isfinite(samples.sum())):  # one pass; NaN and infinities stay in a sum
            raise ValueError("the features hold NaN or infinite numbers")
        if samples.device.type == "cpu":
            return self._walk_compiled(samples)
        parts = samples.split(max(1, _WALKERS // len(self)))
        return torch.cat([self._walk_together(some) for some in parts])

    def _walk_compiled(self, samples: torch.Tensor) -> torch.Tensor:
        """Each of torch's threads takes a share of the samples."""
        from .forest_walk import walk

        x = samples.contiguous().numpy()
        arrays = [getattr(self, name).numpy() for name in _WALKED]
        reached = np.empty((len(x), len(self)), dtype=np.int64)
        threads = min(torch.get_num_threads(), -(-len(x) // _A_THREADS_SHARE))
        if threads <= 1:
            walk(x, *arrays, reached)
            return torch.from_numpy(reached)
        edges = np.linspace(0, len(x), threads + 1).astype(int)
        shares = itertools.starmap(slice, itertools.pairwise(edges.tolist()))
        pool = _pool(os.getpid(), torch.get_num_threads())
        list(pool.map(lambda share: walk(x[share], *arrays, reached[share]), shares))
        return torch.from_numpy(reached)

    def _walk_together(self, samples: torch.Tensor) -> torch.Tensor:
        n = len(samples)
        node = self.roots.repeat(n)
        start = torch.arange(n, device=node.device).repeat_interleave(len(self)) * samples.shape[1]
        flat = samples.reshape(-1)
        walking = torch.arange(len(node), device=node.device)
        while len(walking):
            here = node[walking]
            feature = self.feature[here].long()
            inner = feature != _LEAF
            walking, here, feature = walking[inner], here[inner], feature[inner]
            right = flat[start[walking] + feature] > self.threshold[here]
            node[walking] = self.child[here].long() + right
        return self.child[node].long().reshape(n, len(self))

    def probabilities_and_votes(
        self, x: npt.ArrayLike | torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the trees' mean class probabilities, float32, and how many vote for each class.

        Both of shape (n, classes); the votes are int64.
        """
        leaves = self.leaves(x)
        n, classes = len(leaves), len(self.classes)
        total = torch.zeros(n, classes, device=leaves.device)
        for column in leaves.T:
            total += self.values[column].float()
        chosen = self._winners[leaves]
        counts = torch.zeros(n, classes, dtype=torch.int64, device=leaves.device)
        counts.scatter_add_(1, chosen, torch.ones_like(chosen))
        return total / total.sum(1, keepdim=True), counts

    def votes(self, x: npt.ArrayLike | torch.Tensor) -> torch.Tensor:
        """Return how many trees vote for each class, int64, shape (n, classes)."""
        return self.probabilities_and_votes(x)[1]

    def probabilities(self, x: npt.ArrayLike | torch.Tensor) -> torch.Tensor:
        """Return the mean class probabilities of the trees, float32, shape (n, classes)."""
        return self.probabilities_and_votes(x)[0]

    @cached_property
    def _winners(self) -> torch.Tensor:
        return self.values.float().argmax(1)

    def predictions(self, x: npt.ArrayLike | torch.Tensor) -> torch.Tensor:
        """Return each tree's values, float32, shape (n, trees, k): a regressor's spread."""
        return self.values[self.leaves(x)].float()


@functools.cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads of this process: a forked one has none of its parent's."""
    return ThreadPoolExecutor(threads)


def _is_sound(roots: torch.Tensor, feature: torch.Tensor, n_features: int) -> bool:
    """Whether each tree has a leaf more than inner nodes, which ask for features that there are."""
    ends = torch.cat([roots[1:], torch.tensor([len(feature)])])
    if not (len(roots) and roots[0] == 0 and bool((ends > roots).all())):
        return False
    leaves = torch.cat([torch.zeros(1, dtype=torch.int64), torch.cumsum(feature == _LEAF, 0)])
    of_tree = leaves[ends] - leaves[roots]
    known = bool(((feature >= _LEAF) & (feature < n_features)).all())
    return known and bool((2 * of_tree == ends - roots + 1).all())


def _flat(tree: Any, classifier: bool) -> dict[str, torch.Tensor]:
    """The arrays of one tree of scikit-learn, level by level."""
    left, right = tree.children_left, tree.children_right
    levels, level = [], np.zeros(1, dtype=np.int64)
    while len(level):
        levels.append(level)
        inner = level[left[level] >= 0]
        level = np.column_stack([left[inner], right[inner]]).ravel()
    order = np.concatenate(levels)
    inner = left[order] >= 0
    child = np.empty(len(order), dtype=np.int32)
    # Children come in the order of their parents, in pairs, after the root.
    child[inner] = 1 + 2 * np.arange(inner.sum())
    child[~inner] = np.arange((~inner).sum())
    threshold = tree.threshold[order]
    below = threshold.astype(np.float32)
    # x <= t for a float32 x is x <= the largest float32 not above t.
    below = np.where(below > threshold, np.nextafter(below, np.float32(-np.inf)), below)
    values = tree.value[order[~inner]]
    arrays = {
        "roots": np.zeros(1, dtype=np.int64),
        "feature": np.where(inner, tree.feature[order], _LEAF).astype(np.int16),
        "threshold": np.where(inner, below, 0.0).astype(np.float32),
        "child": child,
        "values": _probabilities(values[:, 0]) if classifier else values[:, :, 0].astype("f4"),
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _probabilities(counts: npt.NDArray) -> npt.NDArray[np.uint8]:
    """Class probabilities of leaves, rounded so that the winner stays the only winner."""
    winner = counts.argmax(1)
    rows = np.arange(len(counts))
    rounded = np.round(255.0 * counts / counts.sum(1, keepdims=True)).astype(np.uint8)
    best = rounded[rows, winner]
    tied = rounded == best[:, None]
    tied[rows, winner] = False
    return rounded - (tied & (best > 0)[:, None])
