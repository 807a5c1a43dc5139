"""Properties say what they should, to a parser of VNN-LIB that is not ours; answers of verifiers are read strictly."""

import gzip
import math
from pathlib import Path

import numpy as np
import pytest

from lipbench.files import ResultsError
from lipbench.interop.formats import ExportError
from lipbench.interop.vnnlib import (
    Property,
    check_text,
    property_text,
    read_verdicts,
    read_witness,
    witness_file,
)

SHAPE = (1, 2, 3)
X = np.array([0.0, 1.0, 1e-7, 0.1, 0.5, 1 / 3], dtype=np.float32).reshape(SHAPE)
NAME = "image_7_l2_0.5_0123abcd"


def holds(query, image: np.ndarray, logits: list[float]) -> bool:
    """Whether an assignment satisfies a parsed query, in float64."""
    values = {"X": image.astype(np.float64)[None], "Y": np.array([logits])}

    def number(node) -> float:
        kind = type(node).__name__
        if kind == "Var":
            return values[node.name][tuple(node.indices)]
        if kind == "Minus":
            return number(node.head) - sum(map(number, node.rest))
        if kind == "Plus":
            return sum(map(number, node.args))
        if kind == "Multiply":
            return math.prod(map(number, node.args))
        return float(node.lexeme)

    def true(node) -> bool:
        kind = type(node).__name__
        if kind == "Or":
            return any(map(true, node.args))
        left, right = number(node.lhs), number(node.rhs)
        return {"LessEqual": left <= right, "GreaterEqual": left >= right}[kind]

    return all(true(assertion.expr) for assertion in query.assertions)


@pytest.mark.parametrize("radius", [0.5, 36 / 255, 2.0])
def test_a_property_holds_exactly_in_the_ball_and_the_box_where_another_class_wins(radius):
    vnnlib = pytest.importorskip("vnnlib", reason="the extra lipbench[vnnlib] is not installed")
    query = vnnlib.parse_query_string(property_text(X, 1, 3, radius))
    (network,) = query.networks
    assert [list(tensor.shape) for tensor in (*network.inputs, *network.outputs)] == [[1, *SHAPE], [1, 3]]
    wins, ties, loses = [0.0, 1.0, 2.0], [1.0, 1.0, 0.0], [0.5, 1.0, 0.5]
    assert holds(query, X, wins)
    assert holds(query, X, ties)
    assert not holds(query, X, loses)
    inward = np.where(X > 0.5, -1.0, 1.0) / math.sqrt(X.size)
    near, far = (X + share * radius * inward for share in (1 - 1e-12, 1 + 1e-9))
    assert holds(query, near, wins) == bool(((near >= 0) & (near <= 1)).all())
    assert not holds(query, far, wins)
    outside = X.copy()
    outside[0, 0, 0] = -1e-6
    assert not holds(query, outside, wins), "the box"


def test_the_checker_refuses_another_text():
    vnnlib = pytest.importorskip("vnnlib", reason="the extra lipbench[vnnlib] is not installed")
    assert vnnlib
    text = property_text(X, 0, 2, 0.5)
    check_text(text, NAME)
    for wrong in (text.replace("X[0,0,0,1]", "X[0,0,0,9]"), text.replace("0.25", "1e-3"), text[:-4]):
        with pytest.raises(ExportError, match=NAME):
            check_text(wrong, NAME)


@pytest.mark.parametrize("radius", [0.5, 36 / 255, 1.58, 1e-5])
def test_a_name_says_which_property_it_is(radius):
    asked = Property(7, radius, "0123abcd")
    assert Property.of(str(asked)) == asked
    assert Property.of(f"some/folder/{asked}.vnnlib") == asked
    assert Property.of(f"x_{asked}") is None


def verdicts(path: Path, text: str):
    (path / "results.csv").write_text(text)
    return read_verdicts(path / "results.csv")


def test_verdicts_in_three_and_in_six_columns(tmp_path):
    ours = verdicts(tmp_path, f"instance,result,time\nvnnlib/{NAME}.vnnlib, unsat ,1.5\n{NAME},timeout,\n")
    assert [(v.asked.index, v.proves, v.breaks, v.seconds) for v in ours] == [
        (7, True, False, 1.5),
        (7, False, False, 0),
    ]
    theirs = verdicts(tmp_path, f"c,model.onnx,./vnnlib/{NAME}.vnnlib,0.1,sat,3\nc,m,{NAME},0,holds,1\n")
    assert [(v.proves, v.breaks) for v in theirs] == [(False, True), (True, False)]
    for text, what in {
        "": "no row",
        "instance,result,time\n": "no row",
        f"{NAME},unsat\n": "2 columns",
        "image_7.vnnlib,unsat,1\n": "no property",
        f"{NAME},usnat,1\n": "usnat",
        f"{NAME},unsat,fast\n": "fast",
    }.items():
        with pytest.raises(ResultsError, match=what):
            verdicts(tmp_path, text)
    with pytest.raises(ResultsError, match="cannot be read"):
        read_verdicts(tmp_path / "none.csv")


def test_witnesses_in_both_formats_packed_and_not(tmp_path):
    asked, numbers = Property.of(NAME), X.ravel().tolist()
    assert asked is not None
    assert witness_file(tmp_path, asked) is None
    comp = "sat\n(" + "\n".join(f"(X_{i} {v!r})" for i, v in enumerate(numbers)) + "\n(Y_0 1.0))"
    lib = "sat\nX float32 [1,1,2,3]\n" + "\n".join(map(repr, numbers)) + "\nY float32 [1,2]\n0.5\n0.25\n"
    (tmp_path / f"other_image_17_{NAME[8:]}.counterexample").write_text("sat")
    packed = tmp_path / f"model_{NAME}.counterexample.gz"
    packed.write_bytes(gzip.compress(comp.encode()))
    assert witness_file(tmp_path, asked) == packed
    (tmp_path / f"{NAME}.counterexample").write_text(lib)
    for path in (packed, tmp_path / f"{NAME}.counterexample"):
        assert np.array_equal(read_witness(path, SHAPE), X)
    for text in ("", "sat", "sat\n((X_0 1) (X_2 1))", lib.replace("0.5", "half"), comp.replace("X_0", "X_9")):
        packed.write_bytes(gzip.compress(text.encode()))
        with pytest.raises(ResultsError, match="no witness"):
            read_witness(packed, SHAPE)
