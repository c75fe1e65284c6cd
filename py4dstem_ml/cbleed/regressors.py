"""Regressors as plain arrays: what scikit-learn or XGBoost fitted, without them and without pickle.

Each takes codes (n, d) and returns targets (n, t). Codes are compared as float32.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

if TYPE_CHECKING:
    from sklearn.neighbors import KNeighborsRegressor
    from sklearn.svm import SVR, NuSVR

Floats = npt.NDArray[np.float64]

#: Kernel values computed at once.
_AT_ONCE = 2**24
#: Marks a leaf in ``feature``.
_LEAF = -1


class _Arrays:
    """Stored as its fields, each an array."""

    kind: ClassVar[str]

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the arrays by name."""
        return {
            one.name: torch.from_numpy(np.ascontiguousarray(getattr(self, one.name)))
            for one in fields(self)  # type: ignore[arg-type]
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor]) -> Any:
        """Rebuild from `tensors`.

        Raises
        ------
        ValueError
            If arrays are missing or too many.
        """
        wanted = {one.name for one in fields(cls)}  # type: ignore[arg-type]
        if set(tensors) != wanted:
            raise ValueError(f"{cls.kind} has the arrays {sorted(wanted)}; not {sorted(tensors)}")
        return cls(**{name: tensor.numpy() for name, tensor in tensors.items()})


def _checked(codes: npt.ArrayLike, width: int) -> npt.NDArray[np.float32]:
    found = np.asarray(codes, dtype=np.float32)
    if found.ndim != 2 or found.shape[1] != width:
        raise ValueError(f"the regressor takes codes of {width} numbers; not shape {found.shape}")
    if not np.isfinite(found).all():
        raise ValueError("the codes hold NaN or infinite numbers")
    return found


