"""The names under which the model language knows the blocks of the experiments."""

from __future__ import annotations

from torch import nn

from model_constructor.blocks.act import ACTStyleEncoder, ACTTransformer
from model_constructor.blocks.cfg_vqvae import (
    ActionDecoder,
    ConditioningInfoEncoder,
    VQVAEPosterior,
    VQVAEPrior,
)
from model_constructor.blocks.codebook import VQCodebookManager
from model_constructor.blocks.diffusion import ConditionalUNet1D, DiffusionTransformer
from model_constructor.blocks.flow_decoders import FlowActionDecoder, MixtureActionDecoder, NoisyTopKGate
from model_constructor.blocks.flow_policies import (
    InfoEmbedder,
    MultimodalBridge,
    MultiSourceInfoEmbedder,
    ProprioProjector,
    VariationalPosterior,
    VariationalPrior,
)
from model_constructor.blocks.mutual_information import (
    ActionChunkDecoder,
    ActionChunkEncoder,
    StateDecoder,
    StateEncoder,
)
from model_constructor.blocks.state import FlowVelocityMLP, PlanarKeypoints
from model_constructor.blocks.vision.depth import DepthAnything3Bridge
from model_constructor.blocks.vision.keypoints import (
    GroupNormResNet,
    OverFrames,
    RandomCrop,
    SpatialSoftmax,
)
from model_constructor.blocks.vision.libraries import HuggingFaceBackbone, TimmBackbone
from model_constructor.blocks.vision.radio import RadioV3
from model_constructor.blocks.vision.resnet import HandExtractor
from model_constructor.registry.registry import Registry

STATE_BLOCKS: dict[str, type[nn.Module]] = {
    "planar_keypoints": PlanarKeypoints,
    "flow_velocity_mlp": FlowVelocityMLP,
}

EXPERIMENT_BLOCKS: dict[str, type[nn.Module]] = {
    "cfg_vqvae_posterior": VQVAEPosterior,
    "cfg_vqvae_prior": VQVAEPrior,
    "cfg_vqvae_info_encoder": ConditioningInfoEncoder,
    "cfg_vqvae_proprio_projector": ProprioProjector,
    "cfg_vqvae_action_decoder": ActionDecoder,
    "cfg_vqvae_codebook": VQCodebookManager,
    "naive_proprio_projector": ProprioProjector,
    "naive_info_embedder": InfoEmbedder,
    "naive_action_decoder": FlowActionDecoder,
    "vfp_proprio_projector": ProprioProjector,
    "vfp_info_embedder": InfoEmbedder,
    "vfp_posterior": VariationalPosterior,
    "vfp_prior": VariationalPrior,
    "vfp_vqvae_codebook": VQCodebookManager,
    "vfp_gate": NoisyTopKGate,
    "vfp_moe": MixtureActionDecoder,
    "vfp_single_info_embedder": MultiSourceInfoEmbedder,
    "vfp_single_multimodal_bridge": MultimodalBridge,
    "vfp_single_posterior": VariationalPosterior,
    "vfp_single_prior": VariationalPrior,
    "vfp_single_action_decoder": FlowActionDecoder,
    "a_encoder": ActionChunkEncoder,
    "a_decoder": ActionChunkDecoder,
    "state_encoder": StateEncoder,
    "state_decoder": StateDecoder,
    "conditional_unet_1d": ConditionalUNet1D,
    "diffusion_transformer": DiffusionTransformer,
    "act_style_encoder": ACTStyleEncoder,
    "act_transformer": ACTTransformer,
}

VISION_BLOCKS: dict[str, type[nn.Module]] = {
    "radiov3": RadioV3,
    "da3": DepthAnything3Bridge,
    "hf_backbone": HuggingFaceBackbone,
    "timm_backbone": TimmBackbone,
    "naive_hand_extractor": HandExtractor,
    "vfp_hand_extractor": HandExtractor,
    "random_crop": RandomCrop,
    "group_norm_resnet": GroupNormResNet,
    "spatial_softmax": SpatialSoftmax,
    "over_frames": OverFrames,
}


def _register(registry: Registry, blocks: dict[str, type[nn.Module]], tag: str) -> None:
    for name, block in blocks.items():
        doc = (block.__doc__ or "").partition("\n\n")[0]
        registry.register_module(name, block, signature_policy="strict", tags=("blocks", tag), doc=doc)


def register_state_blocks(registry: Registry) -> None:
    """Register the blocks of policies that see numbers instead of images."""
    _register(registry, STATE_BLOCKS, "state")


def register_experiment_blocks(registry: Registry) -> None:
    """Register encoders, decoders, gates and codebooks of the experiments."""
    _register(registry, EXPERIMENT_BLOCKS, "experiment")


def register_vision_blocks(registry: Registry) -> None:
    """Register what turns images into features and tokens."""
    _register(registry, VISION_BLOCKS, "vision")
