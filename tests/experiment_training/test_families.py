"""The shipped families: their losses against the formulas written out, gradients, sampling."""

from __future__ import annotations

import logging

import pytest
import torch
import torch.nn.functional as F
from helpers.camera_families import CAMERAS, CHUNK, FAMILIES, JOINTS, small_batch, small_components
from torch import nn

from experiment_training.components.trainer.imitation_learning.camera_flow import drop_cameras
from experiment_training.components.trainer.imitation_learning.cfg_vqvae_flow_matching.policy import (
    GuidedFlowMatchingPolicy,
    substitute_noise,
)
from experiment_training.components.trainer.imitation_learning.mutual_information_estimator.objective import (
    MutualInformationEstimator,
)
from experiment_training.components.trainer.imitation_learning.naive_flow_matching_policy.policy import (
    NaiveFlowMatchingPolicy,
)
from experiment_training.components.trainer.imitation_learning.variational_flow_matching_policy import policy
from experiment_training.components.trainer.imitation_learning.vfp_single_expert.policy import (
    VFPSingleExpertDepthPolicy,
    VFPSingleExpertPolicy,
)
from trainer.templates import Context
from trainer.utils.random import SampleRandom

VariationalFlowMatchingPolicy = policy.VariationalFlowMatchingPolicy
POLICIES = {
    "naive_flow_matching_policy_trainer": NaiveFlowMatchingPolicy,
    "vfp_single_expert_trainer": VFPSingleExpertPolicy,
    "vfp_single_expert_trainer_depth": VFPSingleExpertDepthPolicy,
    "variational_flow_matching_policy_trainer": VariationalFlowMatchingPolicy,
    "cfg_vqvae_flow_matching_trainer_kot": GuidedFlowMatchingPolicy,
    "mutual_information_estimator_trainer": MutualInformationEstimator,
}
ROWS = 3


class SquaredDistance(nn.Module):
    """Stands for the transport: the squared distance of every sample to its own."""

    def forward(self, pred_action, target_action, state_pred, state_target):
        assert torch.equal(state_pred, state_target)
        return (pred_action - target_action).square().mean()


def make(key, **params):
    transport = {"loss": SquaredDistance()} if FAMILIES[key][4] and params.get("ot_weight") != 0 else {}
    return POLICIES[key](small_components(key), **transport, **params)


def context(**facts):
    return Context(SampleRandom(3), **facts)


def frames(batch):
    return [batch[f"observation.images.{camera}"] for camera in CAMERAS]


def tokens(features):
    return features.flatten(2).mT


def flow(batch, random):
    """Times, points, targets and noise, as the convention says."""
    time = 1 - (1 - random.uniform((ROWS,))) ** (2 / 3)
    noise = random.normal((ROWS, CHUNK, JOINTS))
    t = time[:, None, None]
    return time, (1 - t) * noise + t * batch["action"], batch["action"] - noise, noise


def masked_mean(error, batch):
    """The mean over samples of the mean over each one's own steps."""
    samples = [e[~pad].mean() for e, pad in zip(error, batch["action_is_pad"], strict=True)]
    return torch.stack(samples).mean()


def without_padding(predicted, batch):
    return torch.where(batch["action_is_pad"][..., None], batch["action"], predicted)


def check(losses, expected):
    for name, value in expected.items():
        torch.testing.assert_close(losses[name].float(), value.float(), rtol=1e-4, atol=1e-5, msg=name)


def test_the_naive_loss() -> None:
    naive, batch = make("naive_flow_matching_policy_trainer"), small_batch()
    c = naive.components
    time, point, target, _ = flow(batch, SampleRandom(3))
    seen = [c["backbone"](image=frame) for frame in frames(batch)]
    depth = [c["da3"](image=f, export_feat_layers=[18, 23]).flatten(1, 3) for f in frames(batch)]
    memory = c["info_embedder"](
        cond_proprio=batch["observation.state"],
        cond_visual=torch.cat([x for (f, _), d in zip(seen, depth, strict=True) for x in (tokens(f), d)], 1),
        cond_semantic=torch.stack([semantic for _, semantic in seen], 1),
        action=None,
    )["encoder_output"]
    velocity = c["action_decoder"](time=time, noise=point, memory_input=memory, discrete_semantic_input=None)
    expected = masked_mean((velocity - target) ** 2, batch)
    check(naive.loss(batch, context()), {"total": expected, "velocity": expected})


