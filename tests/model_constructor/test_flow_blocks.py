"""Naive and variational flow-matching blocks against formulas, and what users may do wrong with them."""

import pytest
import torch
import torch.nn.functional as F
from helpers import plain_transformer as plain
from model_constructor.blocks.flow_decoders import FlowActionDecoder, MixtureActionDecoder, NoisyTopKGate
from model_constructor.blocks.flow_policies import (
    InfoEmbedder,
    MultimodalBridge,
    MultiSourceInfoEmbedder,
    ProprioProjector,
    VariationalPosterior,
    VariationalPrior,
)

D, HEADS, LAYERS = 16, 4, 2
TRANSFORMER = {
    "transformer_d_model": D,
    "transformer_nhead": HEADS,
    "transformer_dim_feedforward": 24,
    "transformer_dropout": 0.1,
    "transformer_activation": "gelu",
    "transformer_batch_first": True,
    "transformer_num_layers": LAYERS,
}
SOURCES = {
    "cond_proprio_dim": 5,
    "cond_visual_dim": 6,
    "action_dim": None,
    "use_action": False,
    "use_cond_semantic": True,
    "use_cond_semantic_projection": True,
    "cond_semantic_dim": 7,
    "use_cls_token": False,
    "num_cls_token": 1,
}
DECODER = {
    "action_dim": 3,
    "transformer_tgt_is_causal": True,
    "transformer_action_chunk_size": 6,
    **TRANSFORMER,
}


def projected(w, name, value):
    return F.elu(w.linear(f"{name}.0", value))


@torch.no_grad()
def test_proprio_projector_lines_up_cameras_rows_columns_and_states():
    block = ProprioProjector(cond_proprio_dim=5, transformer_d_model=4)
    proprio, visual = torch.randn(2, 3, 5), torch.randn(2, 2, 4, 2, 3)
    got = block(proprio, visual)
    assert got.shape == (2, 2 * 6 + 3, 4)
    torch.testing.assert_close(got[:, 6 + 3 * 1 + 2], visual[:, 1, :, 1, 2])
    torch.testing.assert_close(got[:, 12:], block.proprio_projection(proprio))
    with pytest.raises(ValueError, match=r"\(B, cameras, 4, h, w\)"):
        block(proprio, torch.randn(2, 2, 5, 2, 3))


@torch.no_grad()
def test_info_embedder_follows_the_formula():
    block = plain.randomize(InfoEmbedder(**SOURCES, **TRANSFORMER))
    proprio, visual, semantic = torch.randn(2, 3, 5), torch.randn(2, 4, 6), torch.randn(2, 3, 7)
    w = plain.Weights(block.state_dict())
    marks = w["source_embedding"]
    parts = [
        projected(w, "semantic_projection", semantic) + marks[0],
        projected(w, "visual_projection.0", visual) + marks[1],
        projected(w, "proprio_projection", proprio) + marks[2],
    ]
    tokens = torch.cat(parts, 1)
    tokens = tokens + plain.positions(10, D)
    expected = plain.encoder(w.below("encoder.encoder"), tokens, HEADS, LAYERS, pre_norm=True)
    got = block(cond_proprio=proprio, cond_visual=visual, cond_semantic=semantic, action=None)
    assert got["cls_token"] is None
    torch.testing.assert_close(got["encoder_output"], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_every_source_of_a_list_has_its_own_projection():
    sources = {**SOURCES, "use_cls_token": True, "num_cond_semantic": 2, "num_cond_visuals": 3}
    bridge = plain.randomize(MultimodalBridge(**sources, transformer_d_model=D))
    proprio = torch.randn(2, 3, 5)
    visual = [torch.randn(2, length, 6) for length in (4, 2, 5)]
    semantic = [torch.randn(2, 1, 7) for _ in range(2)]
    w = plain.Weights(bridge.state_dict())
    parts = [projected(w, f"semantic_projection.{n}", s) for n, s in enumerate(semantic)]
    parts += [projected(w, f"visual_projection.{n}", v) for n, v in enumerate(visual)]
    parts.append(projected(w, "proprio_projection", proprio))
    tokens = torch.cat([part + mark for part, mark in zip(parts, w["source_embedding"], strict=True)], 1)
    cls = w["cls_token"].expand(2, 1, D)
    expected = torch.cat([cls, tokens + plain.positions(tokens.shape[1], D)], 1)
    got = bridge(proprio, visual, semantic, None)
    torch.testing.assert_close(got["encoder_output"], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got["cls_token"], cls)

    embedder = plain.randomize(MultiSourceInfoEmbedder(**sources, **TRANSFORMER))
    w = plain.Weights(embedder.state_dict())
    embedder_state = bridge.state_dict()
    embedder.load_state_dict(embedder_state, strict=False)
    expected = plain.encoder(w.below("encoder.encoder"), expected, HEADS, LAYERS, pre_norm=True)
    got = embedder(proprio, visual, semantic)["encoder_output"]
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="got 2 visual sources, the block was made for 3"):
        embedder(proprio, visual[:2], semantic)
    with pytest.raises(ValueError, match="got 1 semantic sources"):
        embedder(proprio, visual, semantic[:1])
    with pytest.raises(ValueError, match="give a list"):
        embedder(proprio, visual, semantic[0])


