"""`fit`: the training loop.

The order of the images depends on (seed, epoch) alone, so a run that is resumed from its checkpoint ends in the same
weights as one that was never stopped. The last incomplete batch of an epoch is left out.

Where torch.distributed has several processes, all call `fit` and end with the same weights: each computes its share of
every batch, the loss and its gradient are those of the whole batch (see `lipbench.training.processes`), and the first
process alone writes the checkpoint, calls `on_epoch` and shows progress. What a network keeps of its batches (the
averages of BatchNorm or BatchCentering) is of the first process's share.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lipbench.data import Dataset, Split
from lipbench.images import pixels
from lipbench.precision import float32_products, has_bfloat16
from lipbench.progress import Progress
from lipbench.training import processes
from lipbench.training.batches import balanced_batches, shuffled_batches
from lipbench.training.checkpoint import load_checkpoint, save_checkpoint
from lipbench.training.monitor import monitor

Loss = Callable[[Tensor, Tensor], Tensor]
Schedule = Callable[[float], float]
Adversary = Callable[[nn.Module, Tensor, Tensor], Tensor]


class TrainingDiverged(RuntimeError):
    """The loss became NaN or infinite."""


def constant(progress: float) -> float:
    """Learning-rate factor 1 throughout."""
    return 1.0


def cosine(progress: float) -> float:
    """Learning-rate factor from 1 to 0 along half a cosine; `progress` in [0, 1] is the share of steps done."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def quadratic(progress: float) -> float:
    """Learning-rate factor (1 - progress)^2: more time at low rates than `cosine`, for steps of constant length."""
    return (1 - progress) ** 2


class Clock:
    """The share of the training that is done, by steps or by the seconds of the first process."""

    def __init__(self, steps: int, seconds: float = math.inf):
        self._steps = max(1, steps)
        self.seconds = seconds
        self._before = 0.0
        self._started = time.perf_counter()

    def start(self, seconds_before: float) -> None:
        """An epoch begins after so many seconds of training."""
        self._before = seconds_before
        self._started = time.perf_counter()

    def progress(self, step: int) -> float:
        """In [0, 1], after so many steps in all."""
        if math.isinf(self.seconds):
            return min(1.0, step / self._steps)
        seconds = self._before + time.perf_counter() - self._started
        return processes.of_first(min(1.0, max(step / self._steps, seconds / self.seconds)))


