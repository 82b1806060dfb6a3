"""What an online run says of itself while it goes on."""

from __future__ import annotations

from trainer.config.online import OnlineConfig
from trainer.online.status import Status
from trainer.online.worker import WorkerReport


def test_a_run_whose_robots_have_not_started_says_so() -> None:
    status = Status(OnlineConfig.model_validate({"workers": {"env": "metaworld/push-v3"}}))
    assert "no robot has reported yet" in status.line()
    status.add(WorkerReport(name="worker_0", waiting="no weights have been published yet"))
    assert status.line().endswith("robots wait: no weights have been published yet.")


def test_robots_of_one_s_own_are_not_waited_for() -> None:
    status = Status(OnlineConfig.model_validate({"workers": {"env": "metaworld/push-v3", "count": 0}}))
    assert "reported" not in status.line()
