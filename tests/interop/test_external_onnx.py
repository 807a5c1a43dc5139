"""ONNX files as others write them: every kind of input, number type and version is read, or refused with what to do;
what a graph makes of an image is bounded, whichever operator makes it.
"""

import itertools
import warnings

import numpy as np
import pytest
import torch

from lipbench.interop.load import ModelError, load_model
from lipbench.interop.onnx_graph import load_onnx
from lipbench.interop.onnx_operators import OnnxError

onnx = pytest.importorskip("onnx", reason="the extra lipbench[onnx] is not installed")
helper, TYPES = onnx.helper, onnx.TensorProto
COLOUR, GREY = (3, 4, 6), (1, 4, 6)


def ints(*values):
    return np.array(values, dtype=np.int64)


def write(path, nodes, size, constants=(), *, kind=TYPES.FLOAT, out=TYPES.FLOAT, rank=2, opsets=(("", 18),)):
    graph = helper.make_graph(
        [helper.make_node(*node[:3], **(node[3] if len(node) > 3 else {})) for node in nodes],
        "graph",
        [helper.make_tensor_value_info("x", kind, size)],
        [helper.make_tensor_value_info("y", out, [None] * rank)],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in dict(constants).items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid(*o) for o in opsets], ir_version=9)
    path.write_bytes(proto.SerializeToString())
    return str(path)


def weight(rows, dtype="float32"):
    return np.random.default_rng(0).normal(size=(rows, 3)).astype(dtype)


def flat_network(path, size, rows, **options):
    """Pixels in the order of the file's input, times a matrix."""
    nodes = [("Reshape", ["x", "all"], ["f"]), ("MatMul", ["f", "w"], ["y"])]
    return write(path, nodes, size, {"all": ints(0, -1), "w": weight(rows)}, **options)


def ordered(images, order):
    return images.permute(0, *(1 + "CHW".index(axis) for axis in order)).flatten(1)


@pytest.mark.parametrize("batch", [None, -1, "N", 1, 4])
def test_any_number_of_images(batch, tmp_path):
    network = load_model(flat_network(tmp_path / "m.onnx", [batch, *GREY], 24), shape=GREY).network
    x = torch.rand(6, *GREY)
    expected = x.flatten(1) @ torch.from_numpy(weight(24))
    for n in (1, 3, 6):
        assert torch.allclose(network(x[:n]), expected[:n], atol=1e-5)


# Input of the file, image, option -> the order in which the pixels arrive; None: refused.
LAYOUTS = [
    ([*COLOUR], COLOUR, None, "CHW"),
    ([4, 6, 3], COLOUR, None, "HWC"),
    ([None, None, 3], COLOUR, None, "HWC"),
    ([3, None, None], COLOUR, None, "CHW"),
    ([24], GREY, None, "CHW"),
    ([24, 1], GREY, None, "CHW"),
    ([1, 1, 24], GREY, None, "CHW"),
    ([4, 6], GREY, None, "CHW"),
    ([4, 6, 1], GREY, None, "CHW"),
    ([72], COLOUR, None, None),
    *([[72], COLOUR, f"{''.join(order)}_flat", "".join(order)] for order in itertools.permutations("CHW")),
    ([72], COLOUR, "HWC", "HWC"),
    ([24], GREY, "CWH_flat", "CWH"),
    ([3, 6, 4], COLOUR, "CWH", "CWH"),
    ([3, 6, 4], COLOUR, None, None),
    ([25], GREY, None, None),
    ([None], GREY, None, None),
    ([72], COLOUR, "chw", None),
    ([72], COLOUR, "CHC", None),
    ([72], COLOUR, "flat", None),
]


