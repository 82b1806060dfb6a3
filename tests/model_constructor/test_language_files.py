"""Whole configurations: files including files, settings, schema."""

import pickle

import pytest
from model_constructor import compile_ir, look_for_defaults_in, resolve_config
from model_constructor.config.settings import Settings, parse_settings
from model_constructor.errors import ConfigError

IDENTITY = {"sequential": {"layers": [{"_type_": "nn.Identity"}]}}
MODEL = "model: {sequential: {layers: [{_type_: nn.Identity}]}}\n"


def write(folder, **files):
    for name, text in files.items():
        path = folder / f"{name}.yaml"
        path.write_text(text, encoding="utf-8")
    return folder / f"{next(iter(files))}.yaml"


def failure(config, call=resolve_config):
    with pytest.raises(ConfigError) as caught:
        call(config)
    return caught.value


def mistakes(config, call=resolve_config):
    return failure(config, call).errors


def test_defaults_are_laid_under_the_file(tmp_path):
    root = write(
        tmp_path,
        root="schema_version: 1\ndefaults: [one.yaml, two.yaml]\nparams: {c: 3}\n" + MODEL,
        one="params: {a: 1, b: 1, c: 1}\n",
        two="defaults: [one.yaml]\nparams: {b: 2}\n",
    )
    resolved = resolve_config(root)
    assert resolved.data["params"] == {"a": 1, "b": 2, "c": 3}
    assert "defaults" not in resolved.data
    assert resolved.data["imports"] == []
    assert resolved.root_file == str(root)
    places = resolved.source_map
    assert places.get(("params", "a")).file == str(tmp_path / "one.yaml")
    assert places.get(("params", "b")).file == str(tmp_path / "two.yaml")
    assert places.get(("params", "c")).format() == f"{root}:3:13"


def test_keys_keep_a_defined_order(tmp_path):
    root = write(
        tmp_path,
        root="schema_version: 1\ndefaults: [base.yaml]\nparams: {new: 0, b: 1, newer: 0}\n" + MODEL,
        base="params: {z: 0, b: 0, a: 0}\n",
    )
    assert list(resolve_config(root).data["params"]) == ["z", "b", "a", "new", "newer"]


def test_append_adds_to_a_list_of_an_included_file(tmp_path):
    root = write(
        tmp_path,
        root="schema_version: 1\ndefaults: [b.yaml]\n"
        + "imports: {_merge_: append, _value_: [model_constructor.y]}\n"
        + MODEL,
        b="imports: [model_constructor.x]\n",
    )
    assert resolve_config(root).data["imports"] == ["model_constructor.x", "model_constructor.y"]


def test_a_directive_without_a_base_stands_for_its_value(tmp_path):
    root = write(tmp_path, root="schema_version: 1\nextra: {_merge_: append, _value_: [1]}\n" + MODEL)
    assert resolve_config(root).data["extra"] == [1]


def test_a_directive_reaches_over_an_include(tmp_path):
    """Each of two included files adds to the list of the one before."""
    more = "extra: {_merge_: append, _value_: [%d]}\n"
    root = write(
        tmp_path,
        root="schema_version: 1\ndefaults: [a.yaml, b.yaml, c.yaml]\n" + MODEL + more % 4,
        a="extra: [1]\n",
        b="defaults: [b0.yaml]\n" + more % 3,
        b0=more % 2,
        c="other: 1\n",
    )
    assert resolve_config(root).data["extra"] == [1, 2, 3, 4]


def test_entries_of_defaults_may_have_a_label_and_numbers_an_exponent_without_a_point(tmp_path):
    """Both as in experiment YAMLs."""
    root = write(
        tmp_path,
        root="schema_version: 1\ndefaults: [{first: a.yaml}, b.yaml]\n" + MODEL,
        a="extra: {eps: 1e-4, x: 1}\n",
        b="extra: {x: 2}\n",
    )
    assert resolve_config(root).data["extra"] == {"eps": 0.0001, "x": 2}


