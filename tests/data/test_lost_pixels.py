"""What eight bits per channel cannot hold is refused by every loader of images; nothing becomes black."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.loaders import LOADERS, saved
from PIL import Image

from lipbench.data import DataError, folder
from lipbench.data.own.pictures import BadPicture, Preparation

SIZE = 32


def encoded(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def png(bits: int, colour: int, rows: list[bytes]) -> bytes:
    """A PNG of a depth that Pillow cannot write, from the bytes of its rows."""
    header = struct.pack(">IIBBBBB", SIZE, SIZE, bits, colour, 0, 0, 0)
    content = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = [kind + body for kind, body in ((b"IHDR", header), (b"IDAT", content), (b"IEND", b""))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


def deep(channels: int, colour: int) -> bytes:
    """Noise of 16 bits per channel, opaque."""
    values = np.random.default_rng(0).integers(0, 2**16, (SIZE, SIZE, channels), np.uint16)
    if channels in (2, 4):
        values[..., -1] = 2**16 - 1
    return png(16, colour, [row.astype(">u2").tobytes() for row in values])


def drawn(mode: str, alpha: int = 255) -> Image.Image:
    """Noise; one pixel of it has the alpha that is asked for."""
    pixels = np.random.default_rng(0).integers(1, 256, (SIZE, SIZE, 4), np.uint8)
    pixels[..., 3] = 255
    pixels[3, 4, 3] = alpha
    return Image.fromarray(pixels).convert(mode)


def colour_key(mode: str) -> bytes:
    image = drawn(mode)
    return encoded(image, transparency=image.getpixel((2, 2)))


LOST = {
    "16 bits, grey": (deep(1, 0), "more than 8 bits"),
    "16 bits, colour": (deep(3, 2), "more than 8 bits"),
    "16 bits, grey and alpha": (deep(2, 4), "more than 8 bits"),
    "16 bits, colour and alpha": (deep(4, 6), "more than 8 bits"),
    "RGBA": (encoded(drawn("RGBA", 0)), "transparent pixels: lay it on a background"),
    "RGBA, almost opaque": (encoded(drawn("RGBA", 254)), "transparent pixels"),
    "LA": (encoded(drawn("LA", 0)), "transparent pixels"),
    "a colour of RGB": (colour_key("RGB"), "transparent pixels"),
    "a grey of L": (colour_key("L"), "transparent pixels"),
    "a colour of a palette": (colour_key("P"), "transparent pixels"),
    "animation": (
        encoded(drawn("RGB"), save_all=True, append_images=[drawn("RGB").rotate(90)]),
        "is an animation",
    ),
}


@pytest.mark.parametrize("case", LOST)
@pytest.mark.parametrize("channels", [None, 1, 3])
def test_a_loss_is_refused_whatever_channels_are_asked_for(case: str, channels: int | None) -> None:
    content, message = LOST[case]
    with pytest.raises(BadPicture, match=message):
        Preparation((SIZE, SIZE), channels)(content)


@pytest.mark.parametrize("case", LOST)
def test_every_loader_of_folders_and_its_cure(tmp_path: Path, case: str) -> None:
    content, message = LOST[case]
    (path,) = LOADERS["folder of PNG"].make(tmp_path)
    path.write_bytes(content)
    for channels in (1, 3):
        with pytest.raises(DataError, match=rf"1 of 12 images cannot be used: cat/0\.png .*{message}"):
            folder(tmp_path / "images", size=6, channels=channels, cache=tmp_path, progress=False)
    with Image.open(io.BytesIO(content)) as image:
        below = Image.new("RGBA", image.size, "white")
        path.write_bytes(encoded(Image.alpha_composite(below, image.convert("RGBA")).convert("RGB")))
    folder(tmp_path / "images", size=6, channels=3, cache=tmp_path, progress=False)


@pytest.mark.parametrize("case", LOST)
def test_archives_of_images_refuse_it_too(tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content, message = LOST[case]
    module = __import__("fuzzed_loaders")
    monkeypatch.setattr(module, "_encoded", lambda *_: content)
    for name in ("tar of JPEG", "CelebA, zip"):
        LOADERS[name].make(tmp_path)
        with pytest.raises((DataError, BadPicture), match=message):
            LOADERS[name].load(tmp_path)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_an_alpha_channel_that_is_opaque_is_no_loss(mode: str) -> None:
    image = drawn(mode)
    plain = image.convert(mode.removesuffix("A"))
    for channels in (None, 1, 3):
        with_alpha, without = (Preparation((9, 9), channels)(encoded(one)) for one in (image, plain))
        assert np.array_equal(with_alpha, without)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_fewer_bits_reach_from_black_to_white(bits: int) -> None:
    white = np.random.default_rng(0).random((SIZE, SIZE)) > 0.5
    content = png(bits, 0, [np.packbits(row.repeat(bits)).tobytes() for row in white])
    assert np.array_equal(Preparation((SIZE, SIZE), 1)(content)[0], 255 * white.astype(np.uint8))


# --- dark sets --------------------------------------------------------------------------------------------


def images_of(largest: int) -> np.ndarray:
    pixels = (np.random.default_rng(0).random((12, 6, 6)) * (largest + 1)).astype(np.uint8)
    pixels[:, 0, 0] = largest
    return pixels


def from_arrays(place: Path, largest: int) -> Callable[[], object]:
    return saved(place, x_train=images_of(largest), y_train=np.arange(12) % 2)


def from_folder(place: Path, largest: int) -> Callable[[], object]:
    for n, pixels in enumerate(images_of(largest)):
        (place / f"images/{n % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"images/{n % 2}/{n}.png")
    return lambda: folder(place / "images", size=6, cache=place, progress=False)


@pytest.mark.parametrize("make", [from_arrays, from_folder])
@pytest.mark.parametrize(("largest", "factor"), [(0, 255), (1, 255), (3, 85), (15, 17), (16, 15)])
def test_a_set_of_a_few_levels_is_not_read_as_black(tmp_path: Path, make: Callable, largest: int, factor: int) -> None:
    with pytest.raises(DataError, match=rf"largest pixel .* is {largest} of 255: .* multiply these by {factor}\."):
        make(tmp_path, largest)()
    assert not list(tmp_path.glob("cache/*.npy"))


@pytest.mark.parametrize("make", [from_arrays, from_folder])
def test_a_dark_set_is_what_it_is(tmp_path: Path, make: Callable) -> None:
    dataset = make(tmp_path, 40)()
    assert int(torch.cat([dataset.train.images, dataset.test.images]).max()) == 40


def test_a_part_of_other_units_is_not_hidden_by_the_rest(tmp_path: Path) -> None:
    light, labels = images_of(255), np.arange(12) % 2
    load = saved(tmp_path, x_train=light, y_train=labels, x_test=images_of(1), y_test=labels)
    with pytest.raises(DataError, match=r"largest pixel of all 12 images of test is 1 of 255: .* by 255\."):
        load()
    for part, largest in (("train", 200), ("test", 1)):
        from_folder(tmp_path / part, largest)
        (tmp_path / part / "images").rename(tmp_path / f"{part}.moved")
    (tmp_path / "set").mkdir()
    for part in ("train", "test"):
        (tmp_path / part).rmdir()
        (tmp_path / f"{part}.moved").rename(tmp_path / "set" / part)
    with pytest.raises(DataError, match="images of test is 1 of 255"):
        folder(tmp_path / "set", size=6, cache=tmp_path, progress=False)