@pytest.mark.parametrize(("size", "shape", "layout", "order"), LAYOUTS)
def test_images_become_the_inputs_of_a_file(size, shape, layout, order, tmp_path):
    path = flat_network(tmp_path / "m.onnx", [None, *size], 25 if size == [25] else int(np.prod(shape)))
    if order is None:
        with pytest.raises(ModelError, match=r"input_layout"):
            load_model(path, shape=shape, input_layout=layout)
        return
    loaded = load_model(path, shape=shape, input_layout=layout)
    x = torch.rand(5, *shape)
    expected = ordered(x, order) @ torch.from_numpy(weight(x[0].numel()))
    assert torch.allclose(loaded.network(x), expected, atol=1e-5)
    assert loaded.network.double()(x.double()).dtype == torch.float64
    assert loaded.identity.get("input", {}).get("layout") == layout


def test_layout_and_normalisation_before_every_form(tmp_path):
    x = torch.rand(5, *COLOUR)
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.25, 2.0]
    net = torch.nn.Sequential(torch.nn.Linear(72, 3)).eval()
    forms = {"onnx": flat_network(tmp_path / "m.onnx", [None, 72], 72)}
    net[0].weight.data, net[0].bias.data = torch.from_numpy(weight(72)).T.contiguous(), torch.zeros(3)
    torch.export.save(torch.export.export(net, (torch.rand(5, 72),)), tmp_path / "m.pt2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(net).save(str(tmp_path / "m.pt"))
    torch.save(net.state_dict(), tmp_path / "w.pt")
    (tmp_path / "m.py").write_text("from torch import nn\ndef build():\n    return nn.Sequential(nn.Linear(72, 3))\n")
    forms |= {"export": str(tmp_path / "m.pt2"), "script": str(tmp_path / "m.pt"), "code": f"{tmp_path / 'm.py'}:build"}
    normal = (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    expected = ordered(normal, "HWC") @ torch.from_numpy(weight(72))
    for form, source in forms.items():
        loaded = load_model(
            source,
            tmp_path / "w.pt" if form == "code" else None,
            shape=COLOUR,
            input_layout="HWC_flat",
            input_mean=mean,
            input_std=std,
        )
        assert torch.allclose(loaded.network(x), expected, atol=1e-4), form
        assert loaded.identity["input"] == {"layout": "HWC_flat", "mean": mean, "std": std}


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"input_mean": [0.1, 0.2]}, "input_mean.*3 channels"),
        ({"input_std": []}, "input_std.*3 channels"),
        ({"input_std": 0}, "input_std=0: expected positive"),
        ({"input_std": [1.0, -1.0, 1.0]}, "input_std"),
        ({"input_mean": 127.5, "input_std": 58.0}, "Divide input_mean and input_std by 255"),
        ({"input_mean": "imagenet"}, "input_mean=imagenet"),
        ({"input_mean": float("nan")}, "input_mean=nan"),
        ({"input_std": True}, "input_std=True"),
    ],
)
def test_numbers_that_normalise_nothing(options, word, tmp_path):
    path = flat_network(tmp_path / "m.onnx", [None, *COLOUR], 72)
    with pytest.raises(ModelError, match=word):
        load_model(path, shape=COLOUR, **options)


FLOATS = {"FLOAT16": "float16", "BFLOAT16": "bfloat16", "FLOAT8E4M3FN": "float8"}
INTEGERS = ["UINT8", "INT8", "INT32", "INT64", "BOOL"]


@pytest.mark.parametrize("name", [*FLOATS, *INTEGERS])
def test_inputs_that_are_too_coarse_or_whole_numbers(name, tmp_path):
    nodes = [
        ("Cast", ["x"], ["z"], {"to": TYPES.FLOAT}),
        ("Reshape", ["z", "all"], ["f"]),
        ("MatMul", ["f", "w"], ["y"]),
    ]
    path = write(
        tmp_path / "m.onnx", nodes, [None, *GREY], {"all": ints(0, -1), "w": weight(24)}, kind=getattr(TYPES, name)
    )
    word = f"{FLOATS[name]}.*float32" if name in FLOATS else f"takes {name.lower()} images.*Export"
    with pytest.raises(ModelError, match=word):
        load_model(path, shape=GREY)


