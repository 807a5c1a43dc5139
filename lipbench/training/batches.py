"""Which images are in which batch: a function of the labels, the seed and the epoch alone, so that training resumes."""

import torch
from torch import Tensor


def shuffled_batches(labels: Tensor, batch_size: int, key: int) -> list[Tensor]:
    """Every image at most once, in random order; the last incomplete batch is left out.

    Args:
        labels: of the training set, [N], N >= batch_size.
        key: of the random order.

    Returns:
        the indices of each batch, [batch_size] each.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(key))
    return [batch for batch in order.split(batch_size) if len(batch) == batch_size]


def balanced_batches(labels: Tensor, batch_size: int, key: int, classes: int) -> list[Tensor]:
    """As many batches as `shuffled_batches` gives, but with equal shares of the classes: their numbers of images in a
    batch differ by one at most. So they do in any consecutive part of a batch, such as the share of one process.

    Within an epoch the images of a class come in random order, all of them before any comes again: those of a rare
    class are repeated, of a frequent one some wait for another epoch.

    Args:
        labels, key: as in `shuffled_batches`.
        classes: number of classes K.

    Raises:
        ValueError: a class without an image.
    """
    generator = torch.Generator().manual_seed(key)
    members = [(labels == k).nonzero()[:, 0] for k in range(classes)]
    empty = [k for k in range(classes) if not len(members[k])]
    if empty:
        raise ValueError(
            f"Balanced batches need training images of every class; class {', '.join(map(str, empty))} has none. "
            "Leave it out of the data set, or use training.balanced=false."
        )
    count = len(labels) // batch_size * batch_size
    # The classes take turns, in a random order.
    turns = torch.randperm(classes, generator=generator)[torch.arange(count) % classes]
    order = torch.empty(count, dtype=torch.long)
    for k, images in enumerate(members):
        places = (turns == k).nonzero()[:, 0]
        rounds = -(-len(places) // len(images))
        drawn = [images[torch.randperm(len(images), generator=generator)] for _ in range(rounds)]
        if drawn:
            order[places] = torch.cat(drawn)[: len(places)]
    return list(order.split(batch_size))
