"""The flag `input_range`: a model that was probably made for other pixels than those of [0, 1] labels them better."""

from collections.abc import Callable

import torch
from torch import Tensor

from lipbench.gate import is_memory
from lipbench.judge import Classifier
from lipbench.results.flags import Flag

# What training scripts do to images in [0, 1].
RANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "times 255": lambda x: 255 * x,
    "in [-1, 1] (2 x - 1)": lambda x: 2 * x - 1,
    "of mean 0 and standard deviation 1": lambda x: (x - x.mean()) / x.std().clamp_min(1e-6),
}
# Of fewer images an accuracy says little, and so many are enough. The accuracies have to differ by this.
COUNTED, ENOUGH, BETTER = 30, 1000, 0.2
# A model with this accuracy on the images as they are was made for them. With this share of one label, a model that
# always gives that label looks good.
GOOD, ONE_LABEL = 0.8, 0.9


def range_flags(model: Classifier, x: Tensor, y: Tensor, batch_size: int = 100) -> list[Flag]:
    """`input_range`, where the model labels rescaled images right on at least `BETTER` more of them, and at least half
    of the way from a guess to 1. No flag where the own accuracy is at least `GOOD`, or one label has at least
    `ONE_LABEL` of the images.

    Args:
        x, y: images [N, C, H, W] in [0, 1] and their labels [N].
        batch_size: images that pass the model at once.
    """

    def accuracy(images: Tensor) -> float:
        logits = torch.cat([model(part.clone()) for part in images.split(batch_size)])
        return float((logits.argmax(1) == y).double().mean())

    if len(x) < COUNTED or (guess := float(y.bincount().max()) / len(y)) >= ONE_LABEL:
        return []
    try:
        with torch.no_grad():
            own = accuracy(x)
            found = {name: accuracy(change(x)) for name, change in RANGES.items()} if own < GOOD else {}
    except Exception as error:  # a model may refuse such pixels
        if is_memory(error):
            raise
        return []
    name = max(found, key=lambda name: found[name], default="")
    if not name or found[name] < max(own + BETTER, (1 + guess) / 2):
        return []
    return [
        Flag(
            "input_range",
            "warning",
            f"on the first {len(x)} images the accuracy is {100 * own:.0f} %, and {100 * found[name]:.0f} % if the "
            f"pixels are {name}: the model was probably made for those. Put the change of range inside the model.",
        )
    ]
