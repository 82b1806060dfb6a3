"""Every shipped component YAML: it builds, runs at its documented shapes, exports, and fits its family."""

from pathlib import Path

import pytest
import torch
from model_constructor import build_model, resolve_config
from model_constructor.catalogue import arguments, block_entries, component_files, examine
from model_constructor.errors import ConfigError
from model_constructor.registry.default_registry import get_default_registry
from model_constructor.shapes import example_inputs

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "experiment_models"
FILES = [path.relative_to(MODELS).as_posix() for path in component_files(MODELS)]
GRAPH_INPUTS = {
    "action_decoder": ["time", "noise", "memory_input", "discrete_semantic_input"],
    "moe_action_decoder": ["time", "noise", "memory_input", "discrete_semantic_input"],
    "info_encoder": ["cond_proprio", "cond_visual", "cond_semantic"],
    "info_embedder": ["cond_proprio", "cond_visual", "cond_semantic", "action"],
    "multimodal_bridge": ["cond_proprio", "cond_visual", "cond_semantic", "action"],
    "vqvae_posterior": ["cond_proprio", "cond_visual", "cond_semantic", "action"],
    "vqvae_prior": ["cond_proprio", "cond_visual", "cond_semantic", "action"],
    "vae_posterior": ["cond_proprio", "cond_visual", "cond_semantic", "action"],
    "vae_prior": ["cond_proprio", "cond_visual", "cond_semantic", "action"],
    "proprio_projector": ["cond_proprio", "cond_visual"],
    "vqvae_codebook": ["continuous_vec", "train", "replacement"],
    "gate": ["input", "iterations", "training", "use_noise"],
    "da3": ["image", "export_feat_layers"],
    "left_hand_extractor": ["img"],
    "right_hand_extractor": ["img"],
    **{name: ["image"] for name in ("backbone", "head_backbone", "left_backbone", "right_backbone")},
}
# Module name, output and parameters of each full-size file of one family and a few others.
EXPECTED = {
    "cfg_vqvae_flow_matching/exp1/action_decoder.yaml": ("action_decoder", (2, 40, 24), 239_400_984),
    "cfg_vqvae_flow_matching/exp1/vqvae_posterior.yaml": ("vqvae_posterior", (2, 4, 1024), 105_046_016),
    "variational_flow_matching_policy/exp1/moe_action_decoder.yaml": ("vfp_moe", (2, 4, 40, 24), 355_312_736),
    "variational_flow_matching_policy/exp1/gate.yaml": ("vfp_gate", (2, 4), 6_144),
    "vfp_single_expert/exp1/action_decoder.yaml": ("action_decoder", (2, 40, 24), 38_790_552),
    "state_flow_matching/metaworld/observation_encoder.yaml": ("embedding", (2, 334), 86_016),
}


def need_its_library(name):
    if name.startswith("backbones/"):
        pytest.importorskip("transformers")


@pytest.mark.parametrize("name", FILES)
def test_builds_and_runs_without_memory(name):
    need_its_library(name)
    component = examine(MODELS / name, export=False)
    assert component.parameters > 0
    inputs = resolve_config(MODELS / name).data["model"]["graph"]["inputs"]
    stem = Path(name).stem
    if stem in GRAPH_INPUTS and not name.startswith("mutual_information_estimator"):
        assert inputs == GRAPH_INPUTS[stem]


@pytest.mark.parametrize("name", EXPECTED)
def test_full_sizes_are_those_of_the_experiments(name):
    module, shape, parameters = EXPECTED[name]
    with torch.device("meta"):
        model = build_model(MODELS / name).eval()
    assert module in model.graph_modules
    inputs = example_inputs(resolve_config(MODELS / name).data, model.inputs)
    assert tuple(model(**inputs).shape) == shape
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert next(iter(model.state_dict())).startswith("graph_modules.")


def one_small_file_for_each_block():
    chosen = {}
    for name in reversed(FILES):
        modules = resolve_config(MODELS / name).data["model"]["graph"]["modules"]
        chosen.setdefault(next(reversed(modules.values()))["_type_"], name)
    return sorted(set(chosen.values()))


@pytest.mark.parametrize("name", one_small_file_for_each_block())
def test_exports(name):
    need_its_library(name)
    assert examine(MODELS / name).export_error is None


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_every_file_exports(name):
    need_its_library(name)
    assert examine(MODELS / name).export_error is None


