"""ONNX files are read as torch modules: the runtime's logits, gradients, and float64."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lipbench
from lipbench import layers, models
from lipbench.interop.export import export
from lipbench.interop.load import ModelError, load_model
from lipbench.interop.onnx_graph import OnnxNetwork, _Bound, load_onnx
from lipbench.interop.onnx_operators import OPERATORS, OnnxError

onnx = pytest.importorskip("onnx", reason="the extra lipbench[onnx] is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra lipbench[onnx] is not installed")
pytest.importorskip("onnxscript", reason="the extra lipbench[onnx] is not installed")

SHAPE = (1, 8, 8)


class Usual(nn.Module):
    """What people's networks are made of."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.SiLU())
        self.inner = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.GroupNorm(2, 8), nn.GELU())
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x - 0.5)
        x = F.hardswish(x + self.inner(x))
        x = torch.cat((F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1)), 1).flatten(1)
        return self.head(F.layer_norm(x, (16,)))


cnn = partial(models.convnet, SHAPE, 10, widths=(12,))
NETWORKS = {
    "usual": Usual,
    "mlp": lambda: models.mlp(SHAPE, 10, widths=[16]),
    "padded pooling": lambda: nn.Sequential(
        nn.AvgPool2d(3, 2, padding=1), nn.MaxPool2d(2, padding=1), nn.Flatten(), nn.Linear(9, 3)
    ),
    "max_min": lambda: cnn(constraint=layers.Orthogonal, activation=layers.MaxMin, pooling=layers.L2Pool2d),
    "full_sort": lambda: cnn(constraint=layers.Orthogonal, activation=layers.FullSort, pooling=nn.PixelUnshuffle),
    "circular": lambda: cnn(constraint=layers.aoc, padding_mode="circular"),
    "fourier": lambda: cnn(constraint=layers.cayley, padding_mode="circular"),
    "sll": lambda: cnn(constraint=layers.sll),
}


def exported(model: nn.Module, folder, **options) -> str:
    export(model, SHAPE, folder, formats=["onnx"], **options)
    return str(folder / "model.onnx")


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_it_computes_what_the_network_computes(make, tmp_path):
    model = layers.bake(make()).eval()
    read = load_model(exported(model, tmp_path)).network
    x = torch.rand(6, *SHAPE)
    assert torch.allclose(read(x), model(x), atol=1e-4)
    images, copies = (x.clone().requires_grad_() for _ in range(2))
    (expected,) = torch.autograd.grad(model(images)[:, 0].sum(), images)
    (found,) = torch.autograd.grad(read(copies)[:, 0].sum(), copies)
    assert torch.allclose(found, expected, atol=1e-4)
    exact, double = copy.deepcopy(model).double(), copy.deepcopy(read).double()
    assert double(x.double()).dtype == torch.float64
    assert (double(x.double()) - exact(x.double())).abs().max() < 1e-7, (
        "but for constants that the exporter folded in float32"
    )


def test_it_is_judged_as_the_network_is(tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
    x = torch.rand(8, *SHAPE)
    y = model(x).argmax(1)
    for batch in ("dynamic", 3):
        read = load_model(exported(model, tmp_path / str(batch), batch=batch)).network
        tables = [lipbench.evaluate(network, x, y, ["deepfool"], progress=False) for network in (model, read)]
        distances = [t.loc[(t["method"] == "deepfool") & (t["norm"] == "l2"), "distance"] for t in tables]
        assert np.allclose(*distances, rtol=1e-3)
        assert not tables[1].attrs["flags"]
        expected, found = (t.loc[(t["side"] == "lower") & (t["norm"] == "l2"), "distance"] for t in tables)
        if batch == "dynamic":
            assert np.allclose(found, expected, rtol=1e-3)
        else:  # read as three copies of one image, of whose logits a slice is taken: the rows of the head do not count
            assert (found.to_numpy() * batch**0.5 <= expected.to_numpy() * 1.001).all()
            assert (found > 0).all()


def graph(*nodes, inputs=("images",), size=(None, 1, 4, 4), constants=(), opset=18, rank=None):
    kind, helper = onnx.TensorProto.FLOAT, onnx.helper
    made = helper.make_graph(
        [helper.make_node(*node[:3], **(node[3] if len(node) > 3 else {})) for node in nodes],
        "graph",
        [helper.make_tensor_value_info(name, kind, size) for name in inputs],
        [helper.make_tensor_value_info("logits", kind, [None] * rank if rank else None)],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in dict(constants).items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def same_as_the_runtime(proto, x: np.ndarray) -> None:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"images": x})
    found = OnnxNetwork(proto)(torch.from_numpy(x), _Bound(len(x)))
    assert tuple(found.shape) == expected.shape
    assert np.allclose(found.numpy(), expected, atol=1e-5)


def ints(*values):
    return np.array(values, dtype=np.int64)


