"""The sequential and graph forms: what is accepted, what is refused, and where."""

import pytest
import torch
from model_constructor import build_model, compile_ir
from model_constructor.errors import ConfigError
from model_constructor.graph.ir import Ref


def graph(**changes):
    data = {
        "inputs": ["x"],
        "modules": {"lin": {"_type_": "nn.Linear", "in_features": 2, "out_features": 2}},
        "nodes": [{"name": "h", "call": "module:lin", "args": ["$x"]}],
        "outputs": ["h"],
    }
    data.update(changes)
    return {"schema_version": 1, "model": {"graph": {key: v for key, v in data.items() if v is not ...}}}


def node(name="n", call="op:identity", args=("$x",), **more):
    return {"name": name, "call": call, "args": list(args), **more}


def mistakes(config):
    with pytest.raises(ConfigError) as caught:
        compile_ir(config)
    return caught.value.errors


def run(nodes, outputs, *inputs, **changes):
    return build_model(graph(nodes=nodes, outputs=outputs, **changes))(*inputs)


def test_one_identity_keeps_the_shape():
    config = {"schema_version": 1, "model": {"sequential": {"layers": [{"_type_": "nn.Identity"}]}}}
    assert build_model(config)(torch.zeros(3, 4)).shape == (3, 4)


def test_adding_the_input_to_itself_doubles_it():
    nodes = [node("same", "module:id"), node("sum", "op:add", ["$x", "$same"])]
    x = torch.randn(3, 4)
    assert torch.equal(run(nodes, ["sum"], x, modules={"id": {"_type_": "nn.Identity"}}), 2 * x)


def test_sequential_names():
    layers = [{"_type_": "nn.Linear", "in_features": 2, "out_features": 2}, {"_type_": "nn.ReLU"}]
    data = {"inputs": ["state"], "layers": layers, "outputs": {"first": "h0", "last": "$h1"}}
    config = {"schema_version": 1, "model": {"sequential": data}}
    ir = compile_ir(config)
    assert list(ir.modules) == ["layer0", "layer1"]
    assert [step.out for step in ir.steps] == ["h0", "h1"]
    model = build_model(config)
    assert list(model.state_dict()) == ["graph_modules.layer0.weight", "graph_modules.layer0.bias"]
    result = model(state=torch.randn(1, 2))
    assert torch.equal(result["first"].relu(), result["last"])


def test_mapping_nodes_run_in_their_order():
    nodes = {"b": {"call": "op:mul", "args": ["$a", 3]}, "a": {"call": "op:add", "args": ["$x", 1]}}
    assert run(nodes, ["b"], 2, order=["a", "b"]) == 9
    assert "requires 'order" in mistakes(graph(nodes=nodes, outputs=["b"]))[0].message


def test_steps():
    steps = [
        {"call": "op:add", "args": ["$x", 1], "out": "y"},
        {"call": "op:mul", "args": ["$y", "$y"], "out": "z"},
    ]
    assert build_model(graph(nodes=..., steps=steps, outputs=["z"], modules=None))(2) == 9


def test_forms_of_out():
    nodes = [
        node("parts", "op:identity", [["$x", 2]], out=["a", "b"]),
        node("fields", "op:identity", [{"p": "$a", "q": "$b", "r": 0}], out={"q": "c", "p": "d"}),
    ]
    assert run(nodes, ["a", "b", "c", "d"], 1) == (1, 2, 2, 1)


def test_dollars_and_constants_anywhere_in_arguments():
    argument = {
        "list": ["$x", "$$x", "${", 1.5, None, True],
        "map": {"k": "$x", "not a name": [float("inf")]},
    }
    expected = {"list": [7, "$x", "${", 1.5, None, True], "map": {"k": 7, "not a name": [float("inf")]}}
    nodes = [node("n", "op:identity", [argument])]
    config = graph(nodes=nodes, outputs=["n"])
    assert compile_ir(config).steps[0].args[0]["list"][:2] == [Ref("x"), "$x"]
    # A list that a step gets is its own: changing it must not reach the next call.
    model = build_model(config)
    model(7)["list"].append("changed")
    assert model(7) == expected


