"""Reading YAML: strictness, positions, merge keys."""

import subprocess
import sys

import pytest
from model_constructor.config.source_map import SourceLocation, SourceMap
from model_constructor.config.yaml_loader import dump_yaml, load_yaml_file
from model_constructor.errors import ConfigError
from model_constructor.util.suggest import closest


def load(tmp_path, text):
    path = tmp_path / "m.yaml"
    path.write_text(text, encoding="utf-8")
    return load_yaml_file(path)


def fails(tmp_path, text):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    for error in caught.value.errors:
        assert error.location.file == str(tmp_path / "m.yaml")
    return [(error.location.line, error.location.col, error.message) for error in caught.value.errors]


def test_every_value_and_key_knows_its_place(tmp_path):
    data, places = load(tmp_path, "a: 1\nb:\n  - x\n  - {c: 2.5}\n")
    assert data == {"a": 1, "b": ["x", {"c": 2.5}]}
    file = str(tmp_path / "m.yaml")
    assert places.get(("a",)) == SourceLocation(file, 1, 4)
    assert places.get(("b", 1, "c")) == SourceLocation(file, 4, 9)
    assert places.get_key(("b", 1, "c")).format() == f"{file}:4:6"
    assert places.get(("b", 0)).line == 3
    assert places.nearest(("b", 0, "deeper")) == places.get(("b", 0))
    assert places.to_dict()["b[1].c"] == f"{file}:4:9"


def test_yaml_1_1_scalars_and_numbers_with_an_exponent(tmp_path):
    data, _ = load(tmp_path, "a: 1e-4\nb: 1.0e-4\nc: yes\nd: ~\ne: 0x10\nf: '08'\ng: =\nh: '1e5'\n")
    assert data == {"a": 1e-4, "b": 1e-4, "c": True, "d": None, "e": 16, "f": "08", "g": "=", "h": "1e5"}
    (tmp_path / "again.yaml").write_text(dump_yaml(data))
    assert load_yaml_file(tmp_path / "again.yaml")[0] == data


def test_anchors_aliases_and_merge_keys(tmp_path):
    text = (
        "base: &b {x: 1, y: 2}\nmore: &m {y: 5, z: 6}\none: {<<: *b, y: 3}\ntwo: {<<: [*b, *m]}\nsame: *b\n"
    )
    data, places = load(tmp_path, text)
    assert data["one"] == {"x": 1, "y": 3}
    assert data["two"] == {"x": 1, "y": 2, "z": 6}
    assert data["same"] == data["base"]
    assert data["same"] is not data["base"]
    assert places.get(("one", "x")).line == 1
    assert places.get(("one", "y")).line == 3


def test_duplicate_and_non_string_keys_are_all_reported(tmp_path):
    mistakes = fails(tmp_path, "a: 1\na: 2\n3: x\nb:\n  true: y\n  ok: 1\n  ok: 2\n")
    assert [(line, col) for line, col, _ in mistakes] == [(2, 1), (3, 1), (5, 3), (7, 3)]
    assert "Duplicate mapping key 'a', first in line 1" in mistakes[0][2]
    assert "must be strings" in mistakes[1][2]
    assert "write 'true' in quotes" in mistakes[2][2]


@pytest.mark.parametrize(
    ("text", "place", "fragment"),
    [
        ("", (1, 1), "empty"),
        ("# only a comment\n", (1, 1), "empty"),
        ("- a\n", (1, 1), "must hold a mapping"),
        ("a: [1, 2\nb: 3\n", (2, 2), "Invalid YAML"),
        ("a: 1\n---\nb: 2\n", (2, 1), "one YAML document"),
        ("a: !!python/object:os.system x\n", (1, 4), "no value of type"),
        ("a: !!set {x}\n", (1, 4), "not supported"),
        ("a: 2001-99-99\n", (1, 4), "no value of type 'timestamp'"),
        ("a: &a [*a]\n", (1, 8), "inside its own anchor"),
        ("a: *b\n", (1, 4), "no anchor"),
        ("a: {<<: 3}\n", (1, 5), "'<<' takes a mapping"),
        ("? [x]\n: 1\n", (1, 3), "must be strings"),
    ],
)
def test_mistakes_have_places(tmp_path, text, place, fragment):
    line, col, message = fails(tmp_path, text)[0]
    assert (line, col) == place
    assert fragment in message


def test_unreadable_files(tmp_path):
    with pytest.raises(ConfigError, match="file not found"):
        load_yaml_file(tmp_path / "no.yaml")
    with pytest.raises(ConfigError, match="not a file"):
        load_yaml_file(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe4\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_yaml_file(tmp_path / "latin.yaml")


def test_deep_and_exploding_files_end_in_an_error(tmp_path):
    assert "nested" in fails(tmp_path, "a: " + "[" * 5000)[0][2]
    bomb = "a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n"
    bomb += "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
    with pytest.raises(ConfigError, match="unfolds"):
        load(tmp_path, bomb)


def test_source_map_prefixes():
    at = SourceLocation("f", 1, 1)
    places = SourceMap({("a",): at, ("a", 0): at, ("b",): at}, {("a",): at})
    assert dict(places.submap(("a",)).items()) == {(): at, (0,): at}
    assert dict(places.without_prefix(("a",)).items()) == {("b",): at}
    assert dict(places.remap_prefix(("a",), ("c", "d")).items()) == {
        ("c", "d"): at,
        ("c", "d", 0): at,
        ("b",): at,
    }


def test_closest_names():
    assert closest("Learning-Rate", ["learning_rate", "epochs"]) == ["learning_rate"]
    assert closest("nn.Linaer", ["nn.Linear", "nn.LazyLinear", "x"], 2) == ["nn.Linear", "nn.LazyLinear"]
    assert closest("zzz", ["abc"]) == []


def test_config_layer_does_not_import_torch():
    code = (
        "import sys, model_constructor; model_constructor.resolve_config; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
