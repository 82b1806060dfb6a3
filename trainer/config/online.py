"""The schema of the `online` section: what robots collect while the policy trains, and how it is mixed in."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from trainer.config.component import MAY_CHANGE, ComponentSpec
from trainer.config.section import KeyMistake, Section

CollectionMode = Literal["policy", "dagger", "hg_dagger"]


class WorkersConfig(Section):
    """The robots that collect, each a Ray actor with some environments in lockstep."""

    count: int = Field(1, ge=0, description="rollout workers; 0: robots of your own send their episodes")
    envs: int = Field(4, gt=0, description="environments of a worker, stepped together")
    env: str | None = Field(
        None, min_length=1, description="simulator; that of train.evaluation or data.recording if not given"
    )
    max_steps: int | None = Field(
        None, gt=0, description="longest episode, in control steps; the simulator's own limit if not given"
    )
    seed: int = Field(0, ge=0, description="chooses the starts; never those recorded or evaluated")
    n_action_steps: int | None = Field(
        None, gt=0, description="actions executed of each chunk; the policy's own number if not given"
    )
    refresh: Literal["episode"] | int = Field(
        "episode", description="newer weights are taken at episode borders, or every so many control steps"
    )


class ReplayConfig(Section):
    """What is kept of what was collected, and what is drawn of it."""

    capacity: int = Field(
        1_000_000, gt=0, description="control steps kept in memory; the oldest episodes make way"
    )
    sampling: Literal["uniform", "expert", "recent", "intervention"] = Field(
        "uniform",
        description="which windows are drawn: all alike; those whose action an expert or a person gave; "
        "newer ones more often; interventions more often",
    )
    recent_steps: int = Field(
        20_000, gt=0, description="recent: a window this many steps old is drawn 1/e times as often"
    )
    intervention_weight: float = Field(
        4.0, gt=0, description="intervention: how often a step of an intervention is drawn against another"
    )
    keep_failures: bool = Field(
        True,
        description="whether the policy's own actions in episodes that failed are drawn too; "
        "what an expert or a person gave always is",
    )
    compact_every: int = Field(
        100,
        gt=0,
        description="episodes after which the LeRobot dataset of all of them is written anew, and again when "
        "they have doubled; the end of a run writes it in any case",
    )


class PublishConfig(Section):
    """How weights travel from the learner to the robots."""

    every_n_steps: int = Field(50, gt=0, description="updates between two versions")
    bf16: bool = Field(False, description="send half as many bytes; robots act on rounded weights")


class PlacementConfig(Section):
    """Ray resources, such as `{training_pc: 0.01}`, that the node of each actor must have."""

    replay_buffer: dict[str, float] = Field(default_factory=dict)
    policy_state_manager: dict[str, float] = Field(default_factory=dict)
    workers: dict[str, float] = Field(default_factory=dict)
    learner: dict[str, float] = Field(default_factory=dict)


class OnlineConfig(Section):
    """Training on demonstrations and on what robots collect meanwhile: `trainer online`."""

    mode: CollectionMode | list[CollectionMode] = Field(
        "policy",
        description="policy: it acts alone; dagger: the expert says at every step what it would do; "
        "hg_dagger: the expert takes over when it judges so, and only its actions are learnt. "
        "A list is gone through by switch_at",
    )
    switch_at: list[float] = Field(
        default_factory=list,
        description="of a list of modes: the shares of the run at which the next one begins, ascending",
    )
    expert: ComponentSpec | None = Field(
        None, description="who labels or takes over: scripted, keyboard, or of a plugin"
    )
    expert_budget: int | None = Field(
        None,
        gt=0,
        description="labels that the expert may give in the whole run, without those of episodes that were "
        "lost with a killed worker; null: any number",
    )
    ratio: float = Field(0.5, gt=0, le=1, description="share of collected samples in every global batch")
    start_windows: int | None = Field(
        None, gt=0, description="usable windows that must be there before the first update; null: one batch"
    )
    offline_steps: int = Field(
        0, ge=0, description="updates on the demonstrations alone before anything is collected"
    )
    update_ratio: float | None = Field(
        None,
        gt=0,
        description="updates per collected control step; the side that is ahead waits. null: none waits",
    )
    update_slack: int = Field(
        100, gt=0, description="updates by which either side may be ahead of update_ratio"
    )
    workers: WorkersConfig = Field(WorkersConfig(), json_schema_extra=MAY_CHANGE)
    replay: ReplayConfig = Field(ReplayConfig(), json_schema_extra=MAY_CHANGE)
    publish: PublishConfig = Field(PublishConfig(), json_schema_extra=MAY_CHANGE)
    placement: PlacementConfig = Field(PlacementConfig(), json_schema_extra=MAY_CHANGE)

    @model_validator(mode="after")
    def _modes_fit(self) -> OnlineConfig:
        modes = self.modes
        if not modes:
            raise KeyMistake("mode", "it names no mode", "give policy, dagger or hg_dagger")
        if len(self.switch_at) != len(modes) - 1:
            raise KeyMistake(
                "switch_at",
                f"it holds {len(self.switch_at)} numbers, and mode names {len(modes)}",
                f"give {len(modes) - 1}, one for each mode after the first",
            )
        if any(not 0 < share < 1 for share in self.switch_at) or sorted(self.switch_at) != self.switch_at:
            raise KeyMistake("switch_at", "the shares must ascend, between 0 and 1")
        asks = [mode for mode in modes if mode != "policy"]
        if asks and self.expert is None:
            raise KeyMistake(
                "expert", f"mode {' and '.join(asks)} asks an expert, and there is none", "give one"
            )
        if self.expert is not None and not asks:
            raise KeyMistake("expert", "it has no effect, because mode is policy")
        if self.expert_budget is not None and not asks:
            raise KeyMistake("expert_budget", "it has no effect, because mode is policy")
        return self

    @property
    def modes(self) -> list[CollectionMode]:
        """The modes, in their order."""
        return self.mode if isinstance(self.mode, list) else [self.mode]

    def mode_at(self, share: float) -> CollectionMode:
        """Return the mode in which robots collect when this share of the run's updates is made."""
        return self.modes[sum(share >= begins for begins in self.switch_at)]