def squared_distances(one: npt.NDArray, other: npt.NDArray) -> Floats:
    """Return |a - b|^2 of all pairs, shape (n, m)."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    cross = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    return cross.clip(min=0)


@dataclass(frozen=True, eq=False)
class Neighbours(_Arrays):
    """The mean of the nearest codes' targets, weighted by the inverse distance.

    Attributes
    ----------
    codes : ndarray, shape (m, d)
    values : ndarray, shape (m, t)
    count : ndarray of int, shape (1,)
    """

    kind: ClassVar[str] = "neighbours"
    codes: npt.NDArray[np.float32]
    values: Floats
    count: npt.NDArray[np.int64]

    @classmethod
    def from_sklearn(cls, model: KNeighborsRegressor) -> Neighbours:
        """Take over a fitted model with ``weights="distance"`` and the Euclidean metric.

        Raises
        ------
        ValueError
            If it has another metric or other weights.
        """
        if model.weights != "distance" or model.effective_metric_ != "euclidean":
            raise ValueError("neighbours are weighted by their Euclidean distance here")
        codes = np.asarray(model._fit_X, dtype=np.float32)
        values = np.asarray(model._y, dtype=float).reshape(len(codes), -1)
        return cls(codes, values, np.array([model.n_neighbors]))

    def nearest(self, codes: npt.ArrayLike) -> tuple[npt.NDArray[np.int64], Floats]:
        """Return the places and distances of the nearest codes, each (n, count)."""
        given = _checked(codes, self.codes.shape[1])
        count = min(int(self.count[0]), len(self.codes))
        places, distances = [], []
        for part in np.array_split(given, max(1, len(given) * len(self.codes) // _AT_ONCE)):
            squared = squared_distances(part, self.codes)
            near = np.argpartition(squared, count - 1, axis=1)[:, :count]
            # Once more, by differences: the shorter a distance, the more its digits count.
            exact = np.linalg.norm(
                self.codes[near].astype(float) - part[:, None].astype(float), axis=2
            )
            places.append(near)
            distances.append(exact)
        return np.concatenate(places), np.concatenate(distances)

    def predict(self, codes: npt.ArrayLike) -> Floats:
        """Return targets (n, t) of codes (n, d)."""
        places, distances = self.nearest(codes)
        same = distances == 0
        with np.errstate(divide="ignore"):
            weights = np.where(same.any(1, keepdims=True), same, 1 / distances)
        weights = weights / weights.sum(1, keepdims=True)
        return np.einsum("nk,nkt->nt", weights, self.values[places])


@dataclass(frozen=True, eq=False)
class SupportVectors(_Arrays):
    """Support vector regression with Gaussian kernels.

    Attributes
    ----------
    codes : ndarray, shape (m, d)
        All that support one target at least.
    weights : ndarray, shape (m, t)
        Dual coefficients, 0 where a code supports another target only.
    offset, gamma : ndarray, shape (t,)
    """

    kind: ClassVar[str] = "support vectors"
    codes: npt.NDArray[np.float32]
    weights: Floats
    offset: Floats
    gamma: Floats

    @classmethod
    def from_sklearn(
        cls, models: Sequence[SVR | NuSVR], scale: npt.ArrayLike = 1.0, mean: npt.ArrayLike = 0.0
    ) -> SupportVectors:
        """Take over fitted models, one a target, of one set of codes.

        Parameters
        ----------
        models : sequence of SVR or NuSVR
        scale, mean : array_like, shape (t,)
            Targets are what the models say times ``scale``, plus ``mean``.

        Raises
        ------
        ValueError
            If a kernel is not Gaussian.
        """
        if any(model.kernel != "rbf" for model in models):
            raise ValueError("support vectors have Gaussian kernels here, kernel='rbf'")
        used = sorted(set().union(*(model.support_.tolist() for model in models)))
        place = {index: n for n, index in enumerate(used)}
        codes = np.zeros((len(used), models[0].support_vectors_.shape[1]), dtype=np.float32)
        weights = np.zeros((len(used), len(models)))
        for t, model in enumerate(models):
            rows = [place[index] for index in model.support_.tolist()]
            codes[rows] = model.support_vectors_
            weights[rows, t] = model.dual_coef_[0]
        factor = np.broadcast_to(np.asarray(scale, dtype=float), len(models))
        offset = np.array([model.intercept_[0] for model in models]) * factor + mean
        gamma = np.array([model._gamma for model in models], dtype=float)
        return cls(codes, weights * factor, offset, gamma)

    def predict(self, codes: npt.ArrayLike) -> Floats:
        """Return targets (n, t) of codes (n, d)."""
        given = _checked(codes, self.codes.shape[1])
        parts = []
        for part in np.array_split(given, max(1, len(given) * len(self.codes) // _AT_ONCE)):
            squared = squared_distances(part, self.codes)
            found = np.empty((len(part), len(self.gamma)))
            for gamma in np.unique(self.gamma):
                these = self.gamma == gamma
                found[:, these] = np.exp(-gamma * squared) @ self.weights[:, these]
            parts.append(found + self.offset)
        return np.concatenate(parts)


@dataclass(frozen=True, eq=False)
class Trees(_Arrays):
    """Decision trees whose values add up: one tree, a forest's mean, or boosting.

    Attributes
    ----------
    roots, target : ndarray of int, shape (trees,)
        Node of each root; the target that the tree adds to.
    feature : ndarray of int16, shape (nodes,)
        What a node asks for; -1 in a leaf.
    threshold : ndarray of float32, shape (nodes,)
        Left where the code's number is not greater.
    left, right : ndarray of int32, shape (nodes,)
    value : ndarray of float32, shape (nodes,)
    base : ndarray, shape (t,)
    width : ndarray of int, shape (1,)
        Numbers of a code.
    """

    kind: ClassVar[str] = "trees"
    roots: npt.NDArray[np.int64]
    target: npt.NDArray[np.int64]
    feature: npt.NDArray[np.int16]
    threshold: npt.NDArray[np.float32]
    left: npt.NDArray[np.int32]
    right: npt.NDArray[np.int32]
    value: npt.NDArray[np.float32]
    base: Floats
    width: npt.NDArray[np.int64]

    @classmethod
    def from_sklearn(cls, models: Sequence[Any]) -> Trees:
        """Take over fitted models, one a target.

        Parameters
        ----------
        models : sequence
            DecisionTreeRegressor, ExtraTreesRegressor, RandomForestRegressor or
            HistGradientBoostingRegressor.
        """
        trees, base = [], []
        for t, model in enumerate(models):
            if hasattr(model, "_predictors"):  # boosting; nothing public gives its nodes
                base.append(float(np.ravel(model._baseline_prediction)[0]))
                trees += [(t, *_boosted(stage[0].nodes)) for stage in model._predictors]
                continue
            members = getattr(model, "estimators_", [model])
            base.append(0.0)
            trees += [(t, *_grown(member.tree_, len(members))) for member in members]
        return cls._joined(trees, np.array(base), int(models[0].n_features_in_))

    @classmethod
    def from_xgboost(cls, boosters: Sequence[Any], width: int) -> Trees:
        """Take over fitted boosters of XGBoost, one a target, of codes of ``width`` numbers."""
        trees, base = [], []
        for t, booster in enumerate(boosters):
            said = json.loads(booster.save_config())["learner"]["learner_model_param"]
            base.append(float(str(said["base_score"]).strip("[]")))
            trees += [
                (t, *_dumped(json.loads(text))) for text in booster.get_dump(dump_format="json")
            ]
        return cls._joined(trees, np.array(base), width)

    @classmethod
    def _joined(cls, trees: Sequence[tuple], base: Floats, width: int) -> Trees:
        sizes = [len(tree[1]) for tree in trees]
        roots = np.cumsum([0, *sizes[:-1]])
        feature, threshold, left, right, value = (
            np.concatenate([tree[column] for tree in trees]) for column in range(1, 6)
        )
        start = np.repeat(roots, sizes)
        # For a float32 x, x <= t is x <= the largest float32 not above t.
        below = threshold.astype(np.float32)
        below = np.where(below > threshold, np.nextafter(below, np.float32(-np.inf)), below)
        return cls(
            roots, np.array([tree[0] for tree in trees]), feature.astype(np.int16), below,
            (left + start).astype(np.int32), (right + start).astype(np.int32),
            value.astype(np.float32), base, np.array([width]),
        )  # fmt: skip

    def predict(self, codes: npt.ArrayLike) -> Floats:
        """Return targets (n, t) of codes (n, d)."""
        given = _checked(codes, int(self.width[0]))
        node = np.tile(self.roots, (len(given), 1))
        rows = np.arange(len(given))[:, None]
        while True:
            feature = self.feature[node]
            inner = feature != _LEAF
            if not inner.any():
                break
            goes_left = given[rows, feature] <= self.threshold[node]
            below = np.where(goes_left, self.left[node], self.right[node])
            node = np.where(inner, below, node)
        values = self.value[node].astype(float)
        found = np.tile(self.base, (len(given), 1))
        for t in range(len(self.base)):
            found[:, t] += values[:, self.target == t].sum(1)
        return found


def _grown(tree: Any, members: int) -> tuple:
    """Arrays of a tree of scikit-learn that is one of so many in a mean."""
    inner = tree.children_left >= 0
    return (
        np.where(inner, tree.feature, _LEAF), np.where(inner, tree.threshold, 0.0),
        np.where(inner, tree.children_left, 0), np.where(inner, tree.children_right, 0),
        np.where(inner, 0.0, tree.value[:, 0, 0] / members),
    )  # fmt: skip


def _boosted(nodes: npt.NDArray) -> tuple:
    """Arrays of a tree of scikit-learn's histogram boosting."""
    leaf = nodes["is_leaf"].astype(bool)
    return (
        np.where(leaf, _LEAF, nodes["feature_idx"].astype(int)),
        np.where(leaf, 0.0, nodes["num_threshold"]),
        np.where(leaf, 0, nodes["left"].astype(int)),
        np.where(leaf, 0, nodes["right"].astype(int)),
        np.where(leaf, nodes["value"], 0.0),
    )


def _dumped(root: dict[str, Any]) -> tuple:
    """Arrays of a tree that XGBoost wrote as JSON."""
    nodes, waiting = {}, [root]
    while waiting:
        node = waiting.pop()
        nodes[node["nodeid"]] = node
        waiting += node.get("children", [])
    places = {number: n for n, number in enumerate(sorted(nodes))}
    rows = []
    for number in sorted(nodes):
        node = nodes[number]
        if "leaf" in node:
            rows.append((_LEAF, 0.0, 0, 0, node["leaf"]))
            continue
        # There x < t goes to "yes": for float32 numbers, x <= the one below t.
        below = np.nextafter(np.float32(node["split_condition"]), np.float32(-np.inf))
        column = int(str(node["split"]).removeprefix("f"))
        rows.append((column, below, places[node["yes"]], places[node["no"]], 0.0))
    return tuple(np.array(column) for column in zip(*rows, strict=True))


KINDS = {one.kind: one for one in (Neighbours, SupportVectors, Trees)}
Regressor = Neighbours | SupportVectors | Trees
