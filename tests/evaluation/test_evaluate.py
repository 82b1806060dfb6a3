"""Rollouts, results and films."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import av
import numpy as np
import pytest
from click.testing import CliRunner
from helpers.expert_policy import ConstantPolicy, ExpertPolicy

from trainer.commands.evaluate import evaluate as evaluate_command
from trainer.evaluation.evaluate import evaluate
from trainer.evaluation.intervals import wilson_interval
from trainer.evaluation.simulators import make_simulator
from trainer.evaluation.starts import start_seeds
from trainer.evaluation.video import write_video

pytest.importorskip("metaworld")
pytest.importorskip("gym_pusht")

ENV = "metaworld/push-v3"


def test_the_expert_succeeds_and_results_are_written(tmp_path: Path) -> None:
    policy = ExpertPolicy(ENV)
    result = evaluate(
        policy, ENV, episodes=4, seed=0, out=tmp_path, videos=0, progress=False, checkpoint="epoch_1"
    )
    assert result.success_rate == 1.0
    assert result.summary().startswith(f"{ENV}: success 100.0%")
    written = json.loads((tmp_path / "results.json").read_text())
    assert written == result.to_dict()
    assert written["start_seeds"] == start_seeds(0, 4, "evaluation")
    assert written["success_interval"] == list(wilson_interval(4, 4))
    assert (written["env"], written["checkpoint"], written["seed"]) == (ENV, "epoch_1", 0)
    assert written["mean_length"] == np.mean([e["length"] for e in written["episodes"]])
    assert [e["episode"] for e in written["episodes"]] == [0, 1, 2, 3]
    assert all(e["video"] is None and e["score"] == 1.0 for e in written["episodes"])
    # Ended episodes leave the batch: the policy never computes for them again.
    assert sum(policy.batches) == sum(e["length"] for e in written["episodes"])


def test_the_number_in_lockstep_changes_nothing() -> None:
    starts = start_seeds(1, 5, "evaluation")

    def gives_up(seed: int) -> bool:
        return seed in starts[1:3]

    results = [
        evaluate(
            ExpertPolicy(ENV, gives_up),
            ENV,
            episodes=5,
            seed=1,
            out=None,
            lockstep=lockstep,
            max_steps=120,
            progress=False,
        )
        for lockstep in (1, 2, 5)
    ]
    first = [asdict(outcome) for outcome in results[0].outcomes]
    assert [outcome["success"] for outcome in first] == [True, False, False, True, True]
    assert [outcome["length"] for outcome in first][1:3] == [120, 120]
    for other in results[1:]:
        assert [asdict(outcome) for outcome in other.outcomes] == first


class LookingPolicy(ConstantPolicy):
    """Keeps what it is shown."""

    observation_windows = {"observation.image": (0,)}  # noqa: RUF012

    def __init__(self, action: tuple[float, float]) -> None:
        super().__init__(action)
        self.seen: list[dict[str, np.ndarray]] = []

    def act(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        self.seen.append(dict(observation))
        return super().act(observation)


def test_a_policy_is_shown_the_cameras_that_it_looks_through(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = LookingPolicy((256.0, 300.0))
    options = {"episodes": 2, "seed": 0, "out": None, "max_steps": 3, "progress": False}
    evaluate(policy, "pusht", **options, features={"observation.image": (96, 96, 3)})  # type: ignore[arg-type]
    assert [o["observation.image"].shape for o in policy.seen] == [(2, 96, 96, 3)] * 3
    simulator = make_simulator("pusht")
    simulator.reset(start_seeds(0, 2, "evaluation")[1])
    for observation in policy.seen:
        picture = simulator.picture("observation.image")  # type: ignore[attr-defined]
        np.testing.assert_array_equal(observation["observation.image"][1], picture)
        simulator.step(policy.action)
    with pytest.raises(ValueError, match="of shape \\(64, 64, 3\\); in pusht it has shape \\(96, 96, 3\\)"):
        evaluate(policy, "pusht", **options, features={"observation.image": (64, 64, 3)})  # type: ignore[arg-type]

    def nothing_to_draw_on(*_: object) -> None:
        raise RuntimeError("there is no screen")

    monkeypatch.setattr(type(simulator), "picture", nothing_to_draw_on)
    with pytest.raises(ValueError, match=r"sees through observation\.image, but there is no screen"):
        evaluate(policy, "pusht", **options)  # type: ignore[arg-type]


def test_an_episode_agrees_with_a_loop_by_hand() -> None:
    target = (256.0, 300.0)
    result = evaluate(
        ConstantPolicy(target), "pusht", episodes=3, seed=2, out=None, max_steps=40, progress=False
    )
    for outcome in result.outcomes:
        simulator = make_simulator("pusht")
        simulator.reset(outcome.seed)
        steps = [simulator.step(np.array(target)) for _ in range(40)]
        assert outcome.length == 40
        assert outcome.score == max(s.score for s in steps)
        assert outcome.total_reward == pytest.approx(sum(s.reward for s in steps))


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ((float("nan"), 0.0, 0.0, 0.0), "NaN or an infinite action at step 0 of the episode with start seed"),
        ((0.0, 0.0), r"shape \(2, 2\); the simulator takes \(2, 4\)"),
    ],
)
def test_actions_that_cannot_be_used_end_in_one_sentence(action: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(ConstantPolicy(action), ENV, episodes=2, seed=0, out=None, progress=False)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"observation.state": (2,)}, r"'observation.state' of shape \(2,\); in metaworld/push-v3 it has"),
        (
            {"observation.images.top": (96, 96, 3)},
            "'observation.images.top', which metaworld/push-v3 does not",
        ),
    ],
)
def test_the_policy_of_another_robot_is_refused(features: dict[str, tuple[int, ...]], message: str) -> None:
    policy = ConstantPolicy((0.0, 0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match=message):
        evaluate(policy, ENV, episodes=1, seed=0, out=None, progress=False, features=features)


def test_films_show_the_episodes(tmp_path: Path) -> None:
    (tmp_path / "episode_007.mp4").write_bytes(b"of an earlier evaluation")
    result = evaluate(
        ConstantPolicy((256.0, 256.0)),
        "pusht",
        episodes=3,
        seed=0,
        out=tmp_path,
        videos=2,
        max_steps=20,
        progress=False,
    )
    assert result.videos == ["episode_000.mp4", "episode_001.mp4", None]
    assert sorted(p.name for p in tmp_path.glob("*.mp4")) == ["episode_000.mp4", "episode_001.mp4"]
    content = (tmp_path / "episode_000.mp4").read_bytes()
    assert 0 < content.index(b"moov") < content.index(b"mdat")  # plays while it loads
    with av.open(str(tmp_path / "episode_000.mp4")) as film:
        stream = film.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 10
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(frames) >= 21
    simulator = make_simulator("pusht")
    simulator.reset(result.outcomes[0].seed)
    for t in range(21):  # a film of a 10 Hz simulator shows every state
        assert np.abs(frames[t].astype(int) - simulator.render().astype(int)).mean() < 2
        simulator.step(np.array([256.0, 256.0]))


def test_odd_pictures_lose_a_row(tmp_path: Path) -> None:
    frames = [np.full((97, 65, 3), value, np.uint8) for value in (0, 128, 255)]
    write_video(tmp_path / "odd.mp4", frames, 12.5)
    with av.open(str(tmp_path / "odd.mp4")) as film:
        shown = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert [frame.shape for frame in shown] == [(96, 64, 3)] * 3
    assert all(abs(int(frame.mean()) - value) < 4 for frame, value in zip(shown, (0, 128, 255), strict=True))
    with pytest.raises(ValueError, match="without frames"):
        write_video(tmp_path / "none.mp4", [], 10)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["odd.mp4"]


def test_without_opengl_the_numbers_still_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.evaluation.simulators import metaworld

    def cannot(self: object) -> np.ndarray:
        raise RuntimeError("there is no OpenGL here")

    monkeypatch.setattr(metaworld.MetaworldSimulator, "render", cannot)
    result = evaluate(ExpertPolicy(ENV), ENV, episodes=2, seed=0, out=tmp_path, videos=2, progress=False)
    assert result.success_rate == 1.0
    assert result.notes == ["no videos were made: there is no OpenGL here"]
    assert result.videos == [None, None]
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_the_command_refuses_what_is_no_checkpoint(tmp_path: Path) -> None:
    answer = CliRunner().invoke(evaluate_command, [str(tmp_path / "nothing"), "--env", ENV])
    assert answer.exit_code == 2
    assert answer.stderr.count("\n") == 1
    assert "nothing" in answer.stderr


def test_demonstrations_of_another_rate_are_refused():
    policy = ConstantPolicy([0.0, 0.0])
    policy.fps = 30
    sentence = (
        r"demonstrations of 30 frames/s, and pusht takes 10 actions per second: each would last 3 times"
    )
    with pytest.raises(ValueError, match=sentence):
        evaluate(policy, "pusht", episodes=1, seed=0, out=None)