def test_the_page_of_blocks_lists_every_block_and_file():
    page = (ROOT / "docs" / "blocks.md").read_text()
    for entry in block_entries(get_default_registry()):
        assert f"| `{entry.name}` |" in page, "run the command at the top of docs/blocks.md"
        assert arguments(entry) in page, "run the command at the top of docs/blocks.md"
        assert entry.signature_policy == "strict"
    for name in FILES:
        assert f"`experiment_models/{name}`" in page, "run the command at the top of docs/blocks.md"


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        (None, "no 'shapes'"),
        ({"x": ["B", 2]}, "leaves out y"),
        ({"x": ["B", 2], "y": None, "z": None}, "names z"),
    ],
)
def test_incomplete_shapes_are_refused(shapes, words):
    with pytest.raises(ConfigError, match=words):
        example_inputs({"shapes": shapes}, ["x", "y"])


def test_shapes_make_tensors_lists_dicts_and_constants():
    shapes = {
        "a": ["B", 3],
        "b": [["B"], ["B", 1]],
        "c": {"d": ["B", 2]},
        "e": [18, 23],
        "f": True,
        "g": None,
    }
    made = example_inputs({"shapes": shapes}, list(shapes), batch_size=5)
    assert made["a"].shape == (5, 3)
    assert [part.shape for part in made["b"]] == [(5,), (5, 1)]
    assert made["c"]["d"].shape == (5, 2)
    assert (made["e"], made["f"], made["g"]) == ([18, 23], True, None)


def load(folder, *names):
    torch.manual_seed(0)
    return [build_model(MODELS / folder / f"{name}.yaml") for name in names]


def tokens(features):
    return features.flatten(2).transpose(1, 2)


def observation(batch=2):
    return {
        "action": torch.randn(batch, 40, 24),
        "state": torch.randn(batch, 40, 48),
        **{camera: torch.rand(batch, 3, 60, 80) for camera in ("head", "left", "right")},
    }


def check_gradients(*models, unused=()):
    for model in models:
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad or any(part in name for part in unused):
                continue
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("with_depth", [False, True])
def test_single_expert_components_fit_together(with_depth):
    folder = "vfp_single_expert/small_depth" if with_depth else "vfp_single_expert/small"
    cameras = load(folder, "head_backbone", "left_backbone", "right_backbone")
    embedder, decoder = load(folder, "info_embedder", "action_decoder")
    batch = observation()
    seen = [model(image=batch[name]) for model, name in zip(cameras, ("head", "left", "right"), strict=True)]
    visual = [tokens(features) for features, _ in seen]
    if with_depth:
        (da3,) = load(folder, "da3")
        visual.insert(1, da3(image=batch["head"], export_feat_layers=[18, 12]).flatten(1, 3))
    condition = embedder(
        cond_proprio=batch["state"],
        cond_visual=visual,
        cond_semantic=[summary[:, None] for _, summary in seen],
        action=None,
    )["encoder_output"]
    velocity = decoder(
        time=torch.rand(2), noise=batch["action"], memory_input=condition, discrete_semantic_input=None
    )
    assert velocity.shape == batch["action"].shape
    velocity.pow(2).mean().backward()
    check_gradients(*cameras, embedder, decoder)


def test_naive_components_fit_together():
    folder = "naive_flow_matching_policy/small"
    backbone, da3, embedder, decoder = load(folder, "backbone", "da3", "info_embedder", "action_decoder")
    batch = observation()
    images = torch.cat([batch[name] for name in ("head", "left", "right")])
    features, summary = backbone(image=images)
    maps = tokens(features).chunk(3)
    depth = [
        da3(image=batch[name], export_feat_layers=[18, 23]).flatten(1, 3)
        for name in ("head", "left", "right")
    ]
    visual = torch.cat([part for pair in zip(maps, depth, strict=True) for part in pair], dim=1)
    condition = embedder(
        cond_proprio=batch["state"],
        cond_visual=visual,
        cond_semantic=torch.stack(summary.chunk(3), dim=1),
        action=None,
    )["encoder_output"]
    velocity = decoder(
        time=torch.rand(2), noise=batch["action"], memory_input=condition, discrete_semantic_input=None
    )
    velocity.pow(2).mean().backward()
    check_gradients(backbone, embedder, decoder)


