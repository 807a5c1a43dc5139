"""From attacks of a given size to attacks of the smallest size: a search for each image."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lipbench.judge import Judge, distance

# (x, y, rows of the batch, value of the option) -> images
Sized = Callable[[Tensor, Tensor, Tensor, float], Tensor]


@dataclass(frozen=True)
class Search:
    """The option of an attack that buys success with distance, such as the radius of PGD, and how it is searched.

    Values grow geometrically until an image is adversarial, then the last step is bisected, in the logarithm. Images
    at the same value run together: every image has its own value, though the library takes one for a whole batch.

    Attributes:
        option: its name in the library.
        lowest: the first value.
        highest: the last; None: 1.5 sqrt(C H W), half more than the diagonal of the box.
        ratio: of two values that follow each other.
        bisections: of the step between the last failure and the first success.
        proportional: options in proportion to it, such as {"alpha": 0.05} for steps of 0.05 radii.
    """

    option: str
    lowest: float = 0.05
    highest: float | None = None
    ratio: float = 1.5
    bisections: int = 3
    proportional: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.lowest <= 0 or self.ratio <= 1 or self.bisections < 0 or (self.highest or self.lowest) < self.lowest:
            raise ValueError(f"A search needs 0 < lowest <= highest, ratio > 1 and bisections >= 0; got {self}.")

    def options(self, value: float) -> dict[str, Any]:
        """The option at this value and those in proportion to it."""
        return {self.option: value, **{name: factor * value for name, factor in self.proportional.items()}}

    def nearest_success(self, model: nn.Module, x: Tensor, y: Tensor, attack: Sized) -> Tensor:
        """The nearest adversarial image that any value gave; x itself where none did. Images [N, C, H, W]."""
        best, shortest = x.clone(), torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
        highest = 1.5 * x[0].numel() ** 0.5 if self.highest is None else self.highest
        # Values are lowest * ratio ** (level / step) with whole levels, so that equal values are equal numbers.
        step = 2**self.bisections
        low, high = torch.zeros(2, len(x), dtype=torch.long, device=x.device)

        def succeeds(rows: Tensor, level: int) -> Tensor:
            images = attack(x[rows], y[rows], rows, self.lowest * self.ratio ** (level / step))
            with torch.no_grad():
                success = Judge.misclassified(model(images.clone()), y[rows])
            length = distance(x[rows], images).where(success, torch.inf)
            nearer = length < shortest[rows]
            best[rows[nearer]], shortest[rows[nearer]] = images[nearer], length[nearer]
            return success

        open_, level = torch.arange(len(x), device=x.device), 0
        while len(open_) and self.lowest * self.ratio ** (level / step - 1) < highest:
            success = succeeds(open_, level)
            low[open_], high[open_] = level - step, level
            open_ = open_[~success]
            level += step
        found = shortest.isfinite()
        for _ in range(self.bisections):
            middle = (low + high) // 2
            for level in middle[found].unique().tolist():
                rows = (found & (middle == level)).nonzero()[:, 0]
                success = succeeds(rows, level)
                high[rows[success]], low[rows[~success]] = level, level
        return best
