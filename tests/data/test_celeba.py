"""CelebA's layout, on drawn faces; and every way in which its files arrive broken."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lipbench.commands.main import main
from lipbench.data import DataError, celeba, celeba_drawn
from lipbench.data.celeba import drawn as faces_module
from lipbench.data.celeba.check import check_celeba
from lipbench.data.celeba.drawn import DRAWN_ATTRIBUTES, face, write_faces
from lipbench.data.celeba.face import draw
from lipbench.data.celeba.reader import ATTRIBUTE_FILE, ATTRIBUTES, IMAGES, OFFICIAL, PARTITION_FILE

COUNT = 40


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with forty drawn faces; not to be changed."""
    root = tmp_path_factory.mktemp("drawn")
    write_faces(COUNT, root=root, workers=1, progress=False)
    return root


@pytest.fixture
def official(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root whose folder celeba has the forty faces, taken for the official edition."""
    shutil.copytree(drawn / "celeba_drawn", tmp_path / "celeba")
    fake = replace(OFFICIAL, count=COUNT, md5={})
    monkeypatch.setattr(sys.modules["lipbench.data.celeba.reader"], "OFFICIAL", fake)  # the name is also the function's
    monkeypatch.setattr(check_celeba, "__defaults__", (None, fake, False))
    return tmp_path


def edit(path: Path, change: Callable[[str], str]) -> None:
    path.write_text(change(path.read_text()))


def pack(folder: Path) -> None:
    with zipfile.ZipFile(folder / f"{IMAGES}.zip", "w") as archive:
        for path in sorted((folder / IMAGES).iterdir()):
            archive.write(path, f"{IMAGES}/{path.name}")
    shutil.rmtree(folder / IMAGES)


# --- reading ----------------------------------------------------------------------------------------------


def test_an_attribute_is_a_binary_task_in_the_official_parts(official: Path) -> None:
    dataset = celeba("Smiling", root=official, progress=False)
    assert dataset.name == "celeba_smiling"
    assert dataset.classes == ("no Smiling", "Smiling")
    assert dataset.shape == (3, 64, 64)
    assert [len(part) for part in (dataset.train, dataset.validation, dataset.test)] == [32, 4, 4]
    labels = torch.cat([part.labels for part in (dataset.train, dataset.validation, dataset.test)])
    assert labels.tolist() == [int(face(0, index)[0]["Smiling"]) for index in range(COUNT)]


def test_images_follow_their_names_whatever_the_partition_does_to_their_order(official: Path) -> None:
    path = official / "celeba" / PARTITION_FILE
    names = [line.split()[0] for line in path.read_text().splitlines()]
    path.write_text("".join(f"{name} {index % 3}\n" for index, name in enumerate(names)))
    dataset = celeba("Male", size=(218, 178), crop=None, root=official, progress=False)
    for part, split in enumerate((dataset.train, dataset.validation, dataset.test)):
        for image, label, index in zip(split.images, split.labels, range(part, COUNT, 3), strict=True):
            original = np.asarray(Image.open(official / "celeba" / IMAGES / names[index]))
            assert np.array_equal(image.permute(1, 2, 0).numpy(), original)
            assert bool(label) == face(0, index)[0]["Male"]


def test_attributes_share_one_cache_and_the_zip_gives_the_same_images(official: Path) -> None:
    unpacked = celeba("Smiling", root=official, progress=False)
    celeba("Male", root=official, progress=False)
    assert len(list((official / "cache").iterdir())) == 1
    pack(official / "celeba")
    packed = celeba("Smiling", root=official, progress=False)
    assert torch.equal(packed.train.images, unpacked.train.images)
    assert torch.equal(packed.test.labels, unpacked.test.labels)


def test_the_crop_is_around_the_centre_of_the_aligned_image(official: Path) -> None:
    image = celeba("Male", size=148, root=official, progress=False).train.images[0].permute(1, 2, 0).numpy()
    original = np.asarray(Image.open(official / "celeba" / IMAGES / "000001.jpg"))
    assert np.array_equal(image, original[35 : 35 + 148, 15 : 15 + 148])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"attribute": "eyeglases"},
            r"no attribute 'eyeglases'. Did you mean Eyeglasses\? There are: 5_o_Clock_Shadow",
        ),
        ({"attribute": "Hat"}, r"no attribute 'Hat'"),
        ({"attribute": "Male", "size": 0}, "size is one side"),
        ({"attribute": "Male", "size": 64.5}, "size is one side"),
        ({"attribute": "Male", "size": (64, 64, 3)}, "size is one side"),
        ({"attribute": "Male", "crop": 0}, "crop of at least 1"),
        ({"attribute": "Male", "crop": 200}, "is 178x218 pixels: a crop of 200 does not fit"),
        ({"attribute": "Young"}, "no image has the attribute Young"),
    ],
)
def test_impossible_options_are_refused(official: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        celeba(root=official, progress=False, **options)


# --- broken files: how each is made -> what is said of it -----------------------------------------------------


def no_attributes(folder: Path) -> None:
    (folder / ATTRIBUTE_FILE).unlink()


def no_partition(folder: Path) -> None:
    (folder / PARTITION_FILE).unlink()


def no_images(folder: Path) -> None:
    shutil.rmtree(folder / IMAGES)


def some_images(folder: Path) -> None:
    for number in (5, 7, 8, 9):
        (folder / IMAGES / f"{number:06d}.jpg").unlink()


def some_members(folder: Path) -> None:
    (folder / IMAGES / "000005.jpg").unlink()
    pack(folder)


def quota_page(folder: Path) -> None:
    shutil.rmtree(folder / IMAGES)
    (folder / f"{IMAGES}.zip").write_text("<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title>")


def quota_page_for_a_list(folder: Path) -> None:
    (folder / ATTRIBUTE_FILE).write_text("<!DOCTYPE html><html>")


def quota_page_for_the_parts(folder: Path) -> None:
    (folder / PARTITION_FILE).write_text("\ufeff\n<html><head><title>Google Drive - Quota exceeded</title>")


def truncated_zip(folder: Path) -> None:
    pack(folder)
    path = folder / f"{IMAGES}.zip"
    os.truncate(path, path.stat().st_size // 2)


def no_zip(folder: Path) -> None:
    shutil.rmtree(folder / IMAGES)
    (folder / f"{IMAGES}.zip").write_bytes(b"7z\xbc\xaf")


def commas(folder: Path) -> None:
    edit(folder / ATTRIBUTE_FILE, lambda text: text.split("\n", 1)[1].replace(" ", ","))


def fewer_attributes(folder: Path) -> None:
    edit(folder / ATTRIBUTE_FILE, lambda text: text.replace(" Young", ""))


def other_order(folder: Path) -> None:
    edit(folder / ATTRIBUTE_FILE, lambda text: text.replace("Bald Bangs", "Bangs Bald"))


def other_count(folder: Path) -> None:
    edit(folder / ATTRIBUTE_FILE, lambda text: text[: text.rindex("000040")])


def other_edition(folder: Path) -> None:
    edit(folder / ATTRIBUTE_FILE, lambda text: text.replace("40", "39", 1)[: text.rindex("000040")])


def odd_value(folder: Path) -> None:
    edit(folder / ATTRIBUTE_FILE, lambda text: text.replace(" 1", " 0", 1))


def other_names(folder: Path) -> None:
    edit(folder / PARTITION_FILE, lambda text: text.replace("000003.jpg", "000303.jpg"))


def odd_part(folder: Path) -> None:
    edit(folder / PARTITION_FILE, lambda text: text.replace("000003.jpg 0", "000003.jpg 3"))


def wrong_sizes(folder: Path) -> None:
    for number in (2, 3):
        Image.new("RGB", (178, 200)).save(folder / IMAGES / f"{number:06d}.jpg")


def half_an_image(folder: Path) -> None:
    path = folder / IMAGES / "000004.jpg"
    os.truncate(path, path.stat().st_size // 2)


def pages_for_images(folder: Path) -> None:
    (folder / IMAGES / "000004.jpg").write_text("<html>")


BROKEN = {
    no_attributes: rf"There is no .*{ATTRIBUTE_FILE}.*make data DATA=celeba",
    no_partition: rf"There is no .*{PARTITION_FILE}.*make data DATA=celeba",
    no_images: rf"neither .*{IMAGES} nor {IMAGES}\.zip next to it.*make data DATA=celeba",
    some_images: r"lacks 4 of 40 images: 000005\.jpg, 000007\.jpg, 000008\.jpg, …",
    some_members: rf"{IMAGES}\.zip lacks 1 of 40 images: {IMAGES}/000005\.jpg",
    quota_page: r"is a web page \(HTML\): Google Drive sends one .*quota is used up\. Delete it",
    quota_page_for_a_list: r"is a web page .*The list is a text file: delete",
    quota_page_for_the_parts: rf"{PARTITION_FILE} is a web page .*The list is a text file: delete",
    truncated_zip: r"is truncated after [\d,]+ bytes\. Delete it",
    no_zip: r"is no zip archive\. Delete it",
    commas: r"is a table with commas, as other sites pass it on",
    fewer_attributes: r"of another version: its second line lacks 1 attributes, Young\.",
    other_order: r"of another version: the official list begins with",
    other_count: r"lists 39 images; its first line says 40, the official edition has 40",
    other_edition: r"lists 39 images; its first line says 39, the official edition has 40",
    odd_value: r"line 3, is not a name and 40 times 1 or -1: '000001",
    other_names: r"list different images: they are of different versions",
    odd_part: r"line 3, is not a name and 0, 1 or 2",
    wrong_sizes: r"2 of 40 images cannot be used: 000002\.jpg is 178x200 pixels, not 178x218; 000003",
    half_an_image: r"1 of 40 images cannot be used: 000004\.jpg cannot be decoded \(.*truncated",
    pages_for_images: r"1 of 40 images cannot be used: 000004\.jpg is a web page",
}
# Headers are all that the check reads.
UNSEEN = (half_an_image,)


@pytest.mark.parametrize("breaks", BROKEN, ids=lambda breaks: breaks.__name__)
def test_a_broken_file_is_named_by_the_loader_and_by_the_check(
    official: Path, breaks: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    breaks(official / "celeba")
    with pytest.raises((DataError, FileNotFoundError), match=BROKEN[breaks]):
        celeba("Smiling", root=official, progress=False)
    assert not list(official.glob("cache/*"))
    if breaks in UNSEEN:
        return
    assert main(["data", "celeba", "--root", str(official)]) == 1
    output = capsys.readouterr()
    assert output.err == f"CelebA is not complete in {official / 'celeba'}.\n"
    assert ("MISSING" in output.out) == (breaks in (no_attributes, no_partition, no_images, some_images, some_members))
    assert ("BROKEN" in output.out) or ("MISSING" in output.out)


def test_the_check_explains_how_to_get_it_and_finds_all_in_order(
    official: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "celeba", "--root", str(official)]) == 0
    assert capsys.readouterr().out.count("in order") == 3
    pack(official / "celeba")
    assert main(["data", "celeba", "--root", str(official)]) == 0
    assert main(["data", "celeba", "--root", str(official / "nowhere")]) == 1
    output = capsys.readouterr().out
    assert output.count("MISSING") == 3
    assert "mmlab.ie.cuhk.edu.hk" in output
    assert "forbids passing it on" in output
    assert str(official / "nowhere" / "celeba") in output


def test_a_list_that_differs_from_the_official_one_in_one_letter_is_refused(
    official: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = official / "celeba" / ATTRIBUTE_FILE
    digest = hashlib.md5(path.read_bytes()).hexdigest()
    known = replace(OFFICIAL, count=COUNT, md5={path.name: digest})
    monkeypatch.setattr(sys.modules["lipbench.data.celeba.reader"], "OFFICIAL", known)
    celeba("Smiling", root=official, progress=False)
    edit(path, lambda text: text.replace("-1", " 1", 1))
    with pytest.raises(DataError, match=f"of another version: its md5 sum is .* instead of {digest}"):
        celeba("Smiling", root=official, progress=False)


def test_the_official_edition_is_the_published_one() -> None:
    assert len(ATTRIBUTES) == 40
    assert list(ATTRIBUTES) == sorted(ATTRIBUTES)
    assert OFFICIAL.count == 202_599
    assert set(OFFICIAL.md5) == {f"{IMAGES}.zip", ATTRIBUTE_FILE, PARTITION_FILE}


# --- drawn faces ------------------------------------------------------------------------------------------


def test_drawn_faces_have_celebas_layout_and_say_that_they_are_drawn(drawn: Path) -> None:
    folder = drawn / "celeba_drawn"
    assert sorted(os.listdir(folder)) == ["README.txt", IMAGES, ATTRIBUTE_FILE, PARTITION_FILE]
    assert "no photographs and show no persons" in (folder / "README.txt").read_text()
    images = sorted(os.listdir(folder / IMAGES))
    assert images == [f"{number:06d}.jpg" for number in range(1, COUNT + 1)]
    with Image.open(folder / IMAGES / images[0]) as image:
        assert (image.format, image.size, image.mode) == ("JPEG", (178, 218), "RGB")
    lines = (folder / ATTRIBUTE_FILE).read_text().splitlines()
    assert lines[:2] == [str(COUNT), " ".join(ATTRIBUTES)]
    assert {len(line.split()) for line in lines[2:]} == {41}
    dataset = celeba_drawn("Smiling", root=drawn, progress=False)
    assert dataset.name == "celeba_drawn_smiling"


def test_a_face_depends_on_its_seed_and_number_alone(drawn: Path, tmp_path: Path) -> None:
    write_faces(12, root=tmp_path, workers=2, progress=False)
    name = "000011.jpg"
    images = [root / "celeba_drawn" / IMAGES / name for root in (drawn, tmp_path)]
    assert images[0].read_bytes() == images[1].read_bytes()
    assert np.asarray(draw(*face(1, 10))).tobytes() != np.asarray(draw(*face(0, 10))).tobytes()


def test_frequencies_are_natural_and_what_is_not_drawn_is_never_claimed() -> None:
    has = [face(0, index)[0] for index in range(6000)]
    shares = {name: np.mean([one[name] for one in has]) for name in ATTRIBUTES}
    assert shares["Mustache"] == pytest.approx(0.042, abs=0.01)
    assert shares["Eyeglasses"] == pytest.approx(0.065, abs=0.01)
    assert shares["Smiling"] == pytest.approx(0.48, abs=0.03)
    assert shares["Bald"] == pytest.approx(0.022, abs=0.007)
    assert {name for name in ATTRIBUTES if shares[name] > 0} == set(DRAWN_ATTRIBUTES)
    assert all(one["Male"] for one in has if one["Mustache"] or one["Bald"])


@pytest.mark.parametrize(
    ("attribute", "rows", "columns"),
    [
        ("Eyeglasses", slice(85, 140), slice(30, 150)),
        ("Mustache", slice(130, 170), slice(50, 125)),
        ("Smiling", slice(125, 185), slice(45, 135)),
        ("Bald", slice(20, 130), slice(20, 160)),
        ("Bangs", slice(50, 120), slice(30, 150)),
        ("Wearing_Hat", slice(0, 105), slice(0, 178)),
    ],
)
def test_a_drawn_attribute_is_seen_where_it_belongs_and_nowhere_else(
    attribute: str, rows: slice, columns: slice
) -> None:
    for index in range(8):
        pictures = []
        for value in (False, True):
            has, random = face(5, index)
            others = dict.fromkeys(("Wearing_Hat", "Bald", "Blurry", "Mustache"), False)
            has |= {**others, "Male": True, attribute: value}
            pictures.append(np.asarray(draw(has, random), float).mean(2))
        change = abs(pictures[1] - pictures[0]) > 10
        assert change[rows, columns].mean() > 0.04
        assert change[rows, columns].sum() > 0.75 * change.sum()


def test_drawing_twice_keeps_and_drawing_otherwise_refuses(tmp_path: Path) -> None:
    folder = write_faces(10, root=tmp_path, workers=1, progress=False)
    stamp = (folder / "README.txt").stat().st_mtime_ns
    assert write_faces(10, root=tmp_path, workers=1, progress=False) == folder
    assert (folder / "README.txt").stat().st_mtime_ns == stamp
    with pytest.raises(DataError, match=r"holds something else: 10 drawn faces of the seed 0\. Delete it"):
        write_faces(11, root=tmp_path, workers=1, progress=False)
    (folder / "img_align_celeba" / "000003.jpg").unlink()
    with pytest.raises(DataError, match="holds 9 of its 10 faces: delete it, and draw them again"):
        write_faces(10, root=tmp_path, workers=1, progress=False)
    (folder / "README.txt").unlink()
    with pytest.raises(DataError, match="files that were not drawn here"):
        write_faces(10, root=tmp_path, workers=1, progress=False)
    with pytest.raises(ValueError, match="At least 10 faces"):
        write_faces(9, root=tmp_path / "other")


def test_a_stop_while_drawing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stops(has: dict[str, bool], random: np.random.Generator) -> Image.Image:
        raise KeyboardInterrupt

    monkeypatch.setattr(faces_module, "draw", stops)
    assert main(["data", "celeba_drawn", "--number", "20", "--root", str(tmp_path)]) == 130
    assert "Interrupted" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_the_command_draws_and_says_that_it_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["celeba_drawn", "--number", "10", "--seed", "3", "--root", str(tmp_path)]
    assert main(["data", *arguments]) == 0
    assert "drawn faces, no photographs" in capsys.readouterr().out
    assert celeba_drawn("Smiling", root=tmp_path, size=8, progress=False).shape == (3, 8, 8)
    assert main(["data", "celeba_drawn", "--number", "11", "--root", str(tmp_path)]) == 1
    with pytest.raises(FileNotFoundError, match=r"Draw them \(anew\): make data DATA=celeba_drawn"):
        celeba_drawn("Smiling", root=tmp_path / "nowhere")