@pytest.mark.parametrize("name", ["FLOAT16", "BFLOAT16"])
@pytest.mark.parametrize("place", ["weight", "cast", "constant", "fill"])
def test_low_precision_anywhere_in_the_graph(name, place, tmp_path):
    low = getattr(TYPES, name)
    value = helper.make_tensor("v", low, [1], [1.0])
    nodes, constants = [("Reshape", ["x", "all"], ["f"])], {"all": ints(0, -1), "w": weight(24), "one": ints(1)}
    if place == "weight":
        nodes += [
            ("Cast", ["f"], ["h"], {"to": low}),
            ("Cast", ["w"], ["v"], {"to": low}),
            ("MatMul", ["h", "v"], ["z"]),
        ]
    elif place == "cast":
        nodes += [("Cast", ["f"], ["h"], {"to": low}), ("Cast", ["h"], ["g"], {"to": TYPES.FLOAT})]
        nodes += [("MatMul", ["g", "w"], ["z"])]
    else:
        made = ("Constant", [], ["c"], {"value": value})
        if place == "fill":
            made = ("ConstantOfShape", ["one"], ["c"], {"value": value})
        nodes += [made, ("Cast", ["c"], ["d"], {"to": TYPES.FLOAT}), ("MatMul", ["f", "w"], ["m"])]
        nodes += [("Mul", ["m", "d"], ["z"])]
    nodes += [("Cast", ["z"], ["y"], {"to": TYPES.FLOAT})]
    with pytest.raises(OnnxError, match=rf"{name.lower()}, too coarse.*float32"):
        load_onnx(write(tmp_path / "m.onnx", nodes, [None, *GREY], constants))


@pytest.mark.parametrize("inside", [False, True])
def test_float64_inputs_and_parts(inside, tmp_path):
    nodes = [("Reshape", ["x", "all"], ["f"]), ("MatMul", ["f", "w"], ["y"])]
    constants = {"all": ints(0, -1), "w": weight(24, "float64")}
    kind = TYPES.DOUBLE
    if inside:
        nodes.insert(0, ("Cast", ["x"], ["d"], {"to": TYPES.DOUBLE}))
        nodes[1] = ("Reshape", ["d", "all"], ["f"])
        kind = TYPES.FLOAT
    path = write(tmp_path / "m.onnx", nodes, [None, *GREY], constants, kind=kind, out=TYPES.DOUBLE)
    network, x = load_onnx(path)[0], torch.rand(4, *GREY)
    for images in (x, x.double()):
        logits = network(images)
        assert logits.dtype == torch.float64
        assert torch.allclose(logits, x.double().flatten(1) @ torch.from_numpy(constants["w"]), atol=1e-12)


@pytest.mark.parametrize("opsets", [(12, 9), (9, 12), (18, 18), (13,), (18, 11)])
@pytest.mark.parametrize("domain", ["", "ai.onnx"])
def test_several_versions_of_the_operators(opsets, domain, tmp_path):
    pairs = [(domain if i else "", version) for i, version in enumerate(opsets)]
    path = flat_network(tmp_path / "m.onnx", [None, *GREY], 24, opsets=pairs)
    x = torch.rand(3, *GREY)
    assert torch.allclose(load_onnx(path)[0](x), x.flatten(1) @ torch.from_numpy(weight(24)), atol=1e-5)


def test_constants_keep_their_number_type(tmp_path):
    for attribute, value in (("value_float", 0.1), ("value_floats", [0.1, 0.2, 0.3])):
        nodes = [
            ("Constant", [], ["c"], {attribute: value}),
            ("Reshape", ["x", "all"], ["f"]),
            ("MatMul", ["f", "w"], ["m"]),
        ]
        nodes += [("Add", ["m", "c"], ["y"])]
        path = write(tmp_path / "m.onnx", nodes, [None, *GREY], {"all": ints(0, -1), "w": weight(24)})
        network = load_onnx(path)[0]
        assert network(torch.rand(2, *GREY)).dtype == torch.float32
        assert {t.dtype for t in network.buffers()} == {torch.float32, torch.int64}