@pytest.mark.parametrize(
    ("outputs", "policy", "expected"),
    [
        (["a"], ..., 1),
        (["a"], "single", 1),
        (["$a"], "tuple", (1,)),
        (["a", "x"], ..., (1, 1)),
        (["a", "a"], "tuple", (1, 1)),
        ({"k": "a", "l": "$x"}, ..., {"k": 1, "l": 1}),
        ({"k": "a"}, "dict", {"k": 1}),
    ],
)
def test_return_policies(outputs, policy, expected):
    assert run([node("a")], outputs, 1, **{"return": policy}) == expected


def test_a_shared_module_and_one_that_is_only_owned():
    modules = {
        name: {"_type_": "nn.Linear", "in_features": 2, "out_features": 2} for name in ("lin", "spare")
    }
    nodes = [node("a", "module:lin"), node("b", "module:lin", ["$a"])]
    model = build_model(graph(nodes=nodes, outputs=["b"], modules=modules))
    assert list(model.graph_modules) == ["lin", "spare"]
    x, lin = torch.randn(3, 2), model.graph_modules["lin"]
    assert torch.equal(model(x), lin(lin(x)))


@pytest.mark.parametrize(
    ("changes", "path", "fragment"),
    [
        ({"inputs": []}, ("inputs",), "non-empty list"),
        ({"inputs": ["x", "x"]}, ("inputs", 1), "listed twice"),
        ({"inputs": ["x", "3x"]}, ("inputs", 1), "no valid name"),
        ({"modules": [1]}, ("modules",), "must be a mapping"),
        (
            {"modules": {"a b": {"_type_": "nn.ReLU"}}, "nodes": [node("h")]},
            ("modules", "a b"),
            "no valid module name",
        ),
        (
            {"modules": {"keys": {"_type_": "nn.ReLU"}}, "nodes": [node("h")]},
            ("modules", "keys"),
            "torch uses",
        ),
        ({"nodes": ...}, (), "exactly one of 'nodes' and 'steps'"),
        ({"steps": []}, (), "exactly one of 'nodes' and 'steps'"),
        ({"nodes": ..., "steps": [], "outputs": ["x"]}, ("steps",), "must not be empty"),
        ({"nodes": ..., "steps": {"a": 1}}, ("steps",), "must be a list"),
        ({"nodes": 3}, ("nodes",), "must be a list"),
        ({"nodes": [3], "outputs": ["x"]}, ("nodes", 0), "must be a mapping"),
        ({"order": ["h"]}, ("order",), "only goes with"),
        ({"nodes": {"h": node(name=...)}, "order": "h"}, ("order",), "must be a list"),
        ({"nodes": {"h": {"call": "op:identity"}}, "order": ["h", "i"]}, ("order", 1), "no such node"),
        ({"nodes": {"h": {"call": "op:identity"}}, "order": ["h", "h"]}, ("order", 1), "twice"),
        (
            {"nodes": {"h": {"call": "op:identity"}}, "order": [], "outputs": ["x"]},
            ("nodes", "h"),
            "not in 'order'",
        ),
        ({"nodes": [{"call": "op:add"}], "outputs": ["x"]}, ("nodes", 0), "needs 'name'"),
        ({"nodes": [node("1")], "outputs": ["x"]}, ("nodes", 0, "name"), "no valid node name"),
        ({"nodes": [{"name": "h"}]}, ("nodes", 0), "'call' is missing"),
        ({"nodes": [node("h", "lin")]}, ("nodes", 0, "call"), "module:<name> or op:<name>"),
        ({"nodes": [node("h", 3)]}, ("nodes", 0, "call"), "module:<name> or op:<name>"),
        ({"nodes": [node("h", "module:lni")]}, ("nodes", 0, "call"), "Unknown module 'lni'"),
        ({"nodes": [node("h", "op:ad")]}, ("nodes", 0, "call"), "Unknown op 'ad'"),
        ({"nodes": [node("h", kwarg={})]}, ("nodes", 0, "kwarg"), "Unknown key 'kwarg'"),
        ({"nodes": [{"name": "h", "call": "op:add", "args": 3}]}, ("nodes", 0, "args"), "must be a list"),
        ({"nodes": [node("h", kwargs=[])]}, ("nodes", 0, "kwargs"), "must be a mapping"),
        ({"nodes": [node("h", args=["$y"])]}, ("nodes", 0, "args", 0), "Forward reference"),
        ({"nodes": [node("h", args=[[{"k": "$y"}]])]}, ("nodes", 0, "args", 0, 0, "k"), "Forward reference"),
        ({"nodes": [node("h", args=["$h"])]}, ("nodes", 0, "args", 0), "Forward reference"),
        ({"nodes": [node("h", args=["$a-b"])]}, ("nodes", 0, "args", 0), "form $name"),
        ({"nodes": [node("h", out=[])], "outputs": ["x"]}, ("nodes", 0, "out"), "non-empty list"),
        ({"nodes": [node("h", out=["a", "b c"])], "outputs": ["x"]}, ("nodes", 0, "out", 1), "no valid name"),
        ({"nodes": [node("h", out=["a", "a"])], "outputs": ["a"]}, ("nodes", 0), "collision"),
        ({"nodes": [node("x")], "outputs": ["x"]}, ("nodes", 0), "collision"),
        ({"nodes": [node("h", out="other")]}, ("outputs", 0), "not available: ['h']"),
        ({"outputs": ...}, (), "'outputs' is missing"),
        ({"outputs": []}, ("outputs",), "non-empty"),
        ({"outputs": {}}, ("outputs",), "must not be empty"),
        ({"outputs": [3]}, ("outputs", 0), "a value's name"),
        ({"outputs": ["hh"]}, ("outputs", 0), "not available: ['hh']"),
        ({"return": "list"}, ("return",), "one of single, tuple, dict"),
        ({"return": "dict"}, ("return",), "needs a mapping"),
        ({"outputs": {"a": "h"}, "return": "single"}, ("return",), "needs a list"),
        ({"outputs": ["h", "x"], "return": "single"}, ("return",), "exactly one output"),
        ({"ouputs": ["h"]}, ("ouputs",), "Unknown key 'ouputs'"),
    ],
)
def test_mistakes(changes, path, fragment):
    found = mistakes(graph(**changes))
    assert ("model", "graph", *path) in [error.config_path for error in found if fragment in error.message]


