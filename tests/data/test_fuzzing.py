"""Every loader on mutated files: it loads or refuses them with its own error. benchmarks/fuzzing.py tries thousands."""

import importlib.util
import io
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import runs_on_disk
from helpers.tables import in_the_old_layout
from PIL import Image

import lipbench
from lipbench.data import DataError
from lipbench.data.celeba.reader import DRAWN, read_attribute
from lipbench.data.cifar.jpeg_edition import _pixels
from lipbench.data.own.pictures import BadPicture, Preparation
from lipbench.files import ResultsError
from lipbench.results import read_bounds, read_histories

pytest.importorskip("hypothesis")
pytest.importorskip("onnx")


def _script():
    path = Path(__file__).parents[2] / "benchmarks" / "fuzzing.py"
    spec = importlib.util.spec_from_file_location("fuzzing", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzzing"] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


fuzzing = _script()
fuzzing_loaders = sys.modules[fuzzing.Loader.__module__]


@pytest.mark.filterwarnings("ignore")  # of libraries, about what is strange in a file
@pytest.mark.parametrize("name", list(fuzzing.LOADERS))
def test_mutated_files_are_loaded_or_refused(name):
    outcome = fuzzing.fuzz(fuzzing.LOADERS[name], 12)
    assert not outcome.crashes, "\n".join(outcome.crashes)
    assert outcome.inputs == outcome.accepted + outcome.refused > 6
    assert outcome.refused


# --- what fuzzing and reading found -----------------------------------------------------------------------


def test_a_list_whose_number_is_no_number_of_ascii(tmp_path):
    fuzzing.LOADERS["CelebA, lists"].make(tmp_path)
    path = tmp_path / "list_attr_celeba.txt"
    rest = path.read_text().partition("\n")[2]
    for first in ("²", "9" * 5000, ""):
        path.write_text(f"{first}\n{rest}")
        with pytest.raises(DataError, match="of another version"):
            read_attribute(path, "Smiling", DRAWN)


def test_a_cache_that_is_another_file_of_numpy(tmp_path):
    loader = fuzzing.LOADERS["cache of images"]
    (cache,) = loader.make(tmp_path)
    images = np.load(cache).copy()
    for save in (
        lambda: np.savez(tmp_path / "b.npz", images) or shutil.copy(tmp_path / "b.npz", cache),
        lambda: np.save(cache, np.asfortranarray(images)),
        lambda: np.save(cache, images.astype(object)),
        lambda: cache.write_bytes(pickle.dumps(images)),
        lambda: cache.write_bytes(b""),
    ):
        save()
        with pytest.raises(DataError, match="is damaged"):
            loader.load(tmp_path)


def test_an_archive_that_points_before_its_beginning(tmp_path):
    loader = fuzzing.LOADERS["CelebA, zip"]
    (path,) = loader.make(tmp_path)
    content = bytearray(path.read_bytes())
    end = content.rindex(b"PK\x05\x06")
    content[end + 16 : end + 20] = (2**31).to_bytes(4, "little")  # where its directory begins
    path.write_bytes(content)
    with pytest.raises((DataError, BadPicture)):
        loader.load(tmp_path)


def test_an_image_of_another_format_or_of_gigabytes(tmp_path):
    stream = io.BytesIO()
    Image.new("RGB", (32, 32)).save(stream, "EPS")  # which Pillow gives to ghostscript
    with pytest.raises(DataError, match="of an unknown format"):
        _pixels(stream.getvalue(), "it")
    stream = io.BytesIO()
    Image.new("1", (9000, 9000)).save(stream, "PNG")
    assert len(stream.getvalue()) < 2**17
    with pytest.raises(BadPicture, match=r"9000x9000 pixels: more than"):
        Preparation((8, 8))(stream.getvalue())
    with pytest.raises(DataError, match="9000x9000 pixels: more than"):
        _pixels(stream.getvalue(), "it")


@pytest.mark.parametrize("name", ["../x", "a/b", "a\\b", ""])
def test_a_name_of_a_data_set_leads_nowhere_else(name, tmp_path):
    np.savez(tmp_path / "a.npz", x_train=fuzzing_loaders.PIXELS, y_train=fuzzing_loaders.LABELS)
    with pytest.raises(ValueError, match="is no name of a data set"):
        lipbench.data.arrays(tmp_path / "a.npz", name=name, cache=tmp_path, progress=False)


@pytest.mark.parametrize("labels", [[2**62, 1], [0, 10**9]])
def test_labels_that_would_be_billions_of_classes(labels, tmp_path):
    y = np.array(labels * 6)
    np.savez(tmp_path / "a.npz", x_train=fuzzing_loaders.PIXELS, y_train=y)
    with pytest.raises(DataError, match="labels are the numbers of classes"):
        lipbench.data.arrays(tmp_path / "a.npz", cache=tmp_path, progress=False)


@pytest.mark.parametrize(
    ("old", "new"),
    [("lower", "sideways"), ("l2", "l7"), (",0.", ",-0."), (",0.", ",nan"), ("0,0,0,", "0,zero,0,"), ("index", "idx")],
)
def test_a_table_of_other_values_is_no_table(old, new, tmp_path):
    run = runs_on_disk.make(tmp_path, "net")
    path = in_the_old_layout(run / "bounds" / "certificate.parquet")
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ResultsError, match=r"certificate\.csv"):
        read_bounds(run)


def test_a_history_of_repeated_columns(tmp_path):
    run = runs_on_disk.make(tmp_path, "net")
    (run / "history.csv").write_text("dataset,a\n1,2,3,4\n1,2,3\n")
    with pytest.raises(ResultsError, match=r"history\.csv is damaged"):
        read_histories(run)


def test_an_archive_of_a_version_to_come(tmp_path):
    loader = fuzzing.LOADERS["arrays (npz)"]
    path, _ = loader.make(tmp_path)
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 6] = 122  # the version that its directory needs
    path.write_bytes(content)
    with pytest.raises(DataError, match="is damaged"):
        loader.load(tmp_path)