@pytest.mark.parametrize("depth", [False, True])
def test_the_single_expert_loss(depth) -> None:
    single = make("vfp_single_expert_trainer_depth" if depth else "vfp_single_expert_trainer")
    c, batch = single.components, small_batch()
    time, point, target, _ = flow(batch, SampleRandom(3))
    sides = ("head", "left", "right")
    seen = [c[f"{s}_backbone"](image=frame) for s, frame in zip(sides, frames(batch), strict=True)]
    visual = [tokens(features) for features, _ in seen]
    if depth:
        visual.insert(1, c["da3"](image=frames(batch)[0], export_feat_layers=[18, 12]).flatten(1, 3))
    memory = c["info_embedder"](
        cond_proprio=batch["observation.state"],
        cond_visual=visual,
        cond_semantic=[semantic[:, None] for _, semantic in seen],
        action=None,
    )["encoder_output"]
    velocity = c["action_decoder"](time=time, noise=point, memory_input=memory, discrete_semantic_input=None)
    error = (velocity - target).abs() if depth else (velocity - target) ** 2
    expected = masked_mean(error, batch)
    check(single.loss(batch, context()), {"total": expected, "velocity": expected})


def variational_parts(c, batch):
    seen = [c["backbone"](image=frame) for frame in frames(batch)]
    head, left, right = (tokens(features) for features, _ in seen)
    depth = c["da3"](image=frames(batch)[0], export_feat_layers=[18, 23]).flatten(1, 3)
    state, semantic = batch["observation.state"], seen[0][1]
    memory = c["info_embedder"](
        cond_proprio=state,
        cond_visual=torch.cat([head, depth, left, right], 1),
        cond_semantic=semantic,
        action=None,
    )["encoder_output"]
    return memory, {"cond_proprio": state, "cond_visual": head, "cond_semantic": semantic}


def test_the_variational_loss() -> None:
    variational, batch = make("variational_flow_matching_policy_trainer", balance_weight=0.5), small_batch()
    c = variational.components
    nn.init.normal_(c["gate"].graph_modules["vfp_gate"].gate.weight, std=0.2)
    memory, head = variational_parts(c, batch)
    z, p = c["vqvae_posterior"](**head, action=batch["action"]), c["vqvae_prior"](**head, action=None)
    random = SampleRandom(3)
    g = c["gate"](input=z + random.normal(tuple(z.shape)), iterations=0, training=False, use_noise=True)
    time, point, target, noise = flow(batch, random)
    inputs = {"memory_input": memory, "discrete_semantic_input": None}
    velocities = c["moe_action_decoder"](time=time, noise=point, **inputs)
    starts = c["moe_action_decoder"](time=torch.zeros(ROWS), noise=noise, **inputs)
    moe = sum(g[:, e, None, None] * (target - velocities[:, e]) ** 2 for e in range(4))
    mean_start = sum(g[:, e, None, None] * starts[:, e] for e in range(4))
    velocity, kl = masked_mean(moe, batch), ((p - z) ** 2).mean()
    ot = (without_padding(noise + mean_start, batch) - batch["action"]).square().mean()
    largest = [int(row.argmax()) for row in g]
    share = torch.tensor([largest.count(e) / ROWS for e in range(4)])
    balance = 4 * (share * g.mean(0)).sum()
    losses = variational.loss(batch, context())
    check(
        losses,
        {
            "velocity": velocity,
            "prior_posterior": kl,
            "Sinkhorn": ot,
            "load_balancing": balance,
            "total": velocity + 0.2 * ot + kl + 0.5 * balance,
            "Expected Activated Expert": torch.tensor(sum(largest) / ROWS),
            **{f"expert {e}": share[e] for e in range(4)},
        },
    )


