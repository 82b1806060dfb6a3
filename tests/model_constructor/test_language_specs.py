"""Registry, specs, imports: what is found, checked and built."""

import sys
import textwrap

import pytest
import torch
from model_constructor import Registry, build_model, compile_ir
from model_constructor.errors import ConfigError
from model_constructor.registry.default_registry import get_default_registry
from torch import nn


def sequential(*layers, **more):
    return {"schema_version": 1, "model": {"sequential": {"layers": list(layers)}}, **more}


def linear(**changes):
    return {"_type_": "nn.Linear", "in_features": 2, "out_features": 3, **changes}


def mistakes(config, call=compile_ir, **kwargs):
    with pytest.raises(ConfigError) as caught:
        call(config, **kwargs)
    return caught.value.errors


def only(config, **kwargs):
    (error,) = mistakes(config, **kwargs)
    return error


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A package `plugin_pkg` on the path, with modules of the given texts."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "plugin_pkg").mkdir()
    (tmp_path / "plugin_pkg" / "__init__.py").write_text("")

    def write(name, text):
        (tmp_path / "plugin_pkg" / f"{name}.py").write_text(textwrap.dedent(text))
        return f"plugin_pkg.{name}"

    yield write
    for name in [name for name in sys.modules if name.split(".")[0] == "plugin_pkg"]:
        del sys.modules[name]


def test_registering_twice():
    registry = Registry()
    registry.register_module("lin", nn.Linear)
    registry.register_module("lin", nn.Linear)
    registry.register_op("lin", torch.add)
    assert registry.list_modules() == registry.list_ops() == ["lin"]
    with pytest.raises(ValueError, match="registered as"):
        registry.register_module("lin", nn.Bilinear)
    with pytest.raises(ValueError, match="non-empty string"):
        registry.register_op("", torch.add)
    with pytest.raises(ValueError, match="callable"):
        registry.register_op("x", 3)
    with pytest.raises(ValueError, match="signature_policy"):
        registry.register_op("x", torch.add, signature_policy="lax")
    with pytest.raises(ConfigError) as caught:
        registry.get_module("lim", config_path=("a",))
    assert (caught.value.suggestions, caught.value.config_path) == (["lin"], ("a",))


def test_the_default_registry_has_what_is_promised():
    registry = get_default_registry()
    assert registry is get_default_registry()
    modules = (
        "Identity Linear LazyLinear Conv1d Conv2d LazyConv2d BatchNorm1d BatchNorm2d LayerNorm GroupNorm "
        "ReLU GELU SiLU Dropout Dropout2d Flatten"
    )
    assert {f"nn.{name}" for name in modules.split()} <= set(registry.list_modules())
    assert {"mlp", "conv_bn_act", "residual_block"} <= set(registry.list_modules())
    assert {"add", "mul", "getitem", "cat", "stack", "identity"} <= set(registry.list_ops())


def test_arguments_by_place_by_name_and_both():
    model = build_model(
        sequential(
            {
                "_type_": "nn.Linear",
                "_args_": [2],
                "out_features": 3,
                "_kwargs_": {"bias": False},
                "_name_": "first",
            },
            {"_type_": "mlp", "dims": [3, 4, 5], "activation": {"_type_": "nn.ELU", "alpha": 0.5}},
            {
                "_type_": "nn.Sequential",
                "_args_": [{"_type_": "nn.ReLU"}, {"_type_": "nn.Linear", "_args_": [5, 6]}],
            },
        )
    )
    first, second, third = model.graph_modules.values()
    assert (first.in_features, first.out_features, first.bias) == (2, 3, None)
    assert isinstance(second.net[1], nn.ELU)
    assert second.net[1].alpha == 0.5
    assert third[1].out_features == 6
    assert model(torch.ones(7, 2)).shape == (7, 6)


@pytest.mark.parametrize(
    ("spec", "path", "fragment", "suggestions"),
    [
        ({"_type_": "nn.Linaer"}, ("_type_",), "Unknown module type 'nn.Linaer'", "nn.Linear"),
        ({"_type_": 3}, ("_type_",), "non-empty string", None),
        (linear(_target_="a.b"), ("_target_",), "not both", None),
        (linear(in_featres=3), ("in_featres",), "Unknown kwargs", "in_features"),
        (linear(_kwargs_={"bais": 3}), ("_kwargs_", "bais"), "Unknown kwargs", "bias"),
        (linear(_kwargs_={"in_features": 3}), ("_kwargs_", "in_features"), "Duplicate kwargs keys", None),
        (linear(_kwargs_=3), ("_kwargs_",), "must be a mapping", None),
        ({"_type_": "nn.Linear", "_args_": 3}, ("_args_",), "must be a list", None),
        (linear(_args_=[1]), ("in_features",), "by position and by name", None),
        ({"_type_": "nn.ReLU", "_args_": [True, 2]}, (), "at most 1 positional", None),
        ({"_type_": "nn.Linear", "in_features": 2}, (), "Missing required arguments: ['out_features']", None),
        (linear(_arg_=3), ("_arg_",), "Unknown reserved keys", "_args_"),
        (3, (), "needs a spec", None),
        ({"type": "nn.ReLU"}, (), "needs a spec", None),
        (
            linear(bias={"deep": [{"_type_": "nn.Rellu"}]}),
            ("bias", "deep", 0, "_type_"),
            "Unknown module",
            "nn.ReLU",
        ),
    ],
)
def test_wrong_specs(spec, path, fragment, suggestions):
    found = mistakes(sequential(spec))
    error = next(error for error in found if fragment in error.message)
    assert error.config_path == ("model", "sequential", "layers", 0, *path)
    if suggestions:
        assert suggestions in error.suggestions


