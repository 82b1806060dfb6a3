"""Showing a model: counts, shapes, drawing, command line."""

import itertools
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from model_constructor import build_model
from model_constructor.show import describe, parse_input, render_svg, render_text
from model_constructor.show.layout import Box, place

from trainer.commands.model import model as command

EXAMPLES = Path(__file__).parents[2] / "policy_constructor" / "configs" / "examples"
SKIP = EXAMPLES / "graph_skip_add.yaml"


def test_counts_and_shapes_are_those_of_the_real_model():
    description = describe(SKIP, batch=5)
    model = build_model(SKIP)
    assert description.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert {row.name: row.parameters for row in description.modules} == {
        name: sum(parameter.numel() for parameter in module.parameters())
        for name, module in model.graph_modules.items()
    }
    result = model(torch.zeros(5, 14), torch.zeros(5, 3))
    shown = {step.names[0]: step.shapes[0] for step in description.steps if step.kind == "output"}
    assert shown == {
        key: "\N{MULTIPLICATION SIGN}".join(map(str, value.shape)) for key, value in result.items()
    }
    assert description.notes == []


def test_given_inputs_win_over_the_files():
    description = describe(SKIP, {"goal": torch.zeros(9, 3)}, batch=9)
    assert next(step for step in description.steps if step.names == ("goal",)).shapes[0].startswith("9")
    with pytest.raises(ValueError, match="no input 'gaol'"):
        describe(SKIP, {"gaol": None})


def test_shapes_stop_where_the_model_would_fail():
    description = describe(SKIP, {"goal": torch.zeros(2, 4)})
    (note,) = description.notes
    assert "module 'embed_goal'" in note
    assert "29" in note
    known = {step.id: step.shapes[0] for step in description.steps}
    assert known["from_state"]
    assert not known["joined"]


def test_without_shapes_the_rest_is_shown(tmp_path):
    path = tmp_path / "m.yaml"
    path.write_text(
        "schema_version: 1\nmodel: {sequential: {layers: [{_type_: nn.LazyLinear, out_features: 3}]}}\n"
    )
    text = render_text(describe(path))
    assert "no --input for x" in text
    assert "get their shapes from the first batch" in text
    assert "15 parameters" in render_text(describe(path, {"x": torch.empty(2, 4)}))


def test_a_billion_parameters_take_no_memory(tmp_path):
    path = tmp_path / "big.yaml"
    layer = "{_type_: nn.Linear, in_features: 16384, out_features: 16384}"
    path.write_text(
        "schema_version: 1\nshapes: {x: [B, 16384]}\n"
        f"model: {{sequential: {{layers: [{', '.join([layer] * 4)}]}}}}\n"
    )
    assert describe(path).parameters == 4 * (16384 * 16384 + 16384)


@pytest.mark.parametrize(
    ("text", "name", "shape", "dtype"),
    [("a=2x16x7", "a", (2, 16, 7), torch.float32), ("b=3/int64", "b", (3,), torch.int64)],
)
def test_input_tensors(text, name, shape, dtype):
    given_name, value = parse_input(text)
    assert (given_name, tuple(value.shape), value.dtype) == (name, shape, dtype)
    assert value.is_meta


def test_other_inputs():
    assert parse_input("training:=false") == ("training", False)
    assert [tuple(tensor.shape) for tensor in parse_input("v=[2x3,4]")[1]] == [(2, 3), (4,)]
    for wrong in ("a", "=3", "a=", "a=2x", "a=-1", "a=2/int63", "a:=[", "a=[2,x]"):
        with pytest.raises(ValueError, match=r"\w"):
            parse_input(wrong)


def test_the_drawing_holds_every_step_and_is_valid_xml():
    description = describe(SKIP)
    root = ElementTree.fromstring(render_svg(description))
    groups = [
        group.get("class") for group in root.iter("{http://www.w3.org/2000/svg}g") if group.get("class")
    ]
    assert sorted(groups) == sorted(step.kind for step in description.steps)
    edges = [path for path in root.iter("{http://www.w3.org/2000/svg}path") if path.get("class") == "edge"]
    assert len(edges) == sum(len(step.sources) for step in description.steps)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=20),
    st.lists(st.integers(20, 200), min_size=10, max_size=10),
)
def test_boxes_never_overlap_and_edges_run_down(pairs, widths):
    boxes = [Box(str(index), width, 30) for index, width in enumerate(widths)]
    edges = sorted({(str(min(pair)), str(max(pair))) for pair in pairs if pair[0] != pair[1]})
    layout = place(boxes, edges, ["9"])
    for one, two in itertools.combinations(layout.boxes, 2):
        apart_x = abs(one.x - two.x) >= (one.width + two.width) / 2 - 1e-6
        assert apart_x or one.row != two.row
    for route in layout.edges:
        assert all(end.row == start.row + 1 for start, end in itertools.pairwise(route))
    assert all(
        box.x - box.width / 2 >= -1e-6 and box.x + box.width / 2 <= layout.width + 1e-6 for box in boxes
    )


def test_the_command(tmp_path):
    drawn = tmp_path / "deep" / "skip.svg"
    result = CliRunner().invoke(command, ["show", str(SKIP), "--code", "--svg", str(drawn)])
    assert result.exit_code == 0, result.output
    assert "def forward(self, state, goal):" in result.output
    assert drawn.read_text(encoding="utf-8").startswith("<svg")


def test_the_command_names_mistakes(tmp_path):
    path = tmp_path / "m.yaml"
    path.write_text("schema_version: 1\nmodel: {sequential: {layers: [{_type_: nn.Rellu}]}}\n")
    result = CliRunner().invoke(command, ["show", str(path)])
    assert result.exit_code == 2
    assert f"{path}:2:40" in result.output
    assert "nn.ReLU" in result.output
    assert CliRunner().invoke(command, ["show", str(tmp_path / "gone.yaml")]).exit_code == 2
    assert CliRunner().invoke(command, ["show", str(SKIP), "--input", "state"]).exit_code == 2


def test_shapes_that_do_not_fit_end_the_command_with_two(tmp_path):
    result = CliRunner().invoke(command, ["show", str(SKIP), "--input", "goal=2x4"])
    assert result.exit_code == 2
    assert "29" in result.output
    last = result.output[result.output.index("Error: ") :]
    assert last.startswith(f"Error: {SKIP}:29:")
    assert "shapes do not fit in module 'embed_goal'" in last
    assert "|" in last  # the line of the file
