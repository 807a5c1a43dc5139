"""A file of models and what it takes, for the tests of bring-your-own."""

from pathlib import Path

from torch import nn

CODE = """
import torch
from torch import nn
import sibling

class Net(nn.Sequential):
    pass

def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, sibling.WIDTH), nn.ReLU(), nn.Linear(sibling.WIDTH, 10))

def fitting(shape, classes, width=8):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[1] * shape[2], width), nn.ReLU(), nn.Linear(width, classes))

def one_logit():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 1))

def needs(path):
    return build()

def fails():
    raise KeyError("no such layer")

ready = build()
number = 3
"""


def write_models(folder: Path) -> Path:
    """`net.py` and the module next to it that it imports."""
    (folder / "sibling.py").write_text("WIDTH = 12\n")
    path = folder / "net.py"
    path.write_text(CODE)
    return path


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10)).eval()