def test_variational_components_fit_together():
    folder = "variational_flow_matching_policy/small"
    backbone, da3, posterior, prior = load(folder, "backbone", "da3", "vqvae_posterior", "vqvae_prior")
    embedder, gate, experts = load(folder, "info_embedder", "gate", "moe_action_decoder")
    batch = observation()
    features, summary = backbone(image=torch.cat([batch[name] for name in ("head", "left", "right")]))
    head, left, right = tokens(features).chunk(3)
    semantic = summary.chunk(3)[0]
    seen = {"cond_proprio": batch["state"], "cond_visual": head, "cond_semantic": semantic}
    z = posterior(**seen, action=batch["action"])
    p = prior(**seen, action=None)
    depth = da3(image=batch["head"], export_feat_layers=[18, 23]).flatten(1, 3)
    visual = torch.cat([head, depth, left, right], dim=1)
    condition = embedder(
        cond_proprio=batch["state"], cond_visual=visual, cond_semantic=semantic, action=None
    )["encoder_output"]
    weights = gate(input=z + torch.randn_like(z), iterations=3, training=True, use_noise=True)
    velocities = experts(
        time=torch.rand(4),
        noise=batch["action"].repeat(2, 1, 1),
        memory_input=condition.repeat(2, 1, 1),
        discrete_semantic_input=None,
    )
    assert velocities.shape == (4, 4, 40, 24)
    mixed = (weights[:, :, None, None] * (velocities[:2] + velocities[2:])).sum(1)
    (mixed.pow(2).mean() + (p - z).pow(2).mean()).backward()
    check_gradients(backbone, posterior, prior, embedder, gate, experts)


def test_guided_components_fit_together():
    folder = "cfg_vqvae_flow_matching/small"
    backbone, da3, posterior, prior = load(folder, "backbone", "da3", "vqvae_posterior", "vqvae_prior")
    codebook, projector, decoder = load(folder, "vqvae_codebook", "proprio_projector", "action_decoder")
    batch = observation()
    with torch.no_grad():
        seen = {name: backbone(image=batch[name]) for name in ("head", "left", "right")}
        depth = da3(image=batch["head"], export_feat_layers=[8, 13, 18, 23])
    head = {
        "cond_proprio": batch["state"],
        "cond_visual": seen["head"][0][:, None],
        "cond_semantic": seen["head"][1],
    }
    z = posterior(**head, action=batch["action"])
    p = prior(**head, action=None)
    found = codebook(continuous_vec=z, train=True, replacement=False)
    maps = torch.stack([features for features, _ in seen.values()], dim=1)
    memory = torch.cat([depth.flatten(1, 3), projector(cond_proprio=batch["state"], cond_visual=maps)], dim=1)
    velocity = decoder(
        time=torch.rand(2), noise=batch["action"], memory_input=memory, discrete_semantic_input=z + found["q"]
    )
    assert velocity.shape == batch["action"].shape
    (velocity.pow(2).mean() + (p - z.detach()).pow(2).mean()).backward()
    check_gradients(posterior, prior, codebook, projector, decoder)
    assert codebook(continuous_vec=z.detach(), train=True, replacement=True)["dead_indices"].ndim == 1


def test_autoencoders_fit_together():
    folder = "mutual_information_estimator/small"
    action_encoder, action_decoder = load(folder, "action_encoder", "action_decoder")
    state_encoder, state_decoder = load(folder, "state_resnet34_encoder", "state_resnet34_decoder")
    action, data = (
        torch.randn(2, 40, 24),
        {"state": torch.randn(2, 40, 24), "cam_0": torch.rand(2, 3, 128, 128)},
    )
    a = action_decoder(embedding=action_encoder(action=action)["embedding"])["action"]
    r = state_decoder(embedding=state_encoder(data=data)["embedding"])
    assert a.shape == action.shape
    assert r["cam_0"].shape == data["cam_0"].shape
    (a.pow(2).mean() + r["state"].pow(2).mean() + r["cam_0"].pow(2).mean()).backward()
    check_gradients(action_encoder, action_decoder, state_encoder, state_decoder)


@pytest.mark.parametrize("folder", ["metaworld", "pusht", "small"])
def test_state_components_fit_together(folder):
    encoder, decoder = load(f"state_flow_matching/{folder}", "observation_encoder", "velocity_decoder")
    observed = example_inputs(
        resolve_config(MODELS / f"state_flow_matching/{folder}/observation_encoder.yaml").data,
        encoder.inputs,
        device="cpu",
    )
    flow = example_inputs(
        resolve_config(MODELS / f"state_flow_matching/{folder}/velocity_decoder.yaml").data,
        decoder.inputs,
        device="cpu",
    )
    for block in decoder.graph_modules["velocity_decoder"].blocks:
        torch.nn.init.normal_(block.modulation.weight)
    velocity = decoder(time=flow["time"], noise=flow["noise"], condition=encoder(**observed))
    assert velocity.shape == flow["noise"].shape
    velocity.pow(2).mean().backward()
    check_gradients(encoder, decoder)
