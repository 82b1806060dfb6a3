"""The module that comes out: calling, code, copies, compile, export, notes, meta device."""

import copy
import linecache
import pickle

import pytest
import torch
from model_constructor import Registry, build_model
from model_constructor.errors import GraphExecutionError, GraphInputError
from model_constructor.graph.model import GraphModel
from torch import nn

SKIP = """
schema_version: 1
model:
  graph:
    inputs: [state, time]
    modules:
      body: {_type_: mlp, dims: [4, 8, 4]}
      head: {_type_: nn.Linear, in_features: 4, out_features: 2}
    nodes:
      - {name: hidden, call: "module:body", args: [$state]}
      - {name: sum, call: "op:add", args: [$hidden, $state]}
      - {name: scaled, call: "op:mul", args: [$sum, $time]}
      - {name: halves, call: "op:chunk", args: [$scaled, 2], kwargs: {dim: -1}, out: [left, right]}
      - {name: out, call: "module:head", args: [$scaled]}
    outputs: {action: out, left: left}
"""


@pytest.fixture
def skip(tmp_path):
    path = tmp_path / "skip.yaml"
    path.write_text(SKIP, encoding="utf-8")
    torch.manual_seed(0)
    return build_model(path)


def by_hand(model, state, time):
    body, head = model.graph_modules["body"], model.graph_modules["head"]
    scaled = (body(state) + state) * time
    return {"action": head(scaled), "left": scaled[..., :2]}


def same(one, other):
    return list(one) == list(other) and all(torch.equal(one[key], other[key]) for key in one)


def from_nodes(nodes, outputs, inputs=("x",), registry=None, modules=None):
    data = {"inputs": list(inputs), "modules": modules, "nodes": nodes, "outputs": outputs}
    return build_model({"schema_version": 1, "model": {"graph": data}}, registry=registry)


def test_it_is_an_fx_module_with_the_promised_surface(skip):
    assert isinstance(skip, GraphModel)
    assert isinstance(skip, torch.fx.GraphModule)
    assert skip.inputs == ["state", "time"]
    assert isinstance(skip.graph_modules, nn.ModuleDict)
    keys = [
        "body.net.0.weight",
        "body.net.0.bias",
        "body.net.2.weight",
        "body.net.2.bias",
        "head.weight",
        "head.bias",
    ]
    assert list(skip.state_dict()) == [f"graph_modules.{key}" for key in keys]
    assert [name for name, _ in skip.named_children()] == ["graph_modules"]
    state, time = torch.randn(3, 4), torch.rand(3, 1)
    assert same(skip(state, time), by_hand(skip, state, time))
    assert same(torch.fx.Interpreter(skip).run(state, time), by_hand(skip, state, time))


def test_the_code_reads_like_the_yaml(skip):
    assert skip.code.splitlines() == [
        "def forward(self, state, time):",
        '    modules = self._modules["graph_modules"]._modules',
        '    hidden = modules["body"](state)  # skip.yaml:10',
        "    sum_1 = hidden + state; del hidden  # skip.yaml:11",
        "    scaled = sum_1 * time; del sum_1  # skip.yaml:12",
        "    chunk_result = op_chunk(scaled, 2, dim=-1)  # skip.yaml:13",
        "    left, right = take_all(chunk_result, 2); del chunk_result  # skip.yaml:13",
        '    out = modules["head"](scaled); del scaled  # skip.yaml:14',
        "    return {'action': out, 'left': left}",
    ]


def test_inputs_by_place_and_by_name(skip):
    state, time = torch.randn(3, 4), torch.rand(3, 1)
    expected = skip(state, time)
    assert same(skip(state, time=time), expected)
    assert same(skip(time=time, state=state), expected)
    # What is given by name is out of the way of what is given by place.
    assert same(skip(time, state=state), expected)