@pytest.mark.parametrize(
    ("changes", "path", "fragment"),
    [
        ({"inputs": ["a", "b"]}, ("inputs",), "one input"),
        ({"layers": []}, ("layers",), "non-empty list"),
        ({"outputs": ["h9"]}, ("outputs", 0), "not available"),
        ({"inputs": ["h0"]}, ("layers", 0), "collision"),
        ({"layer": []}, ("layer",), "Unknown key"),
    ],
)
def test_sequential_mistakes(changes, path, fragment):
    data = {"layers": [{"_type_": "nn.Identity"}], **changes}
    found = mistakes({"schema_version": 1, "model": {"sequential": data}})
    assert ("model", "sequential", *path) in [
        error.config_path for error in found if fragment in error.message
    ]


def test_every_mistake_has_a_place(tmp_path):
    path = tmp_path / "m.yaml"
    path.write_text(
        """schema_version: 1
model:
  graph:
    inputs: [x]
    modules:
      lin: {_type_: nn.Linear, in_feature: 3, out_features: 2}
    nodes:
      - {name: a, call: "module:lni", args: [$x]}
      - {name: b, call: "op:add", args: [$x, $later]}
      - {name: later, cal: "op:add"}
    outputs: [c]
""",
        encoding="utf-8",
    )
    found = mistakes(path)
    assert [(error.location.line, error.location.col) for error in found] == [
        (6, 32),
        (8, 25),
        (9, 46),
        (10, 23),
        (11, 15),
    ]
    assert found[0].suggestions[0] == "in_features"
    assert found[1].suggestions == ["module:lin"]


def test_one_mistake_is_not_reported_as_two():
    """A step that cannot be read may well have made the value that a later one misses."""
    nodes = [node("1bad"), node("b", args=["$of_the_first"])]
    assert len(mistakes(graph(nodes=nodes, outputs=["b"]))) == 1


def test_calls_that_forward_cannot_take_are_refused_when_built():
    nodes = [
        {"name": "h", "call": "module:lin", "kwargs": {"inptu": "$x"}},
        node("i", "module:lin", ["$x", "$x"]),
    ]
    with pytest.raises(ConfigError) as caught:
        build_model(graph(nodes=nodes, outputs=["i"]))
    assert [error.config_path[3:] for error in caught.value.errors] == [(0, "kwargs", "inptu"), (1,)]
    assert caught.value.errors[0].suggestions == ["input"]