@float32_products()
def fit(
    model: nn.Module,
    dataset: Dataset,
    loss: Loss,
    optimizer: Callable[[nn.Module], Optimizer],
    *,
    epochs: int = 10,
    batch_size: int = 128,
    balanced: bool = False,
    schedule: Schedule = cosine,
    minutes: float | None = None,
    augment: Callable[[Tensor], Tensor] | None = None,
    adversary: Adversary | None = None,
    precision: Literal["float32", "tf32", "bfloat16"] = "float32",
    seed: int = 0,
    device: str | torch.device = "cpu",
    epsilon: float = 0.5,
    checkpoint: str | Path | None = None,
    progress: bool = True,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Trains `model` in place on `dataset.train` and returns the history, a row per epoch. The test set is not touched.
    The model is returned unbaked: see `lipbench.bake`.

    Args:
        model: a classifier [N, C, H, W] in [0, 1] -> logits [N, K].
        loss: (logits, labels) -> scalar, see `lipbench.losses`.
        optimizer: factory model -> optimiser, see `lipbench.training.optimizers`.
        epochs: passes over the training set; with `minutes`, the most there can be.
        batch_size: images of a step, those of all processes together.
        balanced: every batch has equal shares of the classes, for imbalanced data (see
            `lipbench.training.batches.balanced_batches`). An epoch has as many steps as without, repeats images of the
            rare classes and leaves out some of the frequent ones.
        schedule: learning-rate factor as a function of the share of the training done, in [0, 1].
        minutes: training time (epochs alone, without their monitoring) at which to stop, to compare networks of
            unequal speed. The schedule then follows the clock, so the result depends on the machine.
        augment: images -> images, applied to every batch of training images (`random_affine`, `crop_flip_cutout`).
        adversary: (model, images, labels) -> images, applied after `augment` (`lipbench.training.l2_pgd_adversary`).
        precision: of the products of the forward and the backward pass: "tf32" on GPUs that have it, "bfloat16" (by
            autocast) on processors and GPUs that have it, float32 elsewhere. Weights, steps, retraction, loss and
            validation are in float32.
        epsilon: radius at which the history's certified accuracy is taken (L2, pixels in [0, 1]).
        checkpoint: file written after every epoch, from which a stopped run is resumed.
        on_epoch: called with each new row, before the checkpoint that holds it is written: after a kill in between the
            row comes again. See `lipbench.training.event_log`.

    Returns:
        per epoch: epoch, steps, train_loss, train_accuracy (of the balanced batches and the adversarial images, where
        there are any), then the columns of `lipbench.training.monitor.monitor`, then seconds (of the epoch alone).

    Raises:
        ValueError: an unknown precision, balanced batches of a training set that lacks a class, or a batch that the
            processes cannot share.
        TrainingDiverged: the loss is NaN or infinite.
        CheckpointError: the checkpoint cannot be read or belongs to another network.
    """
    model.to(device)
    labels = dataset.train.labels
    size = _batch_size(batch_size, len(labels))
    draw = partial(balanced_batches, classes=len(dataset.classes)) if balanced else shuffled_batches
    steps = len(labels) // size
    clock = Clock(epochs * steps, math.inf if minutes is None else 60 * minutes)
    chosen = optimizer(model)
    rates = LambdaLR(chosen, lambda step: schedule(clock.progress(step)))
    step = _Step(model, processes.together(model), loss, chosen, rates, augment, adversary, precision)
    history: list[dict[str, Any]] = []
    if checkpoint is not None and Path(checkpoint).exists():
        history = load_checkpoint(Path(checkpoint), model, chosen, rates)
    first = processes.rank() == 0
    bar = Progress("training", epochs, "epoch", show=progress and first, done=len(history), most=clock.seconds)
    with bar, torch.random.fork_rng(_cuda_devices(torch.device(device))):
        for epoch in range(len(history), epochs):
            clock.start(sum(row["seconds"] for row in history))
            if clock.progress(epoch * steps) >= 1:
                break
            # Each process draws its own augmentations.
            torch.manual_seed(_key(seed, epoch, processes.rank()))
            means, took = _epoch(step, dataset.train, clock, partial(draw, labels, size, _key(seed, epoch)), epoch)
            row = {"epoch": epoch + 1, **means, **monitor(model, dataset.validation, loss, epsilon), "seconds": took}
            history.append(row)
            if on_epoch is not None and first:
                on_epoch(row)
            bar.update(train_loss=row["train_loss"], validation_accuracy=row["validation_accuracy"])
            if checkpoint is not None and first:
                save_checkpoint(Path(checkpoint), model, chosen, rates, history)
    model.eval()
    return history


def _batch_size(wanted: int, images: int) -> int:
    """At most all images. Raises `ValueError` where the processes cannot share a batch."""
    size = min(wanted, images)
    if size % processes.count():
        raise ValueError(
            f"{processes.count()} processes cannot share a batch of {size} images: give a multiple as batch_size."
        )
    return size


@dataclass(frozen=True)
class _Step:
    """What is done with one batch: `shared` is the model as the processes train it together."""

    model: nn.Module
    shared: nn.Module
    loss: Loss
    optimizer: Optimizer
    rates: LambdaLR
    augment: Callable[[Tensor], Tensor] | None
    adversary: Adversary | None
    precision: str

    def __post_init__(self) -> None:
        if self.precision not in ("float32", "tf32", "bfloat16"):
            raise ValueError(f"precision is float32, tf32 or bfloat16, not {self.precision!r}.")

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Changes the weights; returns the loss and the number of correct labels before that, over the images of all
        processes, on the device.
        """
        x = x if self.augment is None else self.augment(x)
        with float32_products(tf32=self.precision == "tf32"):
            if self.adversary is not None:
                with self._products(x.device):
                    x = self.adversary(self.model, x, y)
            # Autocast keeps its copies of the weights until the block ends: one block per step.
            with self._products(x.device):
                logits = self.shared(x)
            logits, y = processes.union(logits.float(), y)
            value = self.loss(logits, y)
            self.optimizer.zero_grad()
            # The processes' gradients are averaged; that of the whole batch is their sum.
            (value * processes.count()).backward()
        self.optimizer.step()
        self.rates.step()
        return value.detach(), (logits.detach().argmax(1) == y).sum()

    def _products(self, device: torch.device) -> torch.autocast:
        shorter = self.precision == "bfloat16" and has_bfloat16(device)
        return torch.autocast(device.type, torch.bfloat16, enabled=shorter)


def _epoch(
    step: _Step, train: Split, clock: Clock, draw: Callable[[], list[Tensor]], epoch: int
) -> tuple[dict[str, float], float]:
    """Trains for one epoch: -> its row of the history, without what is measured afterwards, and its seconds."""
    started, batches = time.perf_counter(), draw()
    step.model.train()
    device = next(step.model.parameters()).device
    # Sums stay on the device: reading them once per epoch, not per step, keeps a GPU busy.
    total_loss = torch.zeros((), device=device)
    correct = torch.zeros((), device=device)
    done = 0
    for batch in batches:
        mine = processes.share(batch)
        value, right = step(pixels(train.images[mine], device), train.labels[mine].to(device))
        total_loss += value
        correct += right
        done += 1
        if clock.progress(epoch * len(batches) + done) >= 1:
            break
    mean = float(total_loss) / done
    if not math.isfinite(mean):
        raise TrainingDiverged(
            f"The training loss became {mean} in epoch {epoch + 1}. Lower optimizer.lr, or check the loss's options; "
            "the last checkpoint is from before it."
        )
    means = {"steps": done, "train_loss": mean, "train_accuracy": float(correct) / (done * len(batches[0]))}
    return means, time.perf_counter() - started


def _key(seed: int, epoch: int, rank: int = 0) -> int:
    """One seed per (seed, epoch, process), far apart for neighbouring seeds."""
    return (seed * 1_000_003 + epoch + (rank << 40)) % 2**63


def _cuda_devices(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []
