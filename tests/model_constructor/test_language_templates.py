"""Templates."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_constructor.config.merge import merge_values
from model_constructor.config.templates import expand_templates
from model_constructor.errors import ConfigError

bodies = st.dictionaries(
    st.sampled_from("abc"),
    st.recursive(st.integers(), lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=2)),
    max_size=3,
)


def expanded(data):
    return expand_templates(data)[0]


@given(bodies, bodies)
def test_a_use_is_a_merge(template, node):
    data = {"templates": {"t": template}, "x": {"_template_": "t", **node}, "y": [{"_template_": "t"}]}
    assert expanded(data) == {"x": merge_values(template, node)[0], "y": [template]}


@given(bodies)
def test_nothing_to_do(body):
    assert expanded(body) == body
    assert expanded({"templates": {"t": body}, "k": body}) == {"k": body}


def test_templates_of_templates_and_directives():
    data = {
        "templates": {
            "base": {"layers": [1], "width": 2},
            "wide": {"_template_": "base", "width": 9, "layers": {"_merge_": "append", "_value_": [2]}},
        },
        "x": {"_template_": "wide", "layers": {"_merge_": "prepend", "_value_": [0]}},
    }
    assert expanded(data) == {"x": {"layers": [0, 1, 2], "width": 9}}


def test_a_node_may_use_templates_in_what_it_adds():
    data = {
        "templates": {"act": {"_type_": "nn.ReLU"}, "mlp": {"_type_": "mlp", "dims": [1, 1]}},
        "x": {"_template_": "mlp", "activation": {"_template_": "act"}},
    }
    assert expanded(data)["x"]["activation"] == {"_type_": "nn.ReLU"}


def test_uses_do_not_share_containers():
    result = expanded({"templates": {"t": {"l": [1]}}, "x": {"_template_": "t"}, "y": {"_template_": "t"}})
    result["x"]["l"].append(2)
    assert result["y"] == {"l": [1]}


@pytest.mark.parametrize(
    ("data", "fragment"),
    [
        ({"templates": [1], "x": 1}, "'templates' must be a mapping"),
        ({"templates": {"t": 3}}, "template 't' must be a mapping"),
        ({"x": {"_template_": "t"}}, "Unknown template 't'"),
        ({"templates": {}, "x": {"_template_": ["t"]}}, "must be a template's name"),
        ({"templates": {"a": {"_template_": "b"}, "b": {"_template_": "a"}}}, "cycle detected: a -> b -> a"),
        ({"templates": {"unused": {"x": {"_template_": "no"}}}}, "Unknown template 'no'"),
    ],
)
def test_mistakes(data, fragment):
    with pytest.raises(ConfigError, match=fragment):
        expand_templates(data)


def test_unknown_template_is_named_with_its_neighbours_and_once():
    data = {"templates": {"linear": {}}, "x": {"_template_": "linaer"}, "y": {"_template_": "linaer"}}
    with pytest.raises(ConfigError) as caught:
        expand_templates(data)
    assert caught.value.suggestions == ["linear"]
    assert caught.value.config_path == ("templates", "linaer")
    assert len(caught.value.errors) == 1