def guided_parts(c, batch):
    seen = [c["backbone"](image=frame) for frame in frames(batch)]
    state = batch["observation.state"]
    cond = c["proprio_projector"](cond_proprio=state, cond_visual=torch.stack([f for f, _ in seen], 1))
    depth = c["da3"](image=frames(batch)[0], export_feat_layers=[8, 13, 18, 23])
    head = {
        "cond_proprio": state,
        "cond_visual": seen[0][0][:, None],
        "cond_semantic": seen[0][1],
    }
    return torch.cat([depth.flatten(1, 3), cond], 1), head


@pytest.mark.parametrize("with_teacher", [False, True])
def test_the_guided_loss(with_teacher) -> None:
    guided, batch = make("cfg_vqvae_flow_matching_trainer_kot"), small_batch()
    c = guided.components.eval()
    memory, head = guided_parts(c, batch)
    z, p = c["vqvae_posterior"](**head, action=batch["action"]), c["vqvae_prior"](**head, action=None)
    q = c["vqvae_codebook"](continuous_vec=z, train=True, replacement=False)["q"]
    random = SampleRandom(3)
    n = F.normalize(random.normal(tuple(z.shape)), dim=-1)
    latent = z + n * torch.linalg.norm(z - q, dim=-1, keepdim=True)
    kept = random.uniform((ROWS, 1, 1)) < 1 - 0.5 * 1 / 2  # epoch 1 of 2
    latent = latent * kept
    time, point, target, noise = flow(batch, random)
    inputs = {"memory_input": memory, "discrete_semantic_input": latent}
    velocity = c["action_decoder"](time=time, noise=point, **inputs)
    start = c["action_decoder"](time=torch.zeros(ROWS), noise=noise, **inputs)
    summed = CHUNK * JOINTS * masked_mean((velocity - target) ** 2, batch)
    ot = (without_padding(noise + start, batch) - batch["action"]).square().mean()
    commitment = (z - q).square().sum(-1).mean()
    wanted = torch.ones_like(z) if with_teacher else z
    prior = (p - wanted).square().sum(-1).mean()
    teacher = (lambda **inputs: torch.ones_like(z)) if with_teacher else None
    losses, own = guided.losses(batch, context(training=True, epoch=1), teacher)
    torch.testing.assert_close(own, z)
    assert not own.requires_grad
    assert 0 < kept.sum() < ROWS
    check(
        losses,
        {
            "velocity": summed,
            "Sinkhorn": ot,
            "posterior_codebook": commitment,
            "True_prior_posterior": (p - z).square().sum(-1).mean(),
            **({"EMA_prior_posterior": prior} if with_teacher else {}),
            "total": summed + 0.2 * ot + 0.25 * commitment + prior,
        },
    )


def test_the_loss_of_the_prior_changes_no_other_gradient() -> None:
    """As if it were a loss of its own: the prior learns from it alone, and nobody else from it."""
    guided, batch = make("cfg_vqvae_flow_matching_trainer_kot"), small_batch()
    gradients = []
    for wanted in (torch.zeros(ROWS, 4, 64), torch.ones(ROWS, 4, 64)):
        guided.zero_grad()
        losses, _ = guided.losses(batch, context(training=True), lambda wanted=wanted, **_: wanted)
        losses["total"].backward()
        gradients.append(
            {name: p.grad.clone() for name, p in guided.named_parameters() if p.grad is not None}
        )
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]) is ("vqvae_prior" not in name), name


def test_noise_takes_the_place_of_the_quantisation_error() -> None:
    z, q = torch.randn(5, 4, 8, requires_grad=True), torch.randn(5, 4, 8, requires_grad=True)
    found = substitute_noise(z, q, SampleRandom(0))
    torch.testing.assert_close((found - z).norm(dim=-1), (z - q).norm(dim=-1))
    found.sum().backward()
    assert q.grad.abs().sum() > 0


