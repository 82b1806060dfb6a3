"""What robots get is what a checkpoint of the same step holds, for whatever is deployed."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import yaml
from helpers.online_robots import Publishes
from helpers.tiny_experiment import ACTION, HORIZON, STATE

from trainer.checkpoint.folder import CheckpointError, find_checkpoint
from trainer.deployment.robot_policy import load_policy
from trainer.offline_trainer import train
from trainer.online.current_policy import CurrentPolicy
from trainer.online.publisher import policy_description
from trainer.online.state_manager import PolicyStateManager
from trainer.online.weights import architecture_of
from trainer.utils.errors import UsageError


def plain(config):
    del config["train"]["ema"]


def averaged(config):
    """Keeps the average of its default."""


def schedule_free(config):
    plain(config)
    config["plugins"].append("experiment_training.components.optimizer.schedule_free_radam")
    for name in config["model"]["component_optims"]:
        config["model"]["component_optims"][name] = {"type": "schedule_free_radam", "params": {"lr": 1e-3}}


def frozen(config):
    del config["model"]["component_optims"]["observation_encoder"]


def acts(policy, seed=3):
    policy.reset(seed)
    frames = np.random.default_rng(0).normal(size=(6, STATE)).astype(np.float32)
    return np.stack([policy.act({"observation.state": frame}) for frame in frames])


@pytest.mark.parametrize("change", [plain, averaged, schedule_free, frozen])
def test_a_published_policy_acts_bit_for_bit_like_the_checkpoint(tiny_experiment, tmp_path, change):
    manager = PolicyStateManager(tmp_path / "online")
    publishes = Publishes(manager)
    run = train(tiny_experiment(change), callbacks=[publishes])
    current = CurrentPolicy(manager, "robot", "cpu")
    assert current.refresh()
    np.testing.assert_array_equal(acts(current.policy), acts(load_policy(run, "cpu")))
    assert (current.version, current.step, current.total_steps) == (1, 22, 22)
    assert current.share == 1.0
    wanted = {"velocity_decoder"} if change is frozen else {"observation_encoder", "velocity_decoder"}
    assert publishes.sent[-1].keys() == wanted
    manager.close()


def model(inputs, linear, before=(), after=()):
    """Return the YAML of a linear layer, called between operations."""
    module = {"_type_": "nn.Linear", "in_features": linear[0], "out_features": linear[1]}
    nodes, value = [], f"${inputs[0]}"
    for call, *arguments in (*before, ("module:linear",), *after):
        nodes.append({"name": f"n{len(nodes)}", "call": call, "args": [value, *arguments]})
        value = f"${nodes[-1]['name']}"
    graph = {"inputs": inputs, "modules": {"linear": module}, "nodes": nodes, "outputs": [value[1:]]}
    return yaml.safe_dump({"schema_version": 1, "model": {"graph": graph}})


def of_a_user(write, tmp_path, name, component, text, **params):
    """Return the tiny experiment with a user's own policy, of `examples/extensions`."""

    def change(config):
        config["plugins"].append(f"examples.extensions.{name}")
        config["train"]["trainer"] = {"type": f"{name}_trainer", "params": params}
        models = config["model"]
        del models["component_config_paths"]["velocity_decoder"]
        models["component_config_paths"][component] = f"models/{component}.yaml"
        models["component_optims"][component] = models["component_optims"].pop("velocity_decoder")

    path = write(change)
    (tmp_path / f"models/{component}.yaml").write_text(text)
    return path


def test_what_a_users_policy_has_beside_its_components_travels_too(tiny_experiment, tmp_path):
    text = model(["condition"], (16, HORIZON * ACTION), after=[("op:reshape", [-1, HORIZON, ACTION])])
    path = of_a_user(tiny_experiment, tmp_path, "self_distillation", "action_head", text, n_action_steps=1)
    manager = PolicyStateManager(tmp_path / "online")
    publishes = Publishes(manager)
    run = train(path, callbacks=[publishes])
    assert publishes.sent[-1][""].keys() == {"typical"}
    current = CurrentPolicy(manager, "robot", "cpu")
    assert current.refresh()
    same = load_policy(run, "cpu")
    assert current.policy.policy.typical == same.policy.typical != 1.0
    np.testing.assert_array_equal(acts(current.policy), acts(same))
    manager.close()


