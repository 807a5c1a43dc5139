"""Builders: (shape, classes, ...) -> nn.Module. The same builder makes a Lipschitz network and its unconstrained
twin.
"""

from lipbench.models.convnet import convnet
from lipbench.models.kinds import ModelError
from lipbench.models.mlp import mlp
from lipbench.models.onnx_graph import OnnxNetwork, load_onnx
from lipbench.models.onnx_operators import OnnxError
from lipbench.models.peers import deel_cnn, deel_mlp, orthogonium_cnn, orthogonium_mlp
from lipbench.models.resnet import resnet
from lipbench.models.smoothed import Smoothed, smoothed
from lipbench.models.storage import build, load, rebuild, save
from lipbench.models.weights import WeightsError, load_weights

__all__ = [
    "ModelError",
    "OnnxError",
    "OnnxNetwork",
    "Smoothed",
    "WeightsError",
    "build",
    "convnet",
    "deel_cnn",
    "deel_mlp",
    "load",
    "load_onnx",
    "load_weights",
    "mlp",
    "orthogonium_cnn",
    "orthogonium_mlp",
    "rebuild",
    "resnet",
    "save",
    "smoothed",
]
