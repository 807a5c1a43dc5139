"""Builders: (shape, classes, ...) -> nn.Module. The same builder makes a Lipschitz network and its classical
twin.
"""

from lipbench.models.convnet import convnet
from lipbench.models.mlp import mlp
from lipbench.models.peers import deel_cnn, deel_mlp, orthogonium_cnn, orthogonium_mlp
from lipbench.models.resnet import resnet
from lipbench.models.smoothed import Smoothed, smoothed

__all__ = [
    "Smoothed",
    "convnet",
    "deel_cnn",
    "deel_mlp",
    "mlp",
    "orthogonium_cnn",
    "orthogonium_mlp",
    "resnet",
    "smoothed",
]
