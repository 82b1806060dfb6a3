"""A batch given for all ranks together: shared out evenly, and kept when their number changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.run_folder import metrics
from helpers.runs import launch
from helpers.tiny_experiment import fixed_schedule

from trainer.config.errors import ConfigError
from trainer.config.loader import load_located
from trainer.engine.build_data import build_data
from trainer.engine.check import check
from trainer.offline_trainer import train

Write = Callable[..., Path]
NO_BATCH = "data.batch_size=null"


@pytest.mark.parametrize(("ranks", "parts", "share"), [(1, 1, 24), (2, 1, 12), (3, 2, 4), (1, 8, 3)])
def test_every_rank_gets_its_share_of_an_update(
    tiny_experiment: Write, ranks: int, parts: int, share: int
) -> None:
    overrides = [NO_BATCH, "data.global_batch_size=24", f"train.accumulate_grad_batches={parts}"]
    config = check(load_located(tiny_experiment(), overrides), ranks).config
    assert config.data.batch_size == share


@pytest.mark.parametrize(
    ("overrides", "ranks", "message"),
    [
        ([NO_BATCH], 1, r"data\.batch_size: the size of a batch is not said"),
        (["data.global_batch_size=24"], 1, r"data\.global_batch_size: batch_size gives the size .* already"),
        ([NO_BATCH, "data.global_batch_size=25"], 2, "25 samples cannot be divided evenly among 2 ranks"),
        ([NO_BATCH, "data.global_batch_size=1"], 2, "1 samples cannot be divided evenly among 2 ranks"),
        (
            [NO_BATCH, "data.global_batch_size=24", "train.accumulate_grad_batches=5"],
            2,
            "among 2 ranks and 5 batches per update",
        ),
    ],
)
def test_what_does_not_come_out_even_is_refused(
    tiny_experiment: Write, overrides: list[str], ranks: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build_data(check(load_located(tiny_experiment(), overrides), ranks), ranks)
    assert len(caught.value.issues) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after", "parts"), [(1, 2, 1), (2, 1, 1), (1, 2, 2), (2, 1, 2)])
def test_a_run_goes_on_with_another_number_of_ranks(
    tiny_experiment: Write, tmp_path: Path, before: int, after: int, parts: int
) -> None:
    def change(config: dict[str, Any]) -> None:
        del config["data"]["batch_size"]
        config["data"]["global_batch_size"] = 16
        config["train"].update(epoch=8, save_every=1)
        fixed_schedule(config)

    path = tiny_experiment(change)
    whole = train(path, [f"train.save_dir={tmp_path / 'whole'}"])
    run = tmp_path / "changed"
    launch(path, run, before, "train.epoch=3")
    said = launch(path, run, after, f"train.accumulate_grad_batches={parts}")
    assert f"Taking up {run} after step 33" in said
    steps, totals = ([m[key] for m in metrics(run)] for key in ("step", "total"))
    assert steps == list(range(88))
    np.testing.assert_allclose(totals, [m["total"] for m in metrics(whole)], rtol=1e-5)
