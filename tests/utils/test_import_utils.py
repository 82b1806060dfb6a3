"""Import helpers: calls by signature, and libraries that are not installed."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.utils.import_utils import (
    TRAINING_LIBRARIES,
    import_module,
    instantiate,
    needs_training_libraries,
)


def test_a_module_is_found_in_the_given_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "module_of_a_user.py").write_text("value = 3")
    assert import_module("module_of_a_user", tmp_path).value == 3
    assert import_module("json", tmp_path).__name__ == "json"


def test_what_is_offered_reaches_those_who_name_it() -> None:
    def function(models: str, rate: float, *, params: int = 0) -> tuple[str, float, int]:
        return models, rate, params

    assert instantiate(function, {"rate": 0.5}, models="m", device="cpu", params=2) == ("m", 0.5, 2)
    with pytest.raises(TypeError, match="unexpected keyword argument 'rat'"):
        instantiate(function, {"rat": 0.5}, models="m")


def test_libraries_of_training_are_those_of_the_extra() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    (extra,) = re.findall(r"^train = \[\n(.*?)^\]", text, flags=re.M | re.S)
    names = {"PIL" if name == "pillow" else name for name in re.findall(r'"(\w+)', extra)}
    assert names == TRAINING_LIBRARIES


def test_only_libraries_of_training_are_explained() -> None:
    for name in ("nowhere", "trainer.nowhere"):
        with (
            pytest.raises(ModuleNotFoundError, match=f"^No module named '{name}'"),
            needs_training_libraries("It"),
        ):
            importlib.import_module(name)


def test_importing_the_package_is_light_and_its_names_are_there() -> None:
    code = (
        "import sys, trainer\n"
        "assert not {'torch', 'numpy', 'pydantic', 'wandb', 'tqdm'} & set(sys.modules), sys.modules\n"
        "from trainer import *\n"
        "print(*sorted(n for n in trainer.__all__ if callable(globals()[n])))\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == [
        *("build_data", "build_models", "build_policy", "evaluate", "example_batch"),
        *("load_config", "load_policy", "train", "validate_config"),
    ]


def test_without_a_library_of_training_its_extra_is_named() -> None:
    code = (
        "import sys\n"
        "sys.modules['tqdm'] = None\n"
        "import trainer\n"
        "trainer.load_policy\n"
        "try: trainer.train\n"
        "except ImportError as error: print(error)\n"
        "from trainer.cli import main\n"
        "main(['train', 'examples/configs/pusht_state.yaml'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    rest = "needs tqdm, which is not installed; pip install 'trainer-il[train]'\n"
    assert (done.stdout, done.stderr) == (f"trainer.train {rest}", f"Error: This command {rest}")
    assert done.returncode == 2
