"""`crop_flip_cutout`: every image is one of the copies it may be, each with its own draw."""

import pytest
import torch
import torch.nn.functional as F

from lipbench.training import crop_flip_cutout

PLAIN = {"padding": 0, "flip": False, "cutout": 0}


def copies(image, padding, flip):
    """{(down, right, mirrored): the image cropped there}, the slow way."""
    _, height, width = image.shape
    border = F.pad(image, (padding,) * 4)
    found = {}
    for down in range(2 * padding + 1):
        for right in range(2 * padding + 1):
            crop = border[:, down : down + height, right : right + width]
            found[down, right, False] = crop
            if flip:
                found[down, right, True] = crop.flip(2)
    return found


@pytest.mark.parametrize(("padding", "flip"), [(2, True), (2, False), (0, True)])
def test_each_image_is_one_of_its_copies_and_all_copies_occur(padding, flip):
    image = torch.rand(3, 6, 5) + 0.1  # not square; nothing as black as the border
    made = crop_flip_cutout(image.repeat(2000, 1, 1, 1), padding=padding, flip=flip)
    wanted = copies(image, padding, flip)
    seen = [next(key for key, copy in wanted.items() if torch.equal(copy, one)) for one in made]
    assert set(seen) == set(wanted)
    if flip:
        assert 0.45 < sum(mirrored for _, _, mirrored in seen) / len(seen) < 0.55
    if padding:
        assert len({(down, right) for down, right, _ in seen}) == 25, "both directions have their own draw"


def test_the_square_is_black_whole_in_the_middle_and_cut_at_the_border():
    height, width, size = 8, 6, 4
    made = crop_flip_cutout(torch.ones(4000, 2, height, width), **(PLAIN | {"cutout": size}))
    assert torch.equal(made[:, 0], made[:, 1])
    areas = set()
    for mask in (made[:, 0] == 0).unique(dim=0):
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        assert mask.sum() == len(rows) * len(columns)
        assert rows[-1] - rows[0] == len(rows) - 1
        assert size // 2 <= len(rows) <= size
        areas.add(int(mask.sum()))
    assert max(areas) == size * size
    assert min(areas) == (size // 2) ** 2
    # Any pixel may be the centre, so there are as many squares as pixels, and each is hidden sometimes.
    assert len((made[:, 0] == 0).unique(dim=0)) == height * width
    assert bool((made[:, 0] == 0).any(dim=0).all())


def test_without_options_nothing_changes_and_the_batch_is_never_written_to():
    x = torch.rand(16, 3, 8, 8)
    before = x.clone()
    assert torch.equal(crop_flip_cutout(x, **PLAIN), x)
    changed = crop_flip_cutout(x, padding=4, flip=True, cutout=3)
    assert torch.equal(x, before)
    assert (changed != x).flatten(1).any(1).all()
    assert changed.shape == x.shape
    assert changed.dtype == x.dtype


def test_an_option_leaves_the_draws_of_the_others_alone():
    x = torch.rand(64, 3, 8, 8) + 0.1
    whole, cut = [(torch.manual_seed(1), crop_flip_cutout(x, cutout=size))[1] for size in (0, 3)]
    assert torch.equal(torch.where(cut == 0, 0, whole), cut)
    assert not torch.equal(whole, cut)
    torch.manual_seed(2)
    assert not torch.equal(crop_flip_cutout(x, cutout=0), whole)


@pytest.mark.parametrize("option", ["padding", "cutout"])
def test_a_negative_size_is_refused(option):
    with pytest.raises(ValueError, match="numbers of pixels, not"):
        crop_flip_cutout(torch.rand(2, 3, 8, 8), **(PLAIN | {option: -1}))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_the_same_images_as_on_the_cpu():
    x = torch.rand(64, 3, 32, 32)
    made = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(3)
        made.append(crop_flip_cutout(x.to(device), cutout=8))
    assert made[1].is_cuda
    assert torch.equal(made[0], made[1].cpu())