def test_the_loss_of_the_estimator() -> None:
    estimator, batch = make("mutual_information_estimator_trainer"), small_batch()
    c = estimator.components.eval()
    image = F.interpolate(frames(batch)[0], (128, 128), mode="bilinear", align_corners=False)
    state, random = batch["observation.proprio_state"], SampleRandom(3)
    a = c["action_encoder"](action=batch["action"])["embedding"]
    s = c["state_encoder"](data={"state": state, "cam_0": image})["embedding"]
    actions = c["action_decoder"](embedding=a + random.normal(tuple(a.shape)))["action"]
    states = c["state_decoder"](embedding=s + random.normal(tuple(s.shape)))
    errors = {
        "img_recon": (states["cam_0"] - image).square().mean(),
        "action_recon": masked_mean((actions - batch["action"]) ** 2, batch),
        "state_recon": (states["state"] - state).square().mean(),
    }
    lengths = a.square().mean() + s.square().mean()
    check(
        estimator.loss(batch, context()),
        {**errors, "total": 0.01 * lengths + 0.005 * sum(errors.values())},
    )


@pytest.mark.parametrize("key", FAMILIES)
def test_gradients_reach_what_is_trained_and_nothing_else(key) -> None:
    objective = make(key)
    _, _, trained, frozen, _ = FAMILIES[key]
    objective.loss(small_batch(), context(training=True))["total"].backward()
    for name in trained:
        for path, parameter in objective.components[name].named_parameters():
            assert parameter.grad is not None, f"{name}.{path}"
            assert parameter.grad.isfinite().all(), f"{name}.{path}"
    assert all(p.grad is None for name in frozen for p in objective.components[name].parameters())


@pytest.mark.parametrize("key", FAMILIES)
def test_padding_has_no_part_in_the_loss(key) -> None:
    objective, batch = make(key), small_batch()
    objective.components.eval()
    other = dict(batch)
    other["action"] = torch.where(batch["action_is_pad"][..., None], 100.0, batch["action"])
    names = {"velocity", "Sinkhorn", "action_recon"}
    readers = {"cfg_vqvae_flow_matching_trainer_kot", "variational_flow_matching_policy_trainer"}
    if key in readers or key == "mutual_information_estimator_trainer":
        # The posterior reads whole chunks, so what is written where they end must be the same.
        class Encoder(nn.Module):
            def __init__(self, inner):
                super().__init__()
                self.inner = inner

            def forward(self, action, **inputs):
                return self.inner(action=batch["action"], **inputs)

        name = "vqvae_posterior" if key in readers else "action_encoder"
        objective.components[name] = Encoder(objective.components[name])
    before, after = (objective.loss(b, context()) for b in (batch, other))
    # A causal decoder looks at padding never before the end of the chunk.
    for name in names & set(before):
        torch.testing.assert_close(before[name], after[name])


@pytest.mark.parametrize("key", [key for key in FAMILIES if "estimator" not in key])
def test_a_row_acts_alike_in_any_batch_and_euler_steps_are_followed(key) -> None:
    drawn = make(key, integration_steps=2, n_action_steps=7)
    drawn.components.eval()
    batch = small_batch()
    with torch.no_grad():
        whole = drawn.predict_action(batch, context())
        alone = drawn.predict_action({k: v[:1] for k, v in batch.items()}, context())
    assert whole.shape == (ROWS, CHUNK, JOINTS)
    torch.testing.assert_close(whole[:1], alone, rtol=1e-4, atol=1e-4)