@torch.no_grad()
def test_posterior_and_prior_take_a_flattened_camera_or_maps():
    arguments = {**SOURCES, "use_cls_token": True, "num_cls_token": 2, "num_cameras": 1, **TRANSFORMER}
    arguments.pop("use_action")
    arguments["action_dim"] = 3
    posterior = VariationalPosterior(**arguments).eval()
    arguments.pop("action_dim")
    prior = VariationalPrior(**arguments).eval()
    maps = torch.randn(2, 1, 6, 2, 2)
    tokens = maps[:, 0].flatten(2).transpose(1, 2)
    proprio, semantic, action = torch.randn(2, 3, 5), torch.randn(2, 7), torch.randn(2, 6, 3)
    z = posterior(proprio, tokens, semantic, action)
    assert z.shape == (2, 2, D)
    torch.testing.assert_close(posterior(proprio, maps, semantic, action), z)
    assert prior(proprio, maps, semantic, None).shape == (2, 2, D)
    assert posterior.encoder.source_embedding.shape[0] == prior.encoder.source_embedding.shape[0] + 1


def plain_decoder_inputs(w, time, noise, memory, semantic):
    embedding = plain.time_embedding(1000 * time, D)
    token = w.linear("inputs.time_mlp.2", F.silu(w.linear("inputs.time_mlp.0", embedding)))[:, None]
    queries = w.linear("inputs.noise_projection", noise) + w["inputs.query_positions"] + token
    parts = [token, memory + plain.positions(memory.shape[1], D)]
    if semantic is not None:
        parts.insert(1, w.linear("inputs.semantic_projection", semantic)[:, None])
    return queries, torch.cat(parts, 1)


