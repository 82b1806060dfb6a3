"""The blocks whose checkpoints exist: keys, shapes and order of their parameters, and their numbers."""

import pytest
import torch
import torch.nn.functional as F
from helpers import plain_transformer as plain
from model_constructor.blocks.cfg_vqvae import (
    ActionDecoder,
    ConditioningInfoEncoder,
    VQVAEPosterior,
    VQVAEPrior,
)
from model_constructor.blocks.codebook import VQCodebookManager
from model_constructor.blocks.transformer import CausalTransformerEncoder

D, HEADS, LAYERS = 16, 4, 2
TRANSFORMER = {
    "transformer_d_model": D,
    "transformer_nhead": HEADS,
    "transformer_dim_feedforward": 24,
    "transformer_dropout": 0.2,
    "transformer_activation": "gelu",
    "transformer_batch_first": True,
    "transformer_num_layers": LAYERS,
}
CONDITIONS = {
    "cond_proprio_dim": 5,
    "cond_visual_dim": 6,
    "use_cond_semantic": True,
    "use_cond_semantic_projection": True,
    "cond_semantic_dim": 7,
    "num_cameras": 2,
    "use_cls_token": True,
    "num_cls_token": 3,
}
LAYER = [
    "self_attn.in_proj_weight",
    "self_attn.in_proj_bias",
    "self_attn.out_proj.weight",
    "self_attn.out_proj.bias",
]
CROSS = [name.replace("self_attn", "multihead_attn") for name in LAYER]
TAIL = ["linear1.weight", "linear1.bias", "linear2.weight", "linear2.bias"]


def norms(count):
    return [f"norm{n}.{part}" for n in range(1, count + 1) for part in ("weight", "bias")]


def posterior(**changes):
    return plain.randomize(VQVAEPosterior(**{**CONDITIONS, "action_dim": 4, **TRANSFORMER, **changes}))


def inputs(seed=1):
    g = torch.Generator().manual_seed(seed)
    return {
        "cond_proprio": torch.randn(3, 2, 5, generator=g),
        "cond_visual": torch.randn(3, 2, 6, 2, 4, generator=g),
        "cond_semantic": torch.randn(3, 7, generator=g),
        "action": torch.randn(3, 4, 4, generator=g),
    }


def plain_sequence(w, x, *, action, semantic="projected"):
    """`[cls] + PE([action][semantic][camera 0][camera 1][proprio])`, token by token."""

    def projected(name, value):
        return F.elu(w.linear(f"{name}.0", value))

    parts = []
    if action:
        parts.append(projected("action_projection", x["action"]))
    one = x["cond_semantic"][:, None] if x["cond_semantic"].ndim == 2 else x["cond_semantic"]
    parts.append(projected("semantic_projection", one) if semantic == "projected" else one)
    for camera in range(2):
        maps = x["cond_visual"][:, camera]
        tokens = [maps[:, :, row, column] for row in range(2) for column in range(4)]
        parts.append(projected(f"visual_projection.{camera}", torch.stack(tokens, 1)))
    parts.append(projected("proprio_projection", x["cond_proprio"]))
    tokens = torch.cat(parts, 1)
    tokens = tokens + plain.positions(tokens.shape[1], D)
    if "cls_token" in w:
        tokens = torch.cat([w["cls_token"].expand(len(tokens), -1, -1), tokens], 1)
    return tokens


