"""The online section: what does not fit together is told at its key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer.config.errors import ConfigError
from trainer.config.loader import load_located
from trainer.config.online import OnlineConfig
from trainer.engine.check import check


@pytest.mark.parametrize(
    ("section", "key", "sentence"),
    [
        ({"mode": []}, "online.mode", "it names no mode"),
        ({"mode": ["policy", "policy"]}, "online.switch_at", "it holds 0 numbers, and mode names 2"),
        (
            {"mode": ["policy"] * 3, "switch_at": [0.6, 0.3]},
            "online.switch_at",
            "the shares must ascend, between 0 and 1",
        ),
        ({"mode": "dagger"}, "online.expert", "mode dagger asks an expert, and there is none"),
        ({"expert": {"type": "scripted"}}, "online.expert", "it has no effect, because mode is policy"),
        ({"expert_budget": 3}, "online.expert_budget", "it has no effect, because mode is policy"),
        (
            {"mode": "dagger", "expert": {"type": "scriptd"}, "workers": {"count": 0}},
            "online.expert.type",
            "no expert is registered as 'scriptd'",
        ),
        (
            {
                "mode": "dagger",
                "expert": {"type": "scripted", "params": {"patience": "long"}},
                "workers": {"count": 0},
            },
            "online.expert.params.patience",
            "integer",
        ),
        ({"workers": {"env": None}}, "online.workers.env", "no simulator is named"),
        ({"workers": {"env": "metawold/push-v3"}}, "online.workers.env", "metawold"),
    ],
)
def test_a_mistake_is_told_at_its_key(
    tiny_experiment: Callable[..., Path], section: dict[str, Any], key: str, sentence: str
) -> None:
    def online(config: dict[str, Any]) -> None:
        config["online"] = section

    with pytest.raises(ConfigError) as refused:
        check(load_located(tiny_experiment(online))).config.model_dump()
    (issue,) = refused.value.issues
    assert issue.error_path == key
    assert sentence in issue.error_message


def test_modes_are_gone_through_by_their_shares() -> None:
    online = OnlineConfig(
        mode=["policy", "dagger", "hg_dagger"], switch_at=[0.25, 0.5], expert={"type": "scripted"}
    )
    assert [online.mode_at(share) for share in (0.0, 0.24, 0.25, 0.49, 0.5, 1.0)] == [
        "policy",
        "policy",
        "dagger",
        "dagger",
        "hg_dagger",
        "hg_dagger",
    ]
