"""Experts: when the scripted one takes over and hands back, and a person at a (pseudo) terminal."""

from __future__ import annotations

import os
import pty
import threading

import numpy as np
import pytest
from helpers.online_robots import Drift

from trainer.config.component import ComponentSpec
from trainer.evaluation.experts import make_expert
from trainer.evaluation.experts.keyboard import KeyboardExpert, as_text
from trainer.evaluation.experts.scripted import ScriptedTakeover
from trainer.utils.errors import UsageError

STATE = "observation.state"


class Says:
    """A simulator whose expert says always the same, and counts how often it is asked."""

    def __init__(self, action):
        self.action, self.asked = np.asarray(action, np.float32), 0

    def expert_action(self, observation):
        self.asked += 1
        return self.action


def moves(expert, policy_actions):
    """Return who moves the robot at each step, and what the expert does then."""
    said = []
    for action in policy_actions:
        observation = {STATE: np.zeros(1)}
        takes = expert.takes_over(observation, np.asarray(action, np.float32))
        if takes:
            expert.act(observation)
        said.append(takes)
    return said


def scripted(robot, **params):
    expert = ScriptedTakeover(**params)
    expert.reset(robot)
    return expert


def test_it_takes_over_after_a_while_of_disagreement_and_hands_back_after_one_of_agreement():
    far, near = [1.0, 0.0], [0.1, 0.0]
    expert = scripted(Says([0.0, 0.0]), threshold=0.3, patience=2, hold=4)  # 0.6 of a range of 2
    actions = [far, near, far, far, near, near, near, near, near, far, far]
    assert moves(expert, actions) == [False, False, False, *4 * [True], False, False, False, True]


def test_a_takeover_lasts_while_they_disagree():
    expert = scripted(Says([0.0]), threshold=0.25, patience=1, hold=1)
    assert moves(expert, [[1.0], [1.0], [1.0], [0.0]]) == [True, True, True, False]


def test_differences_are_measured_by_the_range_of_the_demonstrations():
    expert = scripted(Says([0.0, 0.0]), patience=1, action_range=np.array([10.0, 0.0]))
    # A dimension in which no demonstration ever moved says nothing.
    assert moves(expert, [[2.9, 5.0], [3.1, 0.0]]) == [False, True]
    spec = ComponentSpec(type="scripted", params={"patience": 1})
    made = make_expert(spec, np.array([10.0, 10.0]))
    made.reset(Says([0.0, 0.0]))
    assert moves(made, [[2.9, 0.0], [3.1, 0.0]]) == [False, True]


def test_late_it_brings_the_episode_to_its_end():
    expert = scripted(Says([0.0]), late=3)
    assert moves(expert, 5 * [[0.0]]) == [False, False, False, True, True]
    expert.reset(Says([0.0]))
    assert moves(expert, 3 * [[0.0]]) == 3 * [False]


def test_the_simulators_expert_is_asked_once_a_step():
    robot = Says([0.0])
    expert = scripted(robot, patience=1, hold=1)
    assert moves(expert, 3 * [[1.0]]) == 3 * [True]
    assert robot.asked == 3


def test_a_simulator_without_an_expert_is_refused():
    with pytest.raises(UsageError, match="object has no scripted expert"):
        ScriptedTakeover().reset(object())


@pytest.fixture
def terminal():
    person, device = pty.openpty()
    yield person, os.ttyname(device)
    os.close(person)
    os.close(device)


def test_a_person_takes_over_moves_and_hands_back(terminal):
    person, name = terminal
    keys = {"w": [0.5, 0.0], "d": [0.0, 1.0]}
    expert = KeyboardExpert(keys, {"c": [0.0, 2.0]}, linger=2, rate=50, terminal=name, show=False)
    expert.reset(Drift())

    def step(pressed):
        os.write(person, pressed.encode())
        observation = {STATE: np.zeros(5)}
        if not expert.takes_over(observation, np.zeros(2)):
            return None
        return expert.act(observation).tolist()

    assert step("") is None
    assert step("w") is None  # the policy still moves the robot
    assert step(" ") == [0.5, 0.0]
    assert step("") == [0.0, 0.0]
    assert step("wd") == [0.5, 1.0]
    assert step("c") == [0.5, 3.0]
    assert step("") == [0.0, 2.0]
    assert step("c") == [0.0, 2.0]
    assert step(" ") is None
    expert.reset(Drift())
    assert step(" ") == [0.0, 0.0]


def test_it_is_shown_what_the_robot_does(terminal):
    person, name = terminal
    expert = KeyboardExpert({"w": [1.0, 0.0]}, {}, rate=100, terminal=name)
    expert.reset(Drift())
    acting = threading.Thread(target=expert.takes_over, args=({STATE: np.zeros(5)}, np.zeros(2)), daemon=True)
    acting.start()
    shown = b""
    while b"space bar" not in shown:
        shown += os.read(person, 65536)
    acting.join()
    assert "▀".encode() in shown
    assert b"step 1: the policy moves the robot" in shown


def test_a_picture_in_text_has_a_character_for_two_pixels():
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[0, 0] = (1, 2, 3)
    picture[1, 0] = (4, 5, 6)
    lines = as_text(picture, width=4).splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("\x1b[38;2;1;2;3m\x1b[48;2;4;5;6m▀")
    assert lines[0].count("▀") == 4


def test_what_a_keyboard_cannot_do_is_said(tmp_path):
    with pytest.raises(UsageError, match=r"give actions of shape \(4,\), and the robot takes \(2,\)"):
        KeyboardExpert().reset(Drift())
    with pytest.raises(UsageError, match="actions of different lengths"):
        KeyboardExpert({"w": [1.0]})
    plain = tmp_path / "file"
    plain.touch()
    for place in (tmp_path / "nothing", plain):
        expert = KeyboardExpert({"w": [1.0, 0.0]}, {}, terminal=str(place))
        expert.reset(Drift())
        with pytest.raises(UsageError, match=r"needs a terminal, and .* is none here"):
            expert.takes_over({STATE: np.zeros(5)}, np.zeros(2))


def test_the_expert_of_ones_own_lifts_a_peg_that_is_held_high():
    pytest.importorskip("metaworld")
    from examples.extensions.peg_expert import PegInsertionExpert
    from trainer.evaluation.simulators.metaworld import MetaworldSimulator

    simulator, ours, start = MetaworldSimulator("peg-insert-side-v3"), PegInsertionExpert(), 491113667
    succeeded = []
    for expert in (scripted(simulator), ours):
        expert.reset(simulator)
        observation, steps = simulator.reset(start), []
        while len(steps) < 120 and not (steps and steps[-1].success):
            steps.append(simulator.step(expert.act(observation)))
            observation = steps[-1].observation
        succeeded.append(steps[-1].success)
    assert succeeded == [False, True]  # the simulator's own presses it down until the end
