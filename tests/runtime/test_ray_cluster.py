"""What a user reads where Ray does not come up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from trainer.runtime.ray.cluster import cluster
from trainer.runtime.ray.job import RayError, RayJob


def test_a_cluster_that_does_not_come_up_is_said_in_one_sentence() -> None:
    def init(**_: Any) -> None:
        raise Exception("The current node timed out\n during startup.")  # as Ray does on a busy machine

    ray = SimpleNamespace(is_initialized=lambda: False, init=init)
    said = "^a Ray cluster on this machine cannot be used: The current node timed out during startup.$"
    with pytest.raises(RayError, match=said), cluster(ray, RayJob(print, None, print)):
        pass