def test_includes_that_include_each_other(tmp_path):
    root = write(tmp_path, a="defaults: [b.yaml]\n", b="defaults:\n  - a.yaml\n")
    (error,) = mistakes(root)
    assert error.message.startswith("defaults include cycle detected")
    assert [name.rsplit("/", 1)[-1] for name in error.include_stack] == ["a.yaml", "b.yaml", "a.yaml"]
    assert error.location.format() == f"{tmp_path / 'b.yaml'}:2:5"


def test_all_broken_includes_are_reported_with_the_way_to_them(tmp_path):
    root = write(
        tmp_path,
        root='defaults:\n  - gone.yaml\n  - broken.yaml\n  - 3\n  - "\\0"\n',
        broken="a: 1\na: 2\n",
    )
    found = mistakes(root)
    assert {(error.location.format(), error.message.split(":")[0]) for error in found} == {
        (f"{root}:2:5", "file not found"),
        (f"{tmp_path / 'broken.yaml'}:2:1", "Duplicate mapping key 'a', first in line 1"),
        (f"{root}:4:5", "'defaults' must be a list of paths, `- base.yaml` or `- label"),
        (f"{root}:5:5", f"cannot read {tmp_path}/\0"),
    }
    broken = next(error for error in found if "Duplicate" in error.message)
    assert broken.include_stack == [str(root), str(tmp_path / "broken.yaml")]


def test_a_dict_cannot_include(tmp_path):
    (error,) = mistakes({"schema_version": 1, "model": IDENTITY, "defaults": None})
    assert error.config_path == ("defaults",)


def test_the_callers_dict_stays_as_it_is():
    config = {"schema_version": 1, "model": IDENTITY, "params": {"a": [1], "b": "${params.a}"}}
    before = pickle.dumps(config)
    resolved = resolve_config(config)
    resolved.data["params"]["a"].append(2)
    assert pickle.dumps(config) == before
    assert resolved.root_file is None
    assert len(resolved.source_map) == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (MODEL, [("schema_version",)]),
        ("schema_version: '1'\n" + MODEL, [("schema_version",)]),
        ("schema_version: true\n" + MODEL, [("schema_version",)]),
        ("schema_version: 1.0\n" + MODEL, [("schema_version",)]),
        ("schema_version: 1\n", [("model",)]),
        ("schema_version: 1\nmodel: 3\n", [("model",)]),
        ("schema_version: 1\nmodel: {}\n", [("model",)]),
        ("schema_version: 1\nmodel: {graph: {}, sequential: {}}\n", [("model",)]),
        ("schema_version: 1\nmodel: {x: {}}\n", [("model", "x"), ("model",)]),
        ("schema_version: 1\nmodel: {grahp: {}}\n", [("model", "grahp")]),
        ("schema_version: 1\nimports: a\n" + MODEL, [("imports",)]),
        ("schema_version: 1\nimports: [1, '']\n" + MODEL, [("imports", 0), ("imports", 1)]),
        ("schema_version: 1\nsettings: 3\n" + MODEL, [("settings",)]),
        ("schema_version: 1\nsettings: {strict: 1}\n" + MODEL, [("settings", "strict")]),
        (
            "schema_version: 1\nsettings: {error_context_lines: x}\n" + MODEL,
            [("settings", "error_context_lines")],
        ),
        (
            "schema_version: 1\nsettings: {allowed_import_prefixes: x}\n" + MODEL,
            [("settings", "allowed_import_prefixes")],
        ),
        ("schema_version: 1\nsettings: {strcit: true}\n" + MODEL, [("settings", "strcit")]),
    ],
)
def test_schema_mistakes(tmp_path, text, expected):
    found = mistakes(write(tmp_path, root=text))
    assert [error.config_path for error in found] == expected
    assert all(
        error.location is None or error.location.file == str(tmp_path / "root.yaml") for error in found
    )


