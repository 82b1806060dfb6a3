"""Interpolation: paths, environment, text and types."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_constructor.config.interpolate import interpolate_config
from model_constructor.config.source_map import SourceLocation, SourceMap
from model_constructor.errors import ConfigError

plain_text = st.text(st.characters(exclude_characters="${}", exclude_categories=["Cs"]), max_size=8)
plain_values = st.recursive(
    st.one_of(st.integers(), st.floats(allow_nan=False), st.booleans(), st.none(), plain_text),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.from_regex("[a-z]{1,3}", fullmatch=True), inner, max_size=3),
    ),
    max_leaves=8,
)


def filled(data):
    return interpolate_config(data)[0]


@given(plain_values)
def test_text_without_sites_stays(value):
    assert filled({"x": value}) == {"x": value}


@given(plain_values)
def test_a_whole_site_keeps_the_type(value):
    result = filled({"p": {"q": [0, value]}, "x": "${p.q[1]}", "y": "${ x }"})
    assert result["x"] == value
    assert type(result["y"]) is type(value)
    if isinstance(value, (dict, list)):
        assert result["x"] is not result["p"]["q"][1]


@given(plain_text, plain_text, st.one_of(st.integers(), st.booleans(), st.none(), plain_text))
def test_embedded_sites_become_text(before, after, value):
    result = filled({"v": value, "x": f"{before}${{v}}-${{v}}{after}"})
    assert result["x"] == f"{before}{value}-{value}{after}"


def test_containers_in_text_become_json():
    assert filled({"v": {"a": [1, True]}, "x": "<${v}>"})["x"] == '<{"a": [1, true]}>'


def test_chains_of_indices_and_ways_through_sites():
    data = {
        "p": {"a": [[1, 2], {"k": 3}]},
        "q": "${p.a}",
        "r": ["${q[0][1]}", "${q[1].k}", "${s.b}"],
        "s": "${t}",
        "t": {"a": "${s.b}", "b": 7},
    }
    result = filled(data)
    assert result["r"] == [2, 3, 7]
    assert result["t"] == {"a": 7, "b": 7}


def test_positions():
    site, target, below = (SourceLocation("f", line, 1) for line in (9, 1, 2))
    _, places = interpolate_config(
        {"p": {"k": 1}, "x": "${p}"}, SourceMap({("p",): target, ("p", "k"): below, ("x",): site})
    )
    assert places.get(("x",)) == site
    assert places.get(("x", "k")) == below


@pytest.mark.parametrize(
    ("text", "environment", "value"),
    [
        ("${env:V}", " 08 ", " 08 "),
        ("${env:int:V}", " 08 ", 8),
        ("${env:int:V}", "0x1f", 31),
        ("${env:int:V}", "-3", -3),
        ("${env:float:V}", "1e-4", 1e-4),
        ("${env:bool:V}", "YES", True),
        ("${env:bool:V}", "off", False),
        ("${env:json:V}", '{"a": [1, "${x}"]}', {"a": [1, "${x}"]}),
        ("n=${env:int:V}!", "7", "n=7!"),
        ("${env:V,d}", None, "d"),
        ("${env:V,}", None, ""),
        ("${env:V,a,b}", None, "a,b"),
        ("${env:int:V,4}", None, 4),
        ('${env:json:V,{"a": {"b": 1}}}', None, {"a": {"b": 1}}),
        ("${}", None, "${}"),
        ("${a{b}", None, "${a{b}"),
        ("$x", None, "$x"),
    ],
)
def test_environment_and_literals(monkeypatch, text, environment, value):
    monkeypatch.delenv("V", raising=False)
    if environment is not None:
        monkeypatch.setenv("V", environment)
    result = filled({"x": text})["x"]
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("text", "environment", "fragment"),
    [
        ("${env:V}", None, "Missing env var 'V'"),
        ("${env:int:V}", "  ", "empty/whitespace"),
        ("${env:int:V}", "x", "Failed to cast env var 'V' as int"),
        ("${env:int:V}", "9" * 9999, "Failed to cast"),
        ("${env:bool:V}", "maybe", "Failed to cast"),
        ("${env:json:V}", "[" * 9999, "Failed to cast"),
        ("${env:}", None, "needs a variable's name"),
        ("${p.no}", None, "missing key"),
        ("${p.l[5]}", None, "list index"),
        ("${p[0]}", None, "list index"),
        ("${p.l[x]}", None, "Invalid list index"),
        ("${p..l}", None, "Invalid config path expression"),
        ("${ }", None, "Invalid config path expression"),
        ("${p.l]}", None, "Invalid config path expression"),
        ("${x}", None, "Interpolation cycle detected: x -> x"),
        ("${m}", None, "Interpolation cycle detected"),
        ("${x.y}", None, "Interpolation cycle detected"),
    ],
)
def test_mistakes(monkeypatch, text, environment, fragment):
    monkeypatch.delenv("V", raising=False)
    if environment is not None:
        monkeypatch.setenv("V", environment)
    with pytest.raises(ConfigError, match=fragment):
        filled({"p": {"l": [1]}, "x": text, "m": {"k": "${x}"}})


def test_a_cycle_over_two_values_names_the_way():
    with pytest.raises(ConfigError, match="Interpolation cycle detected: a -> b -> a"):
        filled({"a": "${b}", "b": "${a}"})


def test_pointing_at_an_enclosing_value_is_a_cycle():
    with pytest.raises(ConfigError, match="Interpolation cycle detected"):
        filled({"a": {"b": "${a}"}})


def test_all_mistakes_at_once_and_no_echo():
    data = {"a": "${no}", "b": "${a}", "c": ["${env:NOT_SET_EITHER}"], "d": "text ${a}"}
    with pytest.raises(ConfigError) as caught:
        filled(data)
    assert [error.config_path for error in caught.value.errors] == [("a",), ("c", 0)]


def test_missing_keys_suggest_neighbours():
    with pytest.raises(ConfigError) as caught:
        filled({"params": {"width": 1}, "x": "${params.widht}"})
    assert caught.value.suggestions == ["width"]


@given(
    st.recursive(st.none() | st.booleans() | st.integers(), lambda v: st.lists(v, max_size=3), max_leaves=6)
)
def test_json_defaults_of_any_form(value):
    assert filled({"x": f"${{env:json:SURELY_NOT_SET,{json.dumps({'k': value})}}}"})["x"] == {"k": value}