@pytest.mark.parametrize(
    ("args", "kwargs", "fragment"),
    [
        ((), {}, "Missing required input 'state', 'time'"),
        ((1,), {}, "Missing required input 'time'"),
        ((), {"time": 1}, "Missing required input 'state'"),
        ((1, 2, 3), {}, "Too many positional args: expected 2, got 3"),
        ((1, 2), {"time": 3}, "Too many positional args: expected 1, got 2"),
        ((1,), {"tiem": 3}, r"Unexpected kwargs: \['tiem'\]; did you mean 'time'"),
        ((1, 2), {"zzz": 3}, r"Unexpected kwargs: \['zzz'\]; the inputs are state, time"),
    ],
)
def test_wrong_calls(skip, args, kwargs, fragment):
    with pytest.raises(GraphInputError, match=fragment) as caught:
        skip(*args, **kwargs)
    assert isinstance(caught.value, TypeError)


def test_any_names_and_any_values():
    nodes = [
        {"name": "self", "call": "op:identity", "args": [["$class", "$modules", "$input"]]},
        {"name": "None", "call": "op:identity", "args": ["$self"]},
        {"name": "lambda", "call": "module:def", "args": ["$None"]},
    ]
    model = from_nodes(
        nodes, ["lambda"], ["class", "modules", "input"], modules={"def": {"_type_": "nn.Identity"}}
    )
    values = ({"a": torch.ones(1)}, None, [1, "two"])
    assert model(*values) == list(values)
    assert model(**dict(zip(["class", "modules", "input"], values, strict=True))) == list(values)


def test_a_failing_block_keeps_its_exception_and_says_where(skip):
    with pytest.raises(RuntimeError, match="mat1 and mat2") as caught:
        skip(torch.randn(3, 5), None)
    (note,) = caught.value.__notes__
    assert "step 'hidden', module 'body' at " in note
    assert "skip.yaml:10:9" in note
    assert "state = float32[3, 5] on cpu" in note


def test_notes_show_what_went_in_and_nest():
    class Fussy(nn.Module):
        def forward(self, values, options):
            raise KeyError("mine")

    registry = Registry()
    registry.register_module("fussy", Fussy)
    call = {"name": "f", "call": "module:fussy", "args": ["$x", {"n": "$n"}]}
    model = from_nodes([call], ["f"], ["x", "n"], registry, {"fussy": {"_type_": "fussy"}})
    with pytest.raises(KeyError, match="mine") as caught:
        model([torch.zeros(2, 3, dtype=torch.int64), {"a": None}], "word")
    (note,) = caught.value.__notes__
    assert "x = [int64[2, 3] on cpu, {a: None}], n = 'word'" in note


def test_a_type_error_of_a_block_is_not_taken_for_a_wrong_call():
    class Strict(nn.Module):
        def forward(self, x):
            raise TypeError("not this")

    registry = Registry()
    registry.register_module("strict", Strict)
    model = from_nodes(
        [{"name": "s", "call": "module:s", "args": ["$x"]}],
        ["s"],
        ["x"],
        registry,
        {"s": {"_type_": "strict"}},
    )
    with pytest.raises(TypeError, match="not this") as caught:
        model(1)
    assert not isinstance(caught.value, GraphInputError)


@pytest.mark.parametrize(
    ("out", "value", "fragment"),
    [
        (["a", "b"], torch.zeros(2), "is a Tensor"),
        (["a", "b"], [1, 2, 3], "has 3 items"),
        ({"k": "a"}, [1], "is a list"),
        ({"k": "a", "l": "b"}, {"k": 1}, r"\['l'\], but the result only has \['k'\]"),
    ],
)
def test_results_of_another_form(out, value, fragment):
    names = out if isinstance(out, list) else list(out.values())
    model = from_nodes([{"name": "n", "call": "op:identity", "args": ["$x"], "out": out}], names)
    with pytest.raises(GraphExecutionError, match=fragment) as caught:
        model(value)
    assert "op 'identity'" in caught.value.__notes__[0]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_are_whole_and_separate(skip, copied):
    twin = copied(skip)
    state, time = torch.randn(3, 4), torch.rand(3, 1)
    assert isinstance(twin, GraphModel)
    assert twin.code == skip.code
    assert same(twin(state, time), skip(state, time))
    with torch.no_grad():
        twin.graph_modules["head"].weight.add_(1)
    assert not torch.equal(twin(state, time)["action"], skip(state, time)["action"])
    with pytest.raises(RuntimeError) as caught:
        twin(torch.randn(3, 5), None)
    assert "skip.yaml:10:9" in caught.value.__notes__[0]


