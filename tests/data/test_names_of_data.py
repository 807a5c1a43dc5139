"""`Dataset.name`: what the user named, else one name for each data set, which can be the name of a folder."""

from __future__ import annotations

import inspect
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.pictures import fill
from hydra.utils import get_method, instantiate
from omegaconf import OmegaConf

from lipbench.commands.suites import CONF
from lipbench.data import Dataset, Split, arrays, folder

FILES = {path.stem: path for path in sorted((CONF / "dataset").glob("*.yaml"))}
# Data sets that need no files.
INSIDE = [name for name in FILES if name.startswith(("digits", "two_"))]


def composed(name: str, /, **options: object) -> Dataset:
    config = OmegaConf.to_container(OmegaConf.load(FILES[name]))
    return instantiate({**config, **options}, _convert_="all")


@pytest.mark.parametrize("name", FILES)
def test_every_data_set_can_be_named(name: str) -> None:
    parameters = inspect.signature(get_method(str(OmegaConf.load(FILES[name])["_target_"]))).parameters
    assert "name" in parameters
    if "name" in OmegaConf.load(FILES[name]):
        assert OmegaConf.load(FILES[name])["name"] is None, "a name that nobody gave"


@pytest.mark.parametrize("name", INSIDE)
def test_the_name_that_was_given_is_kept_and_the_default_is_that_of_the_file(name: str) -> None:
    assert len(INSIDE) >= 6
    assert composed(name).name == name
    assert composed(name, name="mine").name == "mine"


@pytest.mark.parametrize("inlier", range(10))
def test_an_option_is_no_part_of_the_name(inlier: int) -> None:
    dataset = composed("digits_oneclass", inlier=inlier)
    assert (dataset.name, dataset.classes[1]) == ("digits_oneclass", str(inlier))


def test_own_images_are_called_as_their_folder_and_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"cache": str(tmp_path / "held"), "progress": False}
    fill(tmp_path / "oak or yew")
    monkeypatch.chdir(tmp_path / "oak or yew")
    for root in (tmp_path / "oak or yew", f"{tmp_path / 'oak or yew'}{os.sep}", ".", "../oak or yew"):
        assert composed("folder", root=str(root), size=4, **options).name == "oak or yew"
    assert composed("folder", root=".", size=4, name="flowers", **options).name == "flowers"
    pixels = np.random.default_rng(0).integers(0, 256, (20, 4, 4), np.uint8)
    for name in ("cells.v1.2", "cells"):
        np.savez(tmp_path / f"{name}.npz", x_train=pixels, y_train=np.arange(20) % 2)
        assert composed("arrays", path=str(tmp_path / f"{name}.npz"), **options).name == name
    assert composed("arrays", path=str(tmp_path / "cells.npz"), name="blood", **options).name == "blood"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "a\0b"])
def test_a_name_that_no_folder_can_have_is_refused_by_every_loader(tmp_path: Path, name: str) -> None:
    fill(tmp_path / "trees")
    np.savez(tmp_path / "a.npz", x_train=np.full((9, 4, 4), 99, np.uint8), y_train=np.arange(9) % 2)
    split = Split(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.arange(2))
    for load in (
        lambda: folder(tmp_path / "trees", size=4, name=name, cache=tmp_path, progress=False),
        lambda: arrays(tmp_path / "a.npz", name=name, cache=tmp_path, progress=False),
        lambda: Dataset(name, ("0", "1"), split, split, split),
    ):
        with pytest.raises(ValueError, match=r"dataset\.name=.* is no name of a data set"):
            load()
    assert not (tmp_path / "cache").exists()