def test_what_does_not_act_is_not_published(tiny_experiment, tmp_path):
    text = model(["chunk"], (HORIZON * ACTION, 16), before=[("op:flatten", 1)])
    path = of_a_user(tiny_experiment, tmp_path, "alignment", "action_encoder", text)
    with pytest.raises(UsageError, match="'alignment_trainer' trains nothing that acts, so robots cannot"):
        train(path, callbacks=[Publishes(None)])


def test_what_is_published_is_the_average(tiny_experiment, tmp_path):
    manager = PolicyStateManager(tmp_path / "online")
    publishes = Publishes(manager)
    run = train(tiny_experiment(), callbacks=[publishes])
    folder = find_checkpoint(run)
    state = torch.load(folder / "training_state.pt", weights_only=True)
    for component, sent in publishes.sent[-1].items():
        average = state["update"]["averages"][component]["weights"]
        live = state["models"][component]
        for name, value in sent.items():
            np.testing.assert_array_equal(value, average[name].numpy())
        assert any(not np.array_equal(sent[n], live[n].numpy()) for n in sent)
    manager.close()


def test_newer_versions_are_taken_up_in_place_and_rounded_ones_too(tiny_experiment, tmp_path):
    manager = PolicyStateManager(tmp_path / "online")
    current = CurrentPolicy(manager, "robot", "cpu")
    seen = []

    class PublishesAndActs(Publishes):
        def publish(self, experiment):
            super().publish(experiment)
            assert current.refresh()
            assert not current.refresh()
            seen.append((current.version, current.step, acts(current.policy)))

    run = train(tiny_experiment(), callbacks=[PublishesAndActs(manager, every=11, bf16=True)])
    assert [version for version, _, _ in seen] == [1, 2, 3]
    assert [step for _, step, _ in seen] == [11, 22, 22]
    assert not np.allclose(seen[0][2], seen[1][2])
    exact = acts(load_policy(run, "cpu"))
    assert not np.array_equal(seen[-1][2], exact)
    np.testing.assert_allclose(seen[-1][2], exact, atol=0.2)
    manager.close()


def test_the_description_holds_what_a_checkpoint_holds_beside_the_weights(tiny_experiment, tmp_path):
    class Describes(Publishes):
        def publish(self, experiment):
            self.description = policy_description(experiment)

    describes = Describes(None)
    run = train(tiny_experiment(frozen), callbacks=[describes])
    folder = find_checkpoint(run)
    there = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    missing = there - describes.description.keys()
    assert {name for name in missing if "opt" not in name and "state" not in name} == {
        "velocity_decoder.pt"
    } | ({"measured.pt"} & missing)
    assert json.loads(describes.description["manifest.json"])["total_steps"] == 22
    for name in ("config.yaml", "models/velocity_decoder.yaml", "dataset_stats.pkl"):
        assert describes.description[name] == (folder / name).read_bytes()


def test_weights_that_do_not_fit_leave_a_policy_as_it_was(tiny_experiment):
    policy = load_policy(train(tiny_experiment()), "cpu")
    before = acts(policy)
    fitting = {n: dict(m.state_dict()) for n, m in policy.models.items()}
    decoder = {name: value + 1 for name, value in fitting["velocity_decoder"].items()}
    with pytest.raises(CheckpointError, match="does not fit component 'observation_encoder'"):
        policy.load_weights({"velocity_decoder": decoder, "observation_encoder": {}})
    with pytest.raises(CheckpointError, match="a component 'critic', which the policy does not have"):
        policy.load_weights({"velocity_decoder": decoder, "critic": {}})
    np.testing.assert_array_equal(acts(policy), before)
    assert architecture_of(fitting) == architecture_of({**fitting, "velocity_decoder": decoder})


def test_weights_without_a_description_are_said_to_lack_it(tmp_path):
    manager = PolicyStateManager(tmp_path)
    manager.update_weights({"encoder": {"weight": np.zeros(2, np.float32)}})
    with pytest.raises(UsageError, match="without a description of their policy"):
        CurrentPolicy(manager, "robot").refresh()
    manager.close()