BIG = np.zeros((2**15, 1), np.float32)
COUNTS = ints(*[0] * 2**15)
HUGE = 2**40
# Operator -> the nodes that make too much of an image [1, 4, 4], or of constants of 128 kB.
GROWING = {
    "Expand": [("Expand", ["x", "c"], ["z"])],
    "ConstantOfShape": [("ConstantOfShape", ["c"], ["z"])],
    "Range": [("Range", ["zero", "limit", "one"], ["z"])],
    "Pad": [("Pad", ["x", "pads"], ["z"])],
    "Conv": [("Conv", ["x", "k"], ["z"], {"pads": [60000] * 4, "strides": [50000] * 2})],
    "MaxPool": [("MaxPool", ["x"], ["z"], {"kernel_shape": [2, 2], "pads": [60000] * 4, "strides": [50000] * 2})],
    "AveragePool": [
        ("AveragePool", ["x"], ["z"], {"kernel_shape": [2, 2], "pads": [60000] * 4, "strides": [50000] * 2})
    ],
    "MatMul": [("MatMul", ["big", "row"], ["z"])],
    "Gemm": [("Gemm", ["big", "big"], ["z"], {"transB": 1})],
    "Einsum": [("Einsum", ["big", "big", "big"], ["z"], {"equation": "ab,cb,dc->ad"})],
    "Gather": [("Gather", ["x", "index"], ["a"], {"axis": 2}), ("Gather", ["a", "index"], ["z"], {"axis": 3})],
    "Concat": [("Concat", ["x" if i == 0 else f"a{i}"] * 2, [f"a{i + 1}"], {"axis": 3}) for i in range(34)],
    "DFT": [("Unsqueeze", ["x", "last"], ["a"]), ("DFT", ["a", "length"], ["z"], {"axis": 2})],
    "Where": [("Less", ["big", "row"], ["a"]), ("Where", ["a", "big", "row"], ["z"])],
    "PRelu": [("PRelu", ["row", "big"], ["z"])],
    "Clip": [("Clip", ["row", "zero"], ["a"]), ("Max", ["a", "big"], ["z"])],
    **{
        name: [(name, ["big", "row"], ["z"])]
        for name in ("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Mean", "Sum", "Less", "Greater", "Equal")
    },
}


@pytest.mark.parametrize("name", GROWING)
def test_what_a_graph_makes_is_bounded(name, tmp_path):
    constants = {
        "big": BIG,
        "row": BIG.T,
        "index": COUNTS,
        "c": ints(1, HUGE, 4, 4),
        "zero": np.float32(0),
        "limit": np.float32(HUGE),
        "one": np.float32(1),
        "pads": ints(0, 0, HUGE, 0, 0, 0, 0, 0),
        "k": np.ones((1, 1, 1, 1), np.float32),
        "last": ints(-1),
        "length": np.int64(HUGE),
        "axes": ints(1, 2),
    }
    path = write(
        tmp_path / "m.onnx",
        [*GROWING[name], ("ReduceMean", ["x", "axes"], ["y"], {"keepdims": 0})],
        [None, 1, 4, 4],
        constants,
    )
    with pytest.raises(OnnxError, match=r"more than 67,108,864 numbers for each image"):
        load_onnx(path)


def test_the_bound_adds_up(tmp_path):
    """No operator makes too much, all together do."""
    nodes = [("Expand", ["x", "c"], ["a0"])]
    nodes += [("Relu", [f"a{i}"], [f"a{i + 1}"]) for i in range(9)]
    nodes += [("ReduceMean", ["a9", "axes"], ["y"], {"keepdims": 0})]
    for times, fits in ((2**10, True), (2**20, False)):
        constants = {"c": ints(1, times, 1, 1), "axes": ints(1, 2)}
        path = write(tmp_path / "m.onnx", nodes, [None, 1, 1, 8], constants)
        if fits:
            load_onnx(path)
        else:
            with pytest.raises(OnnxError, match="up to Relu"):
                load_onnx(path)