def test_the_mixture_is_the_weighed_velocity_and_an_expert_is_its_own() -> None:
    key, batch = "variational_flow_matching_policy_trainer", small_batch()
    mixture = make(key, integration_steps=1)
    c = mixture.components.eval()
    nn.init.normal_(c["gate"].graph_modules["vfp_gate"].gate.weight, std=0.2)
    mixture.updates.fill_(10_000)
    with torch.no_grad():
        memory, head = variational_parts(c, batch)
        p, random = c["vqvae_prior"](**head, action=None), SampleRandom(3)
        g = c["gate"](
            input=p + random.normal(tuple(p.shape)), iterations=10_000, training=False, use_noise=False
        )
        noise = random.normal((ROWS, CHUNK, JOINTS))
        v = c["moe_action_decoder"](
            time=torch.zeros(ROWS), noise=noise, memory_input=memory, discrete_semantic_input=None
        )
        expected = {
            "mixture": noise + torch.einsum("be,besa->bsa", g, v),
            "likeliest": noise + v[torch.arange(ROWS), g.argmax(-1)],
            2: noise + v[:, 2],
        }
        for expert, chunk in expected.items():
            mixture.expert = expert
            torch.testing.assert_close(mixture.predict_action(batch, context()), chunk, rtol=1e-4, atol=1e-4)
        mixture.expert = 4
        with pytest.raises(ValueError, match="expert is 4, but there are experts 0 to 3"):
            mixture.predict_action(batch, context())


def test_the_temperature_falls_with_the_updates_and_stays_on_the_robot() -> None:
    variational, batch = make("variational_flow_matching_policy_trainer"), small_batch()
    seen = []
    gate = variational.components["gate"]
    gate.register_forward_pre_hook(lambda _, __, k: seen.append(k["iterations"]), with_kwargs=True)
    variational.loss(batch, context(training=True, step=6))
    variational.loss(batch, context(step=0))
    with torch.no_grad():
        variational.predict_action(batch, context())
    assert seen == [6, 7, 7]


def test_guidance_goes_beyond_the_velocity_with_latents() -> None:
    batch, chunks = small_batch(), {}
    for weight in (0.0, 1.0, 3.0):
        guided = make("cfg_vqvae_flow_matching_trainer_kot", integration_steps=1, guidance_weight=weight)
        guided.components.eval()
        with torch.no_grad():
            chunks[weight] = guided.predict_action(batch, context())
    assert not torch.allclose(chunks[0.0], chunks[1.0])
    torch.testing.assert_close(
        chunks[3.0], chunks[0.0] + 3 * (chunks[1.0] - chunks[0.0]), rtol=1e-4, atol=1e-4
    )


def test_a_robot_is_guided_by_the_code_vectors_of_the_prior() -> None:
    guided, batch = make("cfg_vqvae_flow_matching_trainer_kot", integration_steps=1), small_batch()
    c = guided.components.eval()
    with torch.no_grad():
        memory, head = guided_parts(c, batch)
        q = c["vqvae_codebook"](
            continuous_vec=c["vqvae_prior"](**head, action=None), train=False, replacement=False
        )["q"]
        noise = SampleRandom(3).normal((ROWS, CHUNK, JOINTS))
        v = c["action_decoder"](
            time=torch.zeros(ROWS), noise=noise, memory_input=memory, discrete_semantic_input=q
        )
        torch.testing.assert_close(guided.predict_action(batch, context()), noise + v, rtol=1e-4, atol=1e-4)


def test_cameras_are_dropped_by_sample_and_the_batch_stays_as_it_is() -> None:
    given = [torch.ones(30_000, 3, 1, 1) for _ in range(3)]
    dropped = drop_cameras(given, 0.15, SampleRandom(0))
    black = torch.stack([frame.flatten(1).sum(1) == 0 for frame in dropped])
    assert black.sum(0).max() == 1
    assert black.float().mean(1).tolist() == pytest.approx([0.05] * 3, abs=0.005)
    assert all(frame.min() == 1 for frame in given)


def test_cameras_are_dropped_in_training_only(monkeypatch) -> None:
    seen = []

    def note(frames, probability, random):
        seen.append(probability)
        return frames

    module = "experiment_training.components.trainer.imitation_learning.vfp_single_expert.policy"
    monkeypatch.setattr(f"{module}.drop_cameras", note)
    single, batch = make("vfp_single_expert_trainer", camera_dropout=0.3), small_batch()
    single.loss(batch, context(training=True))
    single.loss(batch, context())
    assert seen == [0.3]