def test_what_came_from_the_environment_is_placed_where_it_was_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("WHOLE_MODEL", '{"grahp": {}}')
    found = mistakes(write(tmp_path, root='schema_version: 1\nmodel: "${env:json:WHOLE_MODEL}"\n'))
    assert [(error.location.line, error.location.col) for error in found] == [(2, 8)]


def test_unknown_top_level_keys_are_allowed(tmp_path):
    assert resolve_config({"schema_version": 1, "model": IDENTITY, "anything": 3}).data["anything"] == 3


def test_mistakes_of_different_kinds_come_together(tmp_path):
    root = write(
        tmp_path,
        root="""schema_version: 2
templates: {t: {_template_: gone}}
settings: {strict: maybe}
model:
  sequential:
    layers:
      - {_type_: nn.Linaer, in_features: 1, out_features: 1}
      - {_type_: nn.Linear, in_features: "${nowhere}", out_features: 1}
      - {_type_: nn.Linear, in_features: 1}
""",
    )
    found = mistakes(root, compile_ir)
    assert sorted(error.location.line for error in found) == [1, 2, 3, 7, 8, 9]
    text = str(failure(root, compile_ir))
    assert text.startswith("6 mistakes:")
    assert f"loc={root}:7:18" in text


def test_lines_around_a_mistake_are_shown(tmp_path):
    text = "schema_version: 1\nsettings: {error_context_lines: %d}\nmodel:\n  sequential:\n    layers: 3\n"
    for count, shown in ((0, 0), (1, 2)):
        error = failure(write(tmp_path, root=text % count), compile_ir)
        notes = getattr(error, "__notes__", [])
        assert sum(line.strip()[:1].isdigit() for note in notes for line in note.splitlines()[1:]) == shown


def test_errors_survive_pickling(tmp_path):
    error = failure(write(tmp_path, root="settings: 3\n"))
    copied = pickle.loads(pickle.dumps(error))
    assert str(copied) == str(error)
    assert [one.location for one in copied.errors] == [one.location for one in error.errors]


def test_settings():
    assert parse_settings(None) == Settings()
    settings = parse_settings({"allowed_import_prefixes": ["a.b", "c."], "strict": False})
    assert not settings.strict
    assert [settings.allows_module(name) for name in ("a.b", "a.b.c", "a.bc", "c.d", "cd")] == [
        True,
        True,
        False,
        True,
        False,
    ]


def test_endless_chains_end_in_an_error():
    chain = {f"k{i}": f"${{k{i + 1}}}" for i in range(3000)}
    with pytest.raises(ConfigError):
        resolve_config({"schema_version": 1, "model": IDENTITY, **chain})


def test_defaults_are_also_found_in_a_folder_that_was_added(tmp_path, monkeypatch):
    monkeypatch.setattr("model_constructor.config.defaults._further_folders", [])
    shared, own = tmp_path / "shared", tmp_path / "own"
    (shared / "models").mkdir(parents=True)
    own.mkdir()
    (shared / "models/base.yaml").write_text("schema_version: 1\nextra: {a: 1}\n" + MODEL)
    (own / "child.yaml").write_text("schema_version: 1\ndefaults: [models/base.yaml]\nextra: {b: 2}\n")
    with pytest.raises(ConfigError, match=r"file not found: .*own/models/base\.yaml"):
        resolve_config(own / "child.yaml")
    look_for_defaults_in(shared)
    assert resolve_config(own / "child.yaml").data["extra"] == {"a": 1, "b": 2}
    (own / "models").mkdir()
    (own / "models/base.yaml").write_text("schema_version: 1\nextra: {a: 3}\n" + MODEL)
    assert resolve_config(own / "child.yaml").data["extra"] == {"a": 3, "b": 2}, (
        "what is beside the file wins"
    )
