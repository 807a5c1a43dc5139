"""Training: `fit`, its optimisers and schedules."""

from lipbench.training.adversary import l2_pgd_adversary
from lipbench.training.augmentation import crop_flip_cutout, random_affine
from lipbench.training.checkpoint import CheckpointError
from lipbench.training.fit import TrainingDiverged, constant, cosine, fit, quadratic
from lipbench.training.level_set import level_set_negatives
from lipbench.training.optimizers import adam, auto, sgd, spectral
from lipbench.training.spectral_descent import SpectralDescent
from lipbench.training.tensorboard import event_log

__all__ = [
    "CheckpointError",
    "SpectralDescent",
    "TrainingDiverged",
    "adam",
    "auto",
    "constant",
    "cosine",
    "crop_flip_cutout",
    "event_log",
    "fit",
    "l2_pgd_adversary",
    "level_set_negatives",
    "quadratic",
    "random_affine",
    "sgd",
    "spectral",
]