def latent_components():
    """Return the small components with posterior and prior, and a decoder that reads their tokens."""
    import yaml
    from helpers.camera_families import MODELS
    from model_constructor import build_model

    folder = MODELS / "vfp_single_expert/small"
    components = small_components("vfp_single_expert_trainer")
    for name in ("vae_posterior", "vae_prior"):
        components[name] = build_model(folder / f"{name}.yaml")
    decoder = {
        "schema_version": 1,
        "defaults": [str(folder / "action_decoder.yaml")],
        "shapes": {"discrete_semantic_input": ["B", 5, 64]},
        "model": {
            "graph": {"modules": {"action_decoder": {"use_cond_semantic": True, "cond_semantic_dim": 64}}}
        },
    }
    return components, yaml.safe_dump(decoder)


def test_a_latent_conditions_the_single_expert_and_is_kept_near_its_prior(tmp_path) -> None:
    from model_constructor import build_model

    components, text = latent_components()
    (tmp_path / "decoder.yaml").write_text(text)
    components["action_decoder"] = build_model(tmp_path / "decoder.yaml")
    single = VFPSingleExpertPolicy(components, use_latent=True, kl_weight=0.5, integration_steps=1)
    batch = small_batch()
    seen = [components[f"{s}_backbone"](image=f) for s, f in zip(("head",), frames(batch), strict=False)]
    head = {
        "cond_proprio": batch["observation.state"],
        "cond_visual": tokens(seen[0][0]),
        "cond_semantic": seen[0][1],
    }
    z = components["vae_posterior"](**head, action=batch["action"])
    p = components["vae_prior"](**head, action=None)
    losses = single.loss(batch, context())
    kl = ((z - p) ** 2).mean()
    check(losses, {"kl": kl, "total": losses["velocity"] + 0.5 * kl})
    losses["total"].backward()
    for name in ("vae_posterior", "vae_prior", "action_decoder"):
        assert all(q.grad is not None for q in components[name].parameters()), name
    given = []
    decoder = components["action_decoder"]
    decoder.register_forward_pre_hook(
        lambda _, __, inputs: given.append(inputs["discrete_semantic_input"]), with_kwargs=True
    )
    single.components.eval()
    with torch.no_grad():
        assert single.predict_action(batch, context()).shape == (ROWS, CHUNK, JOINTS)
    drawn = SampleRandom(3)
    flow_first = p + drawn.normal(tuple(p.shape))
    torch.testing.assert_close(given[0], flow_first, rtol=1e-4, atol=1e-4)


def test_what_does_not_fit_is_said_in_a_sentence() -> None:
    batch = small_batch()
    with pytest.raises(
        ValueError, match=r"chunks of shape \(40, 24\), but the policy is made for \(16, 24\)"
    ):
        make("naive_flow_matching_policy_trainer", action_horizon=16).loss(batch, context())
    with pytest.raises(ValueError, match=r"no 'observation\.images\.wrist' in the batch, whose cameras are"):
        make("naive_flow_matching_policy_trainer", cameras=["wrist"]).loss(batch, context())
    with pytest.raises(ValueError, match="leave obs_images_history at 1"):
        make("naive_flow_matching_policy_trainer").loss(
            {**batch, "observation.images.cam_left": torch.zeros(ROWS, 2, 3, 64, 64)}, context()
        )
    with pytest.raises(ValueError, match="needs a component named backbone and one named da3"):
        NaiveFlowMatchingPolicy(small_components("vfp_single_expert_trainer"))
    with pytest.raises(ValueError, match=r"no train\.loss, such as sinkhorn_knopp"):
        VariationalFlowMatchingPolicy(small_components("variational_flow_matching_policy_trainer"))
    with pytest.raises(ValueError, match="kl_weight has no effect without use_latent"):
        make("vfp_single_expert_trainer", kl_weight=0.1)
    with pytest.raises(ValueError, match="named vae_posterior and one named vae_prior"):
        make("vfp_single_expert_trainer", use_latent=True)
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging.getLogger("trainer"), "warning", said.append)
        VFPSingleExpertPolicy(small_components("vfp_single_expert_trainer"), SquaredDistance())
    assert said == ["train.loss has no effect: VFPSingleExpertPolicy has its own loss."]