def test_the_outer_type_is_checked_before_anything_is_built():
    built = []
    registry = Registry()
    registry.register_module("inner", lambda: built.append(1) or nn.Identity())
    registry.register_module("outer", lambda child: child)
    for spec in (
        {"_type_": "outr", "child": {"_type_": "inner"}},
        {"_type_": "outer", "chid": {"_type_": "inner"}},
    ):
        mistakes(sequential({"_type_": "inner"}, spec), build_model, registry=registry)
    assert built == []


def test_reserved_keys_are_arguments_when_not_strict():
    registry = Registry()
    registry.register_module("odd", lambda _hidden_: nn.Linear(_hidden_, 1))
    config = sequential({"_type_": "odd", "_hidden_": 4, "__dropped__": 1}, settings={"strict": False})
    assert build_model(config, registry=registry).graph_modules.layer0.in_features == 4


def test_signature_policies():
    class Hidden(nn.Identity):
        """Shows no signature."""

        __signature__ = "nonsense"

    registry = Registry()
    registry.register_module("strict", Hidden, signature_policy="strict")
    registry.register_module("lenient", Hidden)
    registry.register_module("never", nn.Linear, signature_policy="runtime_only")
    registry.register_module("free", lambda **options: nn.Linear(**options))
    assert "shows no signature" in only(sequential({"_type_": "strict"}), registry=registry).message
    compile_ir(sequential({"_type_": "lenient", "x": 1}, {"_type_": "never", "y": 1}), registry=registry)
    compile_ir(sequential({"_type_": "free", "anything": 1}), registry=registry)
    (error,) = mistakes(sequential({"_type_": "never", "y": 1}), build_model, registry=registry)
    assert "Instantiation failed" in error.message
    assert isinstance(error.__cause__, TypeError)


def test_constructors_that_fail_are_reported_together():
    config = sequential(
        {"_type_": "mlp", "dims": [1]}, {"_type_": "nn.Conv2d", "_args_": [3, 4, 1], "groups": 2}
    )
    found = mistakes(config, build_model)
    assert [error.config_path[-1] for error in found] == [0, 1]
    assert isinstance(found[0].__cause__, ValueError)


def test_out_of_memory_keeps_its_type():
    registry = Registry()

    def huge():
        raise MemoryError

    registry.register_module("huge", huge)
    with pytest.raises(MemoryError):
        build_model(sequential({"_type_": "huge"}), registry=registry)


def test_a_module_spec_must_make_a_module():
    registry = Registry()
    registry.register_module("number", lambda: 3)
    (error,) = mistakes(sequential({"_type_": "number"}), build_model, registry=registry)
    assert "got int" in error.message


def test_target_behind_its_gate():
    def config(target, **settings):
        return sequential({"_target_": target, "_args_": [2, 3]}, settings=settings)

    allowed = {"allow_target": True, "allowed_import_prefixes": ["torch.nn."]}
    assert build_model(config("torch.nn.Linear", **allowed)).graph_modules.layer0.out_features == 3
    for target, settings, fragment in (
        ("torch.nn.Linear", {}, "disabled by settings.allow_target"),
        ("Linear", allowed, "Invalid _target_ import path"),
        ("torch.nn.3", allowed, "Invalid _target_ import path"),
        ("os.system", allowed, "not allowed by settings.allowed_import_prefixes"),
        ("torch.nnx.Linear", allowed, "not allowed by settings.allowed_import_prefixes"),
        ("torch.nn.gone.Linear", allowed, "Failed to import module"),
        ("torch.nn.Linaer", allowed, "has no attribute 'Linaer'"),
        ("torch.nn.modules", allowed, "cannot be called"),
    ):
        error = only(config(target, **settings))
        assert fragment in error.message
        assert error.config_path[-1] == "_target_"


def test_imports_register_once_for_each_registry(plugin):
    name = plugin(
        "good",
        """
        from torch import nn
        calls = []
        def register(registry):
            calls.append(registry)
            registry.register_module("plug", lambda: nn.Identity())
        """,
    )
    settings = {"allowed_import_prefixes": ["plugin_pkg"]}
    config = sequential({"_type_": "plug"}, imports=[name], settings=settings)
    first, second = Registry(), Registry()
    for registry in (first, first, second):
        build_model(config, registry=registry)
    assert sys.modules[name].calls == [first, second]


def test_imports_that_fail(plugin):
    plugin("raises", "raise RuntimeError('no')")
    plugin("refuses", "def register(registry): registry.register_module('', None)")
    settings = {"allowed_import_prefixes": ["plugin_pkg."]}
    config = sequential(
        {"_type_": "of_the_plugin"},
        imports=["plugin_pkg.raises", "plugin_pkg.gone", "plugin_pkg.refuses", "os"],
        settings=settings,
    )
    found = mistakes(config, registry=Registry())
    assert [error.config_path for error in found] == [("imports", index) for index in range(4)]
    assert "RuntimeError: no" in found[0].message
    assert "allowed_import_prefixes, which are plugin_pkg." in found[3].message
    assert found[3].suggestions == []
    error = only(sequential({"_type_": "nn.ReLU"}, imports=["a"], settings={"allow_imports": False}))
    assert "disabled by settings.allow_imports" in error.message
