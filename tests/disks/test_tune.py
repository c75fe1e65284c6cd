"""What a search of hyper-parameters is scored on."""

import sys

import pytest
from test_train import TINY, shards, structures  # noqa: F401  (fixtures)

from py4dstem_ml.disks import library, train, tune

CONFIG = train.TrainConfig("unet.compact", batch_size=4, steps=1)


def test_a_search_needs_material_that_is_not_trained_on(shards, tmp_path):  # noqa: F811
    with pytest.raises(FileNotFoundError, match="--part validation"):
        tune.tune(shards, tmp_path, CONFIG)


def test_the_score_is_that_of_the_validation_part(structures, tmp_path):  # noqa: F811
    for part in ("train", "validation"):
        library.simulate(
            structures, tmp_path, shards=3, part=part, config=TINY, progress=False
        )  # fmt: skip
    weights = train.train(tmp_path, tmp_path / "run", CONFIG, device="cpu")
    for path in tmp_path.glob("train-*.h5"):
        path.unlink()
    assert 0.9 < tune.held_out_error(weights, tmp_path, "cpu") < 1.1  # untrained: 1


def test_without_optuna_there_is_a_sentence(structures, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setitem(sys.modules, "optuna", None)
    library.simulate(
        structures, tmp_path, shards=1, part="validation", config=TINY, progress=False
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="py4dstem_ml.tune"):
        tune.tune(tmp_path, tmp_path / "study", CONFIG)
