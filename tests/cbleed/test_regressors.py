"""Regressors as arrays say what scikit-learn says, and come back from a file as they were."""

import json

import numpy as np
import pytest
from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingRegressor
from sklearn.neighbors import KNeighborsRegressor
from sklearn.svm import SVR, NuSVR
from sklearn.tree import DecisionTreeRegressor

from py4dstem_ml.cbleed.fit import REGRESSORS, FitConfig, fit_regressors
from py4dstem_ml.cbleed.regressors import KINDS, Neighbours, SupportVectors, Trees

RNG = np.random.default_rng(0)
CODES = RNG.normal(size=(300, 5)).astype(np.float32)
TARGETS = np.column_stack([50 + 20 * CODES[:, 0] * CODES[:, 1], 0.1 * np.sin(CODES[:, 2])])
#: Some codes known to the regressors are among them.
ASKED = np.concatenate([RNG.normal(size=(150, 5)).astype(np.float32), CODES[:20]])


def restored(one):
    return KINDS[one.kind].from_tensors(one.tensors())


def test_neighbours_are_scikit_learns():
    model = KNeighborsRegressor(7, weights="distance").fit(CODES, TARGETS)
    found = restored(Neighbours.from_sklearn(model)).predict(ASKED)
    np.testing.assert_allclose(found, model.predict(ASKED), rtol=1e-6)
    np.testing.assert_allclose(found[-20:], TARGETS[:20], rtol=1e-12)
    with pytest.raises(ValueError, match="Euclidean"):
        Neighbours.from_sklearn(KNeighborsRegressor().fit(CODES, TARGETS))


@pytest.mark.parametrize("make", [SVR, NuSVR])
def test_support_vectors_are_scikit_learns(make):
    mean, scale = TARGETS.mean(0), TARGETS.std(0)
    models = [
        make(C=c, gamma=gamma).fit(CODES, column)
        for c, gamma, column in zip(
            (10, 1), (0.2, "scale"), ((TARGETS - mean) / scale).T, strict=True
        )
    ]
    found = restored(SupportVectors.from_sklearn(models, scale, mean))
    wanted = np.column_stack([m.predict(ASKED) for m in models]) * scale + mean
    np.testing.assert_allclose(found.predict(ASKED), wanted, rtol=1e-6, atol=1e-8)
    assert len(found.codes) <= len(CODES)
    with pytest.raises(ValueError, match="Gaussian"):
        SupportVectors.from_sklearn([SVR(kernel="linear").fit(CODES, TARGETS[:, 0])])


@pytest.mark.parametrize(
    "model",
    [
        DecisionTreeRegressor(random_state=0),
        DecisionTreeRegressor(max_depth=1),
        ExtraTreesRegressor(8, min_samples_leaf=2, random_state=0),
        HistGradientBoostingRegressor(max_iter=15),
    ],
    ids=["tree", "stump", "extra", "boosting"],
)
def test_trees_are_scikit_learns(model):
    models = [type(model)(**model.get_params()).fit(CODES, column) for column in TARGETS.T]
    found = restored(Trees.from_sklearn(models)).predict(ASKED)
    wanted = np.column_stack([one.predict(ASKED.astype(np.float64)) for one in models])
    np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=1e-8)


class Booster:
    """XGBoost's own format of a tree: below 0.5 of number 1 then 2 or 3, else 10."""

    def save_config(self):
        return json.dumps({"learner": {"learner_model_param": {"base_score": "[5E-1]"}}})

    def get_dump(self, dump_format):
        assert dump_format == "json"
        inner = {
            "nodeid": 1, "split": "f0", "split_condition": 0.0, "yes": 3, "no": 4, "missing": 3,
            "children": [{"nodeid": 3, "leaf": 2.0}, {"nodeid": 4, "leaf": 3.0}],
        }  # fmt: skip
        root = {
            "nodeid": 0, "split": "f1", "split_condition": 0.5, "yes": 1, "no": 2, "missing": 1,
            "children": [inner, {"nodeid": 2, "leaf": 10.0}],
        }  # fmt: skip
        return [json.dumps(root), json.dumps({"nodeid": 0, "leaf": 0.25})]


def test_trees_of_xgboost():
    found = Trees.from_xgboost([Booster()], 2)
    codes = [[-1, 0.4], [0, 0.4], [5, 0.5], [5, 0.7]]
    np.testing.assert_allclose(found.predict(codes)[:, 0], [2.75, 3.75, 10.75, 10.75])


def test_trees_of_the_real_xgboost():
    xgboost = pytest.importorskip("xgboost")
    booster = xgboost.train({"max_depth": 4}, xgboost.DMatrix(CODES, TARGETS[:, 0]), 12)
    found = Trees.from_xgboost([booster], 5).predict(ASKED)[:, 0]
    np.testing.assert_allclose(found, booster.predict(xgboost.DMatrix(ASKED)), rtol=1e-5)


def test_all_of_them_are_fitted():
    found = fit_regressors(CODES, TARGETS, FitConfig(trees=5), progress=False)
    assert tuple(found) == REGRESSORS
    spread = np.abs(TARGETS - TARGETS.mean(0)).mean(0)
    for name, regressor in found.items():
        assert regressor.predict(CODES).shape == TARGETS.shape
        assert (np.abs(regressor.predict(CODES) - TARGETS).mean(0) < 0.6 * spread).all(), name


def test_other_codes_are_refused():
    one = Neighbours(CODES, TARGETS, np.array([3]))
    with pytest.raises(ValueError, match="5 numbers"):
        one.predict(CODES[:, :3])
    with pytest.raises(ValueError, match="NaN"):
        one.predict(np.full((1, 5), np.nan))
    with pytest.raises(ValueError, match="has the arrays"):
        Neighbours.from_tensors({"codes": one.tensors()["codes"]})


@pytest.mark.parametrize(
    ("options", "message"),
    [({"regressors": ("oracle",)}, "no regressor"), ({"regressors": ()}, "one regressor")],
)
def test_impossible_fits_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FitConfig(**options)
