"""Merging: order, positions, directives."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_constructor.config.merge import merge_values
from model_constructor.config.source_map import SourceLocation, SourceMap
from model_constructor.errors import ConfigError

keys = st.sampled_from("abcd")
scalars = st.one_of(st.integers(), st.booleans(), st.none(), st.text("xyz", max_size=3))
# One shape at every place (mappings above, scalars or lists below), for there merging is associative.
levels = st.dictionaries(keys, st.one_of(scalars, st.lists(scalars, max_size=2)), max_size=4)
trees = st.dictionaries(st.sampled_from("mnop"), levels, max_size=4)
anything = st.recursive(
    scalars, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3))
)


def merged(base, override):
    return merge_values(base, override)[0]


def by_hand(base, override):
    """The rule without directives, as a loop."""
    if not (isinstance(base, dict) and isinstance(override, dict)):
        return override
    result = dict(base)
    for key, value in override.items():
        result[key] = by_hand(base[key], value) if key in base else value
    return result


@given(anything, anything)
def test_without_directives(base, override):
    result = merged(base, override)
    assert result == by_hand(base, override)
    if isinstance(base, dict) and isinstance(override, dict):
        assert list(result) == [*base, *(key for key in override if key not in base)]


@given(trees, trees, trees)
def test_associative_where_shapes_agree(one, two, three):
    left, right = merged(merged(one, two), three), merged(one, merged(two, three))
    assert left == right
    assert list(left) == list(right)


@given(anything)
def test_neutral_and_idempotent(tree):
    assert merged(tree, tree) == tree
    if isinstance(tree, dict):
        assert merged({}, tree) == tree
        assert merged(tree, {}) == tree


@given(st.lists(scalars, max_size=4), st.lists(scalars, max_size=4))
def test_append_and_prepend(base, more):
    for mode, expected in (("append", base + more), ("prepend", more + base)):
        directive = {"x": {"_merge_": mode, "_value_": more}}
        assert merged({"x": base}, directive) == {"x": expected}
        assert merged({"x": None}, directive) == {"x": more}
        assert merged({}, directive) == {"x": more}


named = st.lists(
    st.builds(lambda name, value: {"name": name, "v": value}, keys, scalars),
    max_size=4,
    unique_by=lambda item: item["name"],
)


@given(named, named)
def test_keyed_keeps_base_places(base, override):
    result = merged({"x": base}, {"x": {"_merge_": "keyed", "key": "name", "_value_": override}})["x"]
    expected = by_hand({item["name"]: item for item in base}, {item["name"]: item for item in override})
    assert result == list(expected.values())


def test_replace_stops_the_deep_merge():
    assert merged({"x": {"a": 1}}, {"x": {"_merge_": "replace", "_value_": {"b": 2}}}) == {"x": {"b": 2}}


def test_directives_inside_a_keyed_item():
    base = {"x": [{"name": "p", "list": [1]}]}
    item = {"name": "p", "list": {"_merge_": "append", "_value_": [2]}}
    assert merged(base, {"x": {"_merge_": "keyed", "key": "name", "_value_": [item]}}) == {
        "x": [{"name": "p", "list": [1, 2]}]
    }


def test_positions_follow_the_values():
    def place(line):
        return SourceLocation("f", line, 1)

    below = SourceMap({("x",): place(1), ("x", 0): place(2), ("k",): place(3)})
    above = SourceMap({("x", "_value_"): place(10), ("x", "_value_", 0): place(11)})
    _, places = merge_values(
        {"x": ["a"], "k": 1},
        {"x": {"_merge_": "append", "_value_": ["b"]}},
        base_map=below,
        override_map=above,
    )
    assert [places.get(("x", index)).line for index in (0, 1)] == [2, 11]
    assert places.get(("k",)).line == 3


@pytest.mark.parametrize(
    ("base", "directive", "fragment"),
    [
        ([1], {"_merge_": "apend", "_value_": []}, "Invalid merge mode"),
        ([1], {"_merge_": 3, "_value_": []}, "Invalid merge mode"),
        ([1], {"_merge_": "append"}, "needs '_value_'"),
        ([1], {"_merge_": "append", "_value_": 3}, "needs a list"),
        ([1], {"_merge_": "append", "_value_": [], "key": "k"}, "means nothing"),
        ([1], {"_merge_": "append", "_value_": [], "vlaue": 1}, "Unknown key 'vlaue'"),
        ({"a": 1}, {"_merge_": "append", "_value_": []}, "no list"),
        ([], {"_merge_": "keyed", "_value_": []}, "needs 'key'"),
        ([1], {"_merge_": "keyed", "key": "k", "_value_": []}, "is no mapping"),
        ([{}], {"_merge_": "keyed", "key": "k", "_value_": []}, "needs a name under 'k'"),
        ([{"k": "a"}, {"k": "a"}], {"_merge_": "keyed", "key": "k", "_value_": []}, "two items with k 'a'"),
        ([], {"_merge_": "keyed", "key": "k", "_value_": [{"k": "a"}, {"k": "a"}]}, "two items with k 'a'"),
    ],
)
def test_wrong_directives(base, directive, fragment):
    with pytest.raises(ConfigError, match=fragment) as caught:
        merge_values({"x": base, "y": 1}, {"x": directive})
    assert caught.value.config_path[0] == "x"


def test_invalid_mode_suggests_the_modes():
    with pytest.raises(ConfigError) as caught:
        merge_values({"x": []}, {"x": {"_merge_": "add", "_value_": []}})
    assert caught.value.suggestions == ["replace", "append", "prepend", "keyed"]


def test_all_wrong_directives_at_once():
    with pytest.raises(ConfigError) as caught:
        merge_values({"x": [], "y": []}, {"x": {"_merge_": "add", "_value_": []}, "y": {"_merge_": "append"}})
    assert len(caught.value.errors) == 2
