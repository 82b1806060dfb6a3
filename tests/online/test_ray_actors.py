"""The manager and the workers as Ray actors: versions, references, and what happens when one is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.online_robots import Publishes, Remembers
from helpers.runs import PATIENCE_SECONDS

from trainer.config.online import OnlineConfig
from trainer.offline_trainer import train
from trainer.online.actors import MANAGER, NAMESPACE, REPLAY, find_actor
from trainer.online.current_policy import CurrentPolicy
from trainer.online.remote import Gone, Remote, resolved
from trainer.online.robot import OnlineRobot
from trainer.online.state_manager import PolicyStateManager, PolicyStateManagerActor
from trainer.online.weights import architecture_of
from trainer.online.worker import RolloutWorkerActor, WorkerSettings
from trainer.utils.errors import UsageError

pytest.importorskip("ray")
pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
LASTING = {"max_restarts": -1, "max_task_retries": -1, "num_cpus": 0}


def search_path():
    return os.pathsep.join(str(ROOT / folder) for folder in ("", "policy_constructor", "tests"))


@pytest.fixture(scope="module")
def ray():
    from trainer.runtime.ray.cluster import import_ray

    ray = import_ray()
    ray.init(
        address="local",
        num_cpus=2,
        namespace=NAMESPACE,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=200 * 2**20,
        runtime_env={"env_vars": {"PYTHONPATH": search_path(), "OMP_NUM_THREADS": "1"}},
    )
    yield ray
    ray.shutdown()


@pytest.fixture
def manager(ray, tmp_path):
    """Return the handle of a manager."""
    actor = ray.remote(name=MANAGER, **LASTING)(PolicyStateManagerActor).remote(tmp_path / "online")
    yield actor
    ray.kill(actor)


def weights(value, size=1000):
    return {"encoder": {"weight": np.full(size, value, np.float32)}}


def publish(ray, manager, value, **known):
    sent = weights(value)
    call = manager.update_weights.remote([ray.put(sent)], architecture=architecture_of(sent), **known)
    return ray.get(call)


def killed(ray, actor):
    """Kill the process of an actor, which Ray starts again."""
    ray.kill(actor, no_restart=False)


def test_two_readers_each_get_each_newest_version_exactly_once(ray, manager):
    @ray.remote(num_cpus=0)
    def read(name, last):
        own = Remote(find_actor(MANAGER), MANAGER)
        seen, until = [], time.monotonic() + PATIENCE_SECONDS
        while (not seen or seen[-1][0] < last) and time.monotonic() < until:
            state = own.get_state(name)
            if state is not None:
                seen.append((state["version"], float(resolved(state["weights"])["encoder"]["weight"][0])))
            time.sleep(0.002)
        return seen

    readers = [read.remote(name, 30) for name in ("a", "b")]
    for value in range(1, 31):
        assert publish(ray, manager, value) == value
    for seen in ray.get(readers):
        versions = [version for version, _ in seen]
        assert versions == sorted(set(versions))
        assert versions[-1] == 30
        assert all(version == value for version, value in seen)


def test_only_references_pass_and_a_plain_dict_is_put_once(ray, manager):
    publish(ray, manager, 1)
    ray.get(manager.update_state.remote(ray.put(weights(2))))  # Ray hands over the dict itself
    states = [ray.get(manager.get_state.remote(name)) for name in ("a", "b")]
    (first,), (second,) = (state["weights"] for state in states)
    assert isinstance(first, ray.ObjectRef)
    assert first == second
    assert float(ray.get(first)["encoder"]["weight"][0]) == 2.0


def test_what_does_not_fit_is_one_sentence_and_changes_nothing(ray, manager):
    publish(ray, manager, 1)
    other = Remote(manager, MANAGER)
    with pytest.raises(UsageError, match="other names, shapes or types than version 1") as refused:
        other.update_weights([ray.put(weights(1, size=7))])
    assert "\n" not in str(refused.value)
    assert "Traceback" not in str(refused.value)
    assert other.version() == 1
    with pytest.raises(UsageError, match="has no actor 'replay_bufer' in the namespace online"):
        find_actor("replay_bufer")


def test_a_killed_manager_serves_the_last_version_and_goes_on_counting(ray, manager):
    publish(ray, manager, 1, description={"config.yaml": b"a: 1"})
    assert publish(ray, manager, 2, step=7) == 2
    assert ray.get(manager.flush.remote())
    killed(ray, manager)
    state = ray.get(manager.get_state.remote("a"))
    assert (state["version"], state["step"]) == (2, 7)
    assert float(resolved(state["weights"])["encoder"]["weight"][0]) == 2.0
    assert resolved(ray.get(manager.description.remote())) == {"config.yaml": b"a: 1"}
    assert publish(ray, manager, 3) == 3


def test_versions_never_fall_while_the_manager_is_killed_again_and_again(ray, manager):
    seen = []
    for value in range(1, 9):
        sent = weights(value)
        call = manager.update_weights.remote([ray.put(sent)], architecture=architecture_of(sent))
        if value % 3 == 0:
            killed(ray, manager)  # perhaps before it has answered; Ray asks again
        seen.append(ray.get(call))
    assert seen == sorted(set(seen))
    assert seen[-1] >= 8
    state = ray.get(manager.get_state.remote("a"))
    assert (state["version"], float(resolved(state["weights"])["encoder"]["weight"][0])) == (seen[-1], 8.0)


def test_weights_outlive_the_process_that_published_them(ray, manager, tmp_path):
    @ray.remote(num_cpus=0)
    class Learner:
        def publish(self, sent):
            import ray

            actor = find_actor(MANAGER)
            call = actor.update_weights.remote([ray.put(sent)], architecture=architecture_of(sent))
            return ray.get(call)

    learner = Learner.remote()
    assert ray.get(learner.publish.remote(weights(4))) == 1
    assert ray.get(manager.flush.remote())
    state = ray.get(manager.get_state.remote("a"))
    ray.kill(learner)

    def fetch():
        until = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until:  # it takes Ray a moment to notice
            resolved(state["weights"])

    with pytest.raises(Gone, match="was lost with the process that had published it"):
        fetch()
    stored = ray.get(manager.stored_state.remote())
    assert float(resolved(stored["weights"])["encoder"]["weight"][0]) == 4.0


def test_a_worker_collects_through_kills_and_stops_when_told(ray, manager, tiny_experiment, tmp_path):
    plain = PolicyStateManager(tmp_path / "plain")
    publishes = Publishes(plain)
    train(tiny_experiment(), callbacks=[publishes])
    replay = ray.remote(name=REPLAY, **LASTING)(Remembers).remote()
    online = OnlineConfig.model_validate(
        {"mode": "dagger", "expert": {"type": "scripted"}, "workers": {"envs": 2}}
    )
    settings = WorkerSettings(online, "drifting", plugins=("helpers.online_robots",))
    worker = ray.remote(max_concurrency=4, **LASTING)(RolloutWorkerActor).remote(settings)
    running = worker.run.remote()

    def wait_for(enough):
        until = time.monotonic() + PATIENCE_SECONDS
        while not enough(ray.get(replay.counts.remote()).episodes):
            assert time.monotonic() < until
            time.sleep(0.1)

    until = time.monotonic() + PATIENCE_SECONDS
    while ray.get(worker.report.remote()).waiting != "no weights have been published yet":
        assert time.monotonic() < until
        time.sleep(0.1)
    Remote(manager, MANAGER).update_weights(
        [ray.put(publishes.sent[-1])],
        architecture=architecture_of(publishes.sent[-1]),
        step=22,
        description=plain.description(),
    )
    wait_for(lambda count: count >= 4)
    there = ray.get(replay.counts.remote()).episodes
    killed(ray, worker)
    wait_for(lambda count: count >= there + 4)
    killed(ray, manager)
    there = ray.get(replay.counts.remote()).episodes
    wait_for(lambda count: count >= there + 4)

    words = ["--address", ray.get_runtime_context().gcs_address, "--env", "drifting", "--episodes", "2"]
    script = [sys.executable, str(ROOT / "examples/online_robot.py"), "--plugin", "helpers.online_robots"]
    known = {"RAY_AUTH_MODE": "token", **os.environ, "PYTHONPATH": search_path()}
    said = subprocess.run([*script, *words], env=known, text=True, capture_output=True, timeout=300)
    assert "episode 1: version 1, no success" in said.stdout, said.stderr

    robot = OnlineRobot("arm", device="cpu", patience=PATIENCE_SECONDS)
    robot.act({"observation.state": np.zeros(5)})
    assert robot.version == 1
    current = CurrentPolicy(Remote(manager, MANAGER), "another", "cpu")
    assert current.refresh()
    ray.get(worker.stop.remote())
    ray.get(running, timeout=PATIENCE_SECONDS)
    ray.kill(worker)
    ray.kill(replay)
    plain.close()