CASES = {
    "Slice backwards": ("Slice", [ints(3), ints(-9), ints(2), ints(-2)], {}),
    "Slice": ("Slice", [ints(0, -3), ints(2, 99), ints(2, 3)], {}),
    "Gather": ("Gather", [ints(-1, 0, 2)], {"axis": 2}),
    "Gather one": ("Gather", [ints(1)[0]], {"axis": 3}),
    "Pad axes": ("Pad", [ints(1, 2), np.float32(0.5), ints(3)], {}),
    "Pad reflect": ("Pad", [ints(0, 0, 1, 2, 0, 0, 0, 1)], {"mode": "reflect"}),
    "Pad edge": ("Pad", [ints(0, 0, 1, 2, 0, 0, 0, 1)], {"mode": "edge"}),
    "Reshape": ("Reshape", [ints(0, 2, -1)], {}),
    "Flatten": ("Flatten", [], {"axis": 2}),
    "Transpose": ("Transpose", [], {}),
    "Unsqueeze": ("Unsqueeze", [ints(-1, 0)], {}),
    "Squeeze": ("Squeeze", [ints(1)], {}),
    "Expand": ("Expand", [ints(1, 3, 1, 1)], {}),
    "Clip": ("Clip", [np.float32(0.2), np.float32(0.6)], {}),
    "Clip above": ("Clip", [np.float32(0.4)], {}),
    "ReduceMean": ("ReduceMean", [ints(2, -1)], {"keepdims": 0}),
    "ReduceMax": ("ReduceMax", [], {}),
    "ReduceL2": ("ReduceL2", [ints(1)], {}),
    "ReduceSum none": ("ReduceSum", [], {"noop_with_empty_axes": 1}),
    "DepthToSpace": ("DepthToSpace", [], {"blocksize": 2}),
    "DepthToSpace CRD": ("DepthToSpace", [], {"blocksize": 2, "mode": "CRD"}),
    "SpaceToDepth": ("SpaceToDepth", [], {"blocksize": 2}),
    "MaxPool same": ("MaxPool", [], {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    "MaxPool uneven": ("MaxPool", [], {"kernel_shape": [3, 3], "pads": [0, 1, 2, 1], "dilations": [1, 2]}),
    "AveragePool": ("AveragePool", [], {"kernel_shape": [3, 3], "pads": [1, 0, 1, 1]}),
    "AveragePool counted": ("AveragePool", [], {"kernel_shape": [2, 3], "pads": [1, 1, 0, 1], "count_include_pad": 1}),
    "LeakyRelu": ("LeakyRelu", [], {}),
    "HardSigmoid": ("HardSigmoid", [], {}),
    "Softmax": ("Softmax", [], {"axis": 1}),
    "Softplus": ("Softplus", [], {}),
    "Max": ("Max", [np.float32(0.3), np.float32(0.5)], {}),
    "Mean": ("Mean", [np.float32(0.3), np.float32(0.5)], {}),
    "Pow": ("Pow", [np.float32(2)], {}),
    "PRelu": ("PRelu", [np.float32([[[0.1]], [[0.2]], [[0.3]], [[0.4]]])], {}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_operators(case):
    kind, values, attributes = case
    constants = {f"c{i}": value for i, value in enumerate(values)}
    names = ["images", *constants]
    if case is CASES["Clip above"]:
        names = ["images", "", "c0"]
    channels = 4 if kind in ("DepthToSpace", "PRelu") else 1
    proto = graph((kind, names, ["logits"], attributes), size=(None, channels, 4, 4), constants=constants)
    x = np.random.default_rng(0).normal(size=(2, channels, 4, 4)).astype(np.float32)
    same_as_the_runtime(proto, x)


def test_every_kind_of_conv_padding():
    weight = np.random.default_rng(1).normal(size=(2, 1, 3, 3)).astype(np.float32)
    x = np.random.default_rng(0).normal(size=(2, 1, 7, 6)).astype(np.float32)
    for options in (
        {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
        {"auto_pad": "SAME_UPPER", "strides": [2, 3]},
        {"auto_pad": "VALID"},
        {"pads": [0, 2, 1, 1], "dilations": [2, 1]},
    ):
        proto = graph(("Conv", ["images", "w"], ["logits"], options), size=(None, 1, 7, 6), constants={"w": weight})
        same_as_the_runtime(proto, x)


def test_files_that_cannot_be_read_say_why(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"broken")
    with pytest.raises(ModelError, match="a text that begins with 'broken'"):
        load_model(str(path))
    path.write_bytes(b"\x08\x99\xff" * 9)
    with pytest.raises(ModelError, match="cannot be read as ONNX"):
        load_model(str(path))
    for proto, word in (
        (graph(("NonZero", ["images"], ["a"]), ("Cast", ["a"], ["logits"], {"to": 1}), rank=2), "NonZero"),
        (graph(("Add", ["images", "more"], ["logits"]), inputs=("images", "more"), rank=4), "takes 2 inputs"),
        (graph(("Relu", ["images"], ["logits"]), size=(None, None), rank=2), "give the shape"),
    ):
        path.write_bytes(proto.SerializeToString())
        with pytest.raises(OnnxError, match=word):
            load_onnx(path)


def test_what_disagrees_with_the_runtime_is_not_believed(tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    path.write_bytes(graph(("Relu", ["images"], ["logits"]), rank=4).SerializeToString())
    load_onnx(path)
    monkeypatch.setitem(OPERATORS, "Relu", lambda x: 1.01 * x)
    with pytest.raises(OnnxError, match="other logits than the runtime"):
        load_onnx(path)


def test_older_files_are_rewritten(tmp_path):
    path = tmp_path / "model.onnx"
    squeeze = ("Squeeze", ["images"], ["a"], {"axes": [1]})
    proto = graph(squeeze, ("ReduceSum", ["a"], ["logits"], {"axes": [2], "keepdims": 0}), opset=11, rank=2)
    path.write_bytes(proto.SerializeToString())
    x = torch.rand(2, 1, 4, 4)
    assert torch.allclose(load_onnx(path)[0](x), x[:, 0].sum(2))
