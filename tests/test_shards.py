"""Shards are written whole or not at all, and made in several processes."""

import pytest

from py4dstem_ml.shards import is_made, make_shards, written_whole


def test_a_broken_off_file_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), written_whole(tmp_path / "new" / "a.h5") as file:
        file["x"] = [1, 2]
        raise RuntimeError
    assert not list((tmp_path / "new").iterdir())


def test_a_broken_off_file_leaves_the_old_one(tmp_path):
    path = tmp_path / "a.h5"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), written_whole(path):
        raise RuntimeError
    assert path.read_bytes() == b"old"


def test_another_origin_is_refused(tmp_path):
    path = tmp_path / "a.h5"
    with written_whole(path) as file:
        file.attrs.update({"seed": 1, "config": "a"})
    assert is_made(path, {"seed": 1, "config": "a", "table": "said nothing of"})
    assert not is_made(tmp_path / "b.h5", {"seed": 1})
    with pytest.raises(ValueError, match="another seed and config"):
        is_made(path, {"seed": 2, "config": "b"})


@pytest.mark.parametrize("processes", [1, 2])
def test_all_numbers_are_made_in_order(processes):
    assert make_shards(abs, range(-3, 0), processes=processes, progress=False) == [3, 2, 1]