def test_copies_keep_shared_weights_shared():
    spec = {"_type_": "nn.Linear", "in_features": 2, "out_features": 2}
    call = [{"name": "h", "call": "module:a", "args": ["$x"]}]
    model = from_nodes(call, ["h"], modules={"a": spec, "b": spec})
    model.graph_modules["b"].weight = model.graph_modules["a"].weight
    twin = copy.deepcopy(model)
    assert twin.graph_modules["a"].weight is twin.graph_modules["b"].weight
    assert twin.graph_modules["a"].weight is not model.graph_modules["a"].weight
    shallow = copy.copy(model)
    assert shallow.graph_modules["a"] is model.graph_modules["a"]


def test_graph_edits_take_effect_and_travel(skip):
    for edited in skip.graph.nodes:
        if edited.name == "sum_1":
            edited.target = torch.sub
    skip.recompile()
    state, time = torch.randn(3, 4), torch.rand(3, 1)
    expected = (skip.graph_modules["body"](state) - state) * time
    assert torch.equal(skip(state, time)["left"], expected[..., :2])
    assert torch.equal(pickle.loads(pickle.dumps(skip))(state, time)["left"], expected[..., :2])


def test_replaced_modules_and_hooks_are_seen(skip):
    seen = []
    skip.graph_modules["body"].register_forward_hook(lambda *_: seen.append(1))
    skip.graph_modules["head"] = nn.Linear(4, 7)
    assert skip(torch.randn(3, 4), torch.rand(3, 1))["action"].shape == (3, 7)
    assert seen == [1]


def test_gradients_equal_the_hand_written_ones(skip):
    state, time = torch.randn(3, 4), torch.rand(3, 1)
    skip(state, time)["action"].sum().backward()
    gradients = [parameter.grad.clone() for parameter in skip.parameters()]
    skip.zero_grad()
    by_hand(skip, state, time)["action"].sum().backward()
    for gradient, parameter in zip(gradients, skip.parameters(), strict=True):
        assert torch.equal(gradient, parameter.grad)


def test_compiles_without_a_graph_break(skip):
    torch._dynamo.reset()
    compiled = torch.compile(skip, fullgraph=True, backend="eager")
    state, time = torch.randn(3, 4), torch.rand(3, 1)
    assert same(compiled(state, time), skip(state, time))
    assert same(compiled(time=time, state=state), skip(state, time))


@pytest.mark.parametrize("strict", [False, True])
def test_exports_with_its_names(skip, strict):
    state, time = torch.randn(3, 4), torch.rand(3, 1)
    program = torch.export.export(skip, (state, time), strict=strict)
    assert list(program.graph_signature.user_inputs) == ["state", "time"]
    assert set(program.state_dict) == set(skip.state_dict())
    result = program.module()(state, time)
    for key, value in skip(state, time).items():
        assert torch.allclose(result[key], value)


def test_on_the_meta_device_nothing_is_allocated():
    layers = [{"_type_": "nn.Linear", "in_features": 100_000, "out_features": 100_000}] * 4
    with torch.device("meta"):
        model = build_model({"schema_version": 1, "model": {"sequential": {"layers": layers}}})
        assert model(torch.empty(2, 100_000)).shape == (2, 100_000)
    assert all(parameter.is_meta for parameter in model.parameters())


def test_equal_seeds_give_equal_weights(tmp_path):
    path = tmp_path / "skip.yaml"
    path.write_text(SKIP, encoding="utf-8")
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(build_model(path).state_dict())
    assert same(*states)


def test_generated_code_is_shown_in_tracebacks_and_forgotten_with_the_model(skip):
    name = type(skip).forward.__code__.co_filename
    assert 'modules["body"]' in linecache.getline(name, 3)


def test_state_moves_with_the_module(skip):
    assert skip.double().graph_modules["head"].weight.dtype == torch.float64
    assert not skip.eval().graph_modules["body"].training
