"""The pages on the model language and the shipped examples do what they say."""

import re
from pathlib import Path

import pytest
import torch
from model_constructor import build_model
from model_constructor.show import describe

FOLDER = Path(__file__).parents[2] / "policy_constructor"
PAGES = (FOLDER / "README.md", FOLDER / "model_constructor" / "config" / "README.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_every_example_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    files = {}
    for _, text in blocks:
        if named := re.match(r"# file: (\S+)\n", text):
            files[named[1]] = text
            (tmp_path / named[1]).write_text(text, encoding="utf-8")
    assert files
    for name in files:
        if name.endswith(".yaml"):
            build_model(name)
            assert not any("shapes are known up to" in note for note in describe(name).notes)
    scope = {}
    for language, text in blocks:
        if language == "python" and not text.startswith("# file:"):
            exec(compile(text, str(page), "exec"), scope)
    if "skip.yaml" in files:
        shown = next(text for language, text in blocks if language == "text")
        assert build_model("skip.yaml").code == shown


@pytest.mark.parametrize(
    "path", sorted((FOLDER / "configs" / "examples").glob("*.yaml")), ids=lambda path: path.stem
)
def test_the_examples_run_at_their_noted_shapes(path):
    assert describe(path).notes == []


def test_the_sequential_example_learns():
    torch.manual_seed(0)
    model = build_model(FOLDER / "configs" / "examples" / "sequential_mlp.yaml")
    x, y = torch.randn(64, 8), torch.randn(64, 16)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        losses.append(torch.nn.functional.mse_loss(model(x), y))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]
