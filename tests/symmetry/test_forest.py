"""Flat forests vote as scikit-learn's do, tree by tree."""

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from py4dstem_ml.symmetry.forest import Forest, _probabilities


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(800, 30)).astype(np.float32)
    x[:, 3] = np.round(x[:, 3], 1)  # ties with thresholds
    label = np.array(["cubic", "hexagonal", "tetragonal"])[
        (x[:, 0] + x[:, 3] > 0).astype(int) + (x[:, 1] * x[:, 2] > 0.2)
    ]
    return x, label, rng.normal(size=(500, 30)).astype(np.float32)


@pytest.fixture(scope="module")
def classifier(data):
    return RandomForestClassifier(25, max_depth=9, random_state=1).fit(*data[:2])


def test_votes_are_scikit_learns(data, classifier):
    forest, unseen = Forest.from_sklearn(classifier), np.concatenate([data[2], data[0]])
    by_tree = np.array([tree.predict(unseen) for tree in classifier.estimators_]).astype(int)
    expected = (by_tree.T[:, :, None] == np.arange(3)).sum(1)
    np.testing.assert_array_equal(forest.votes(unseen), expected)
    assert forest.classes == ("cubic", "hexagonal", "tetragonal")


def test_probabilities_are_scikit_learns(data, classifier):
    forest = Forest.from_sklearn(classifier)
    found = forest.probabilities(data[2])
    np.testing.assert_allclose(found, classifier.predict_proba(data[2]), atol=2e-3)  # uint8


def test_a_regressors_trees_are_scikit_learns(data):
    x, _, unseen = data
    model = RandomForestRegressor(12, random_state=2).fit(x, x[:, :3] * [1, 10, 100])
    expected = np.stack([tree.predict(unseen) for tree in model.estimators_], axis=1)
    found = Forest.from_sklearn(model).predictions(unseen)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_a_single_leaf_is_a_tree_too():
    x = np.zeros((4, 2), np.float32)
    model = RandomForestClassifier(3, random_state=0).fit(x, [1, 1, 1, 1])
    np.testing.assert_array_equal(Forest.from_sklearn(model).votes(x), np.full((4, 1), 3))


@pytest.mark.parametrize("n", [29, 31])
def test_another_number_of_features_is_refused(data, classifier, n):
    with pytest.raises(ValueError, match="takes 30 features"):
        Forest.from_sklearn(classifier).votes(np.zeros((2, n)))


def test_features_that_are_not_numbers_are_refused(data, classifier):
    x = data[2].copy()
    x[3, 4] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        Forest.from_sklearn(classifier).probabilities(x)


def test_a_gpus_walk_ends_in_the_same_leaves(data, classifier):
    forest = Forest.from_sklearn(classifier)
    samples = torch.from_numpy(data[2])
    torch.testing.assert_close(forest._walk_together(samples), forest.leaves(samples))
    torch.testing.assert_close(forest.leaves(samples[:3]), forest.leaves(samples)[:3])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_votes_on_a_gpu(data, classifier):
    forest = Forest.from_sklearn(classifier)
    there = Forest.from_tensors(forest.tensors(), forest.n_features, forest.classes, "cuda")
    torch.testing.assert_close(there.votes(data[2]).cpu(), forest.votes(data[2]))


def test_joined_forests_vote_together(data):
    x, label, unseen = data
    parts = [label != "tetragonal", label != "cubic"]
    models = [
        RandomForestClassifier(6, random_state=i).fit(x[p], label[p]) for i, p in enumerate(parts)
    ]
    forest = Forest.joined([Forest.from_sklearn(model) for model in models])
    assert forest.classes == ("cubic", "hexagonal", "tetragonal") and len(forest) == 12
    expected = np.zeros((len(unseen), 3), int)
    for model in models:
        votes = Forest.from_sklearn(model).votes(unseen).numpy()
        expected[:, [forest.classes.index(name) for name in model.classes_]] += votes
    np.testing.assert_array_equal(forest.votes(unseen), expected)
    again = Forest.from_tensors(forest.tensors(), forest.n_features, forest.classes)
    torch.testing.assert_close(again.votes(unseen), forest.votes(unseen))


@pytest.mark.parametrize("model", ["classifier", "regressor"])
def test_rebuilt_from_its_tensors(data, classifier, model):
    if model == "regressor":
        x = data[0]
        classifier = RandomForestRegressor(7, random_state=2).fit(x, x[:, :3])
    forest = Forest.from_sklearn(classifier)
    again = Forest.from_tensors(forest.tensors(), forest.n_features, forest.classes)
    for name in ("roots", "feature", "threshold", "child", "values"):
        torch.testing.assert_close(getattr(again, name), getattr(forest, name), rtol=0, atol=0)


def test_other_tensors_are_refused(classifier):
    tensors = Forest.from_sklearn(classifier).tensors()
    with pytest.raises(ValueError, match="has the arrays"):
        Forest.from_tensors({"something": torch.zeros(1)}, 30)
    with pytest.raises(ValueError, match="do not fit"):
        Forest.from_tensors({**tensors, "threshold": tensors["threshold"][:-1]}, 30)


@pytest.mark.parametrize("wrong", [30, -2])
def test_nodes_that_ask_for_what_is_not_there_are_refused(classifier, wrong):
    tensors = Forest.from_sklearn(classifier).tensors()
    tensors["feature"][0] = wrong
    with pytest.raises(ValueError, match="not those of binary trees"):
        Forest.from_tensors(tensors, 30)


def test_trees_of_other_sizes_are_refused(classifier):
    tensors = Forest.from_sklearn(classifier).tensors()
    tensors["roots"][1] += 1
    with pytest.raises(ValueError, match="not those of binary trees"):
        Forest.from_tensors(tensors, 30)


def test_rounding_keeps_the_winner():
    counts = np.array([[9999.0, 10000.0, 0.0], [3.0, 2.0, 2.0], [5.0, 5.0, 0.0]])
    np.testing.assert_array_equal(_probabilities(counts).argmax(1), [1, 0, 0])
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 3, (500, 60)) + rng.random((500, 60)) / 10
    np.testing.assert_array_equal(_probabilities(counts).argmax(1), counts.argmax(1))