@torch.no_grad()
def test_posterior_and_prior_follow_the_formula():
    x = inputs()
    model = posterior()
    w = plain.Weights(model.state_dict(), "encoder.")
    expected = plain.encoder(w.below("encoder.encoder"), plain_sequence(w, x, action=True), HEADS, LAYERS)[
        :, :3
    ]
    torch.testing.assert_close(model(**x), expected, atol=1e-5, rtol=1e-5)

    model = plain.randomize(VQVAEPrior(**CONDITIONS, **TRANSFORMER))
    w = plain.Weights(model.state_dict(), "encoder.")
    expected = plain.encoder(w.below("encoder.encoder"), plain_sequence(w, x, action=False), HEADS, LAYERS)[
        :, :3
    ]
    torch.testing.assert_close(model(**x), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model(**{**x, "action": None}), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_info_encoder_follows_the_formula():
    names = ("cond_proprio_dim", "cond_visual_dim", "use_cond_semantic", "num_cameras")
    model = ConditioningInfoEncoder(**{n: CONDITIONS[n] for n in names}, cond_semantic_dim=D, **TRANSFORMER)
    plain.randomize(model)
    x = {**inputs(), "cond_semantic": torch.randn(3, 2, D)}
    w = plain.Weights(model.state_dict(), "encoder.")
    tokens = plain_sequence(w, x, action=False, semantic="as it is")
    expected = plain.encoder(w.below("encoder.encoder"), tokens, HEADS, LAYERS)
    got = model(x["cond_proprio"], x["cond_visual"], x["cond_semantic"])
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_feature_maps_of_four_five_and_six_dimensions_are_the_same_tokens():
    x = inputs()
    model = posterior()
    five = model(**x)
    four = model(**{**x, "cond_visual": x["cond_visual"].flatten(3)})
    torch.testing.assert_close(four, five)
    # (B, cameras, T, C, H, W) with two rows of the map as two frames of one row
    frames = x["cond_visual"].permute(0, 1, 3, 2, 4)[:, :, :, :, None]
    torch.testing.assert_close(model(**{**x, "cond_visual": frames}), five)


def test_posterior_names_and_orders_its_parameters():
    names = ["cls_token"]
    for part in ("action_projection", "semantic_projection", "proprio_projection"):
        names += [f"{part}.0.weight", f"{part}.0.bias"]
    for camera in range(2):
        names += [f"visual_projection.{camera}.0.weight", f"visual_projection.{camera}.0.bias"]
    for n in range(LAYERS):
        names += [f"encoder.encoder.layers.{n}.{part}" for part in [*LAYER, *TAIL, *norms(2)]]
    model = posterior()
    assert [name for name, _ in model.named_parameters()] == [f"encoder.{name}" for name in names]
    assert list(model.state_dict()) == [f"encoder.{name}" for name in names]
    shapes = {name: tuple(p.shape) for name, p in model.encoder.named_parameters()}
    assert shapes["cls_token"] == (3, D)
    assert shapes["action_projection.0.weight"] == (D, 4)
    assert shapes["visual_projection.1.0.weight"] == (D, 6)
    assert shapes["encoder.encoder.layers.1.self_attn.in_proj_weight"] == (3 * D, D)


def decoder(**changes):
    arguments = {"action_dim": 4, "transformer_tgt_is_causal": True, "transformer_action_chunk_size": 6}
    return plain.randomize(ActionDecoder(**{**arguments, **TRANSFORMER, **changes}))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("semantic", ["none", "one", "many", "projected"])
@torch.no_grad()
def test_decoder_follows_the_formula(causal, semantic):
    size = {"none": None, "one": D, "many": D, "projected": 7}[semantic]
    model = decoder(
        transformer_tgt_is_causal=causal,
        use_cond_semantic=size is not None,
        cond_semantic_dim=size,
        use_cond_semantic_projection=semantic == "projected",
    )
    time, noise, memory = torch.rand(3), torch.randn(3, 6, 4), torch.randn(3, 5, D)
    given = None
    if size is not None:
        given = torch.randn(3, size) if semantic == "one" else torch.randn(3, 2, size)
    w = plain.Weights(model.state_dict())

    token = w.linear("time_mlp.2", F.silu(w.linear("time_mlp.0", plain.time_embedding(time, D))))
    parts = [token[:, None], memory + plain.positions(5, D)]
    if given is not None:
        rows = given if given.ndim == 3 else given[:, None]
        parts.insert(0, F.elu(w.linear("semantic_projection.0", rows)) if semantic == "projected" else rows)
    queries = F.elu(w.linear("noise_projection.0", noise))
    y = plain.decoder(w.below("decoder.decoder"), queries, torch.cat(parts, 1), HEADS, LAYERS, causal)
    expected = w.linear("output_layer.1", F.elu(y))

    torch.testing.assert_close(model(time, noise, memory, given), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model(time[:, None], noise, memory, given), expected, atol=1e-5, rtol=1e-5)


def test_decoder_names_its_state_and_loads_it_strictly():
    model = decoder()
    names = ["noise_projection.0.weight", "noise_projection.0.bias"]
    names += [f"time_mlp.{n}.{part}" for n in (0, 2) for part in ("weight", "bias")]
    names += ["decoder.tgt_causal_mask"]
    for n in range(LAYERS):
        names += [f"decoder.decoder.layers.{n}.{part}" for part in [*LAYER, *CROSS, *TAIL, *norms(3)]]
    names += ["output_layer.1.weight", "output_layer.1.bias"]
    assert list(model.state_dict()) == names
    mask = model.state_dict()["decoder.tgt_causal_mask"]
    torch.testing.assert_close(mask, torch.nn.Transformer.generate_square_subsequent_mask(6))
    other = decoder()
    other.load_state_dict(model.state_dict(), strict=True)


def test_causal_brick_keeps_its_mask_too():
    brick = CausalTransformerEncoder(
        d_model=D,
        nhead=HEADS,
        dim_feedforward=24,
        dropout=0.0,
        activation="gelu",
        is_causal=True,
        batch_first=True,
        num_layers=1,
        num_tokens=5,
    ).eval()
    assert brick.state_dict()["src_causal_mask"].shape == (5, 5)
    x = torch.randn(2, 5, D)
    changed = x.clone()
    changed[:, 3:] += 1
    torch.testing.assert_close(brick(x)[:, :3], brick(changed)[:, :3])
    assert not torch.allclose(brick(x)[:, 3:], brick(changed)[:, 3:])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: posterior(action_dim=None), "'action_dim' is needed"),
        (lambda: posterior(cond_semantic_dim=None), "'cond_semantic_dim' is needed"),
        (lambda: posterior(use_cond_semantic=False), "'cond_semantic_dim' has no effect"),
        (lambda: posterior(use_cls_token=False), "'use_cls_token' must be true"),
        (lambda: posterior(transformer_nhead=3), "must be a multiple of 'transformer_nhead'"),
        (lambda: posterior(transformer_batch_first=False), "'transformer_batch_first' must be true"),
        (lambda: posterior()(**{**inputs(), "action": None}), "'action' cannot be null"),
        (lambda: posterior()(**{**inputs(), "cond_visual": torch.zeros(3, 1, 6, 2, 4)}), "holds 1 cameras"),
        (lambda: posterior()(**{**inputs(), "cond_visual": torch.zeros(3, 6)}), "cond_visual must be"),
        (
            lambda: posterior(use_cond_semantic_projection=False)(**inputs()),
            "must be 'transformer_d_model' \\(16\\)",
        ),
        (lambda: decoder(use_cond_semantic=True), "'cond_semantic_dim' is needed"),
        (lambda: decoder(use_cond_semantic=True, cond_semantic_dim=7), "'use_cond_semantic_projection'"),
        (lambda: decoder()(torch.rand(1), torch.zeros(1, 5, 4), torch.zeros(1, 2, D)), "chunks of 6"),
        (lambda: VQCodebookManager(num_q_vectors=0, vec_dim=2), "needs rows"),
        (lambda: VQCodebookManager(num_q_vectors=2, vec_dim=2)(torch.zeros(2)), "continuous_vec must be"),
        (lambda: VQCodebookManager(num_q_vectors=2, vec_dim=2)(torch.zeros(2, 3)), "continuous_vec must be"),
    ],
)
def test_mistakes_are_said_in_words(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_typos_do_not_vanish():
    with pytest.raises(TypeError, match="num_cls_tokens"):
        posterior(num_cls_tokens=3)


def test_codebook_looks_up_the_nearest_row():
    torch.manual_seed(0)
    book = VQCodebookManager(num_q_vectors=5, vec_dim=3)
    assert list(book.state_dict()) == ["vq_codebook.weight"]
    assert book.vq_codebook.weight.abs().max() <= 1 / 5
    torch.nn.init.normal_(book.vq_codebook.weight)
    table = book.vq_codebook.weight.detach()
    z = torch.randn(4, 2, 3, requires_grad=True)

    out = book(z)

    rows = [
        min(range(5), key=lambda k: float((v - table[k]).pow(2).sum())) for v in z.detach().reshape(-1, 3)
    ]
    torch.testing.assert_close(out["q"].detach(), table[rows].reshape(4, 2, 3))
    distances = [float((table[i] - table[j]).norm()) for i in range(5) for j in range(i)]
    assert float(out["codebook_min_dist"]) == pytest.approx(min(distances), rel=1e-5)
    assert float(out["codebook_max_dist"]) == pytest.approx(max(distances), rel=1e-5)
    assert book.get_min_pairwise_dist() == pytest.approx(min(distances), rel=1e-5)
    assert not out["codebook_min_dist"].requires_grad
    assert out["dead_indices"] is None
    assert out["num_vecs_replaced"] == 0
    out["q"].sum().backward()
    torch.testing.assert_close(
        book.vq_codebook.weight.grad[:, 0], torch.bincount(torch.tensor(rows), minlength=5) * 1.0
    )
    assert z.grad is None
    assert float(book(z, train=False)["codebook_min_dist"]) == 0.0
    assert book(z.detach().bfloat16())["q"].dtype == torch.bfloat16


def test_codebook_reseeds_the_rows_that_nobody_uses():
    torch.manual_seed(0)
    book = VQCodebookManager(num_q_vectors=6, vec_dim=2)
    with torch.no_grad():
        book.vq_codebook.weight.copy_(torch.tensor([[0.0, 0], [1, 1], [9, 9], [8, 9], [9, 8], [7, 7]]))
    z = torch.rand(64, 2)
    out = book(z, train=True, replacement=True)
    assert out["dead_indices"].tolist() == [2, 3, 4, 5]
    assert out["num_vecs_replaced"] == 4
    table = book.vq_codebook.weight.detach()
    torch.testing.assert_close(table[:2], torch.tensor([[0.0, 0], [1, 1]]))
    assert (torch.cdist(table[2:], z).min(dim=1).values < 0.05).all()
    assert book.get_min_pairwise_dist() > 0