@pytest.mark.parametrize("causal", [True, False])
@torch.no_grad()
def test_decoder_follows_the_formula(causal):
    settings = {
        **DECODER,
        "transformer_tgt_is_causal": causal,
        "use_cond_semantic": True,
        "cond_semantic_dim": 7,
    }
    block = plain.randomize(FlowActionDecoder(**settings))
    time, noise, memory, semantic = (
        torch.rand(2),
        torch.randn(2, 6, 3),
        torch.randn(2, 5, D),
        torch.randn(2, 7),
    )
    w = plain.Weights(block.state_dict())
    queries, rows = plain_decoder_inputs(w, time, noise, memory, semantic)
    y = plain.decoder(w.below("decoder.decoder"), queries, rows, HEADS, LAYERS, causal, pre_norm=True)
    expected = w.linear("output_layer", y)
    torch.testing.assert_close(block(time, noise, memory, semantic), expected, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(block(time[:, None], noise, memory, semantic), expected, atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_mixture_is_its_experts_side_by_side():
    block = plain.randomize(MixtureActionDecoder(num_experts=3, **DECODER))
    time, noise, memory = torch.rand(2), torch.randn(2, 6, 3), torch.randn(2, 5, D)
    w = plain.Weights(block.state_dict())
    queries, rows = plain_decoder_inputs(w, time, noise, memory, None)
    got = block(time, noise, memory, None)
    assert got.shape == (2, 3, 6, 3)
    for n in range(3):
        expert = w.below(f"experts.{n}.decoder")
        y = plain.decoder(expert, queries, rows, HEADS, LAYERS, True, pre_norm=True)
        torch.testing.assert_close(got[:, n], w.linear(f"output_layers.{n}", y), atol=2e-5, rtol=1e-5)


def test_new_decoders_keep_no_masks_in_their_state():
    assert not [name for name in FlowActionDecoder(**DECODER).state_dict() if "mask" in name]


@torch.no_grad()
def test_time_moves_the_velocity():
    torch.manual_seed(0)
    block = FlowActionDecoder(**DECODER).eval()
    noise, memory = torch.randn(1, 6, 3), torch.randn(1, 5, D)
    near = (
        (block(torch.tensor([0.50]), noise, memory) - block(torch.tensor([0.51]), noise, memory)).abs().max()
    )
    assert near > 1e-3


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: MixtureActionDecoder(num_experts=0, **DECODER), "'num_experts'"),
        (lambda: FlowActionDecoder(**DECODER, use_cond_semantic=True), "'cond_semantic_dim' is needed"),
        (
            lambda: FlowActionDecoder(**{**DECODER, "transformer_d_model": 18}),
            "multiple of 'transformer_nhead'",
        ),
        (
            lambda: FlowActionDecoder(**DECODER)(torch.rand(1), torch.zeros(1, 5, 3), torch.zeros(1, 2, D)),
            "chunks of 6 actions was given 5",
        ),
        (
            lambda: FlowActionDecoder(**DECODER)(
                torch.rand(1), torch.zeros(1, 6, 3), torch.zeros(1, 2, D), torch.zeros(1, D)
            ),
            "must be null",
        ),
        (lambda: InfoEmbedder(**{**SOURCES, "action_dim": 3}, **TRANSFORMER), "'action_dim' has no effect"),
        (lambda: NoisyTopKGate(input_dim=4, num_experts=2, temperature=1, top_k=3), "'top_k'"),
        (lambda: NoisyTopKGate(input_dim=4, num_experts=2, temperature=0.5, top_k=1), "'temperature'"),
    ],
)
def test_mistakes_are_said_in_words(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def gate(**changes):
    torch.manual_seed(0)
    block = NoisyTopKGate(**{"input_dim": 8, "num_experts": 4, "temperature": 5.0, "top_k": 3, **changes})
    return plain.randomize(block)


@torch.no_grad()
def test_gate_is_a_softmax_over_the_best_experts_that_sharpens():
    block = gate(anneal_iterations=100)
    z = torch.randn(6, 1, 8) * 3
    for iterations, tau in ((0, 5.0), (50, 5.0**0.5), (100, 1.0), (1000, 1.0)):
        logits = z[:, 0] @ block.gate.weight.T / tau
        kept = logits.masked_fill(logits < logits.topk(3).values[:, -1:], -torch.inf)
        got = block(z, iterations=iterations, training=False, use_noise=True)
        torch.testing.assert_close(got, kept.softmax(-1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(block(z[:, 0], 0, False, False), block(z, 0, False, False))


def test_gate_noise_needs_training_and_reaches_its_scale():
    block = gate()
    z = torch.randn(6, 8)
    still = block(z, 0, True, False)
    torch.testing.assert_close(block(z, 0, False, True), still)
    noisy = block(z, 0, True, True)
    assert not torch.allclose(noisy, still)
    torch.testing.assert_close(noisy.sum(1), torch.ones(6))
    (noisy[:, 0].pow(2).sum()).backward()
    assert block.noise_scale.weight.grad.abs().sum() > 0
