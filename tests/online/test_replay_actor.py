"""The replay buffer as an actor of Ray: killed, it comes back with every episode that it accepted."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.collected import collected, plain_facts

from trainer.online.actors import NAMESPACE, REPLAY, find_actor, lasting_actor
from trainer.online.episode import EpisodeError
from trainer.online.remote import result_of
from trainer.online.replay import ReplayBuffer
from trainer.online.waiting import answer
from trainer.utils.errors import UsageError

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "policy_constructor", ROOT / "tests")))
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": {"PYTHONPATH": paths}},
    )
    yield
    ray.shutdown()


def started(folder: Path) -> Any:
    kind = lasting_actor(REPLAY, ReplayBuffer).options(namespace=NAMESPACE)
    actor = kind.remote(str(folder), {"capacity": 70})
    ray.get(actor.describe.remote(plain_facts()))
    return actor


def kill(actor: Any) -> None:
    os.kill(ray.get(actor.__ray_call__.remote(lambda _: os.getpid())), signal.SIGKILL)


def test_a_killed_buffer_has_every_episode_and_draws_what_it_would_have_drawn(
    cluster: None, tmp_path: Path
) -> None:
    actor = started(tmp_path / "replay")
    episodes = [collected(6 + number % 5, number) for number in range(24)]
    sent, accepted = 0, []
    for deaths in range(3):
        for number in range(8 * deaths, 8 * deaths + 8):
            waiting = actor.add.remote(episodes[number], key=number)
            if number % 8 == 7:
                kill(actor)  # an episode is on its way
            accepted.append(ray.get(waiting, timeout=60))
            sent += 1
    assert accepted == list(range(sent))  # none twice, none lost
    plain = ReplayBuffer(tmp_path / "plain", {"capacity": 70})
    plain.describe(plain_facts())
    for episode in episodes:
        plain.add(episode)
    assert ray.get(actor.counts.remote()) == plain.counts()
    assert ray.get(actor.size.remote()) == plain.size()
    drawn, wanted = ray.get(actor.sample.remote(128, (1, 2))), plain.sample(128, (1, 2))
    assert list(drawn) == list(wanted)
    for key, value in wanted.items():
        assert drawn[key] == value if key == "task" else np.array_equal(drawn[key], value)
    ray.kill(actor)


def test_a_bad_episode_is_the_same_error_from_another_process(cluster: None, tmp_path: Path) -> None:
    actor = started(tmp_path)
    columns = {"action": collected().columns["action"]}
    with pytest.raises(EpisodeError, match=r"lacks 'observation\.state'; it was not stored"):
        ray.get(actor.add.remote(columns))
    assert ray.get(actor.size.remote()) == (0, 0)
    ray.kill(actor)


def test_what_it_refuses_is_one_sentence_from_another_process(cluster: None, tmp_path: Path) -> None:
    actor = started(tmp_path)
    other = {**plain_facts(), "fps": 20}
    with pytest.raises(UsageError, match="were collected for other samples") as refused:
        answer(actor.describe.remote(other), "the replay buffer")
    assert "the rate is 10 and 20 steps/s" in str(refused.value)
    assert "\n" not in str(refused.value), "nothing of Ray's traceback"
    ray.kill(actor)


def test_a_buffer_that_cannot_begin_says_why(cluster: None, tmp_path: Path) -> None:
    ray.kill(actor := started(tmp_path))
    (tmp_path / "journal/00000000.npz").write_bytes(b"no episode")
    actor = lasting_actor(REPLAY, ReplayBuffer).options(namespace="other").remote(str(tmp_path))
    with pytest.raises(UsageError, match=r"^the replay buffer could not begin: .*the episode is missing or"):
        result_of(actor.counts.remote(), "the replay buffer")


def test_actors_are_found_by_name_or_missed_in_one_sentence(cluster: None, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no actor 'policy_state_manager' in the namespace"):
        find_actor("policy_state_manager")
    actor = started(tmp_path)
    assert ray.get(find_actor(REPLAY).size.remote()) == (0, 0)
    ray.kill(actor)
