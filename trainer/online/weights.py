"""Weights on their way from the learner to the robots: numpy arrays by component and name."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.checkpoint.folder import load_tensors
from trainer.utils.errors import UsageError
from trainer.utils.files import whole_file

Weights = Mapping[str, Mapping[str, np.ndarray]]

BFLOAT16 = np.dtype([("bfloat16", np.uint16)])
"""How an array says that its numbers are of bfloat16, which numpy does not know."""


def pack(weights: Mapping[str, Mapping[str, Any]], bf16: bool = False) -> dict[str, dict[str, np.ndarray]]:
    """Return weights as arrays; those on the CPU share their memory with the tensors.

    Args:
        weights: component → name → tensor or array.
        bf16: round float32 to bfloat16, which takes half as many bytes.

    Raises:
        UsageError: they are something else.
    """
    if not isinstance(weights, Mapping) or not all(isinstance(w, Mapping) for w in weights.values()):
        raise UsageError(
            f"weights are a mapping of components to mappings of names to arrays, not {_kind(weights)}; "
            "send {component: state_dict}, or a reference to one in a list"
        )
    return {
        component: {name: _packed(value, bf16, f"{component}.{name}") for name, value in state.items()}
        for component, state in weights.items()
    }


def unpack(weights: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Tensor]]:
    """Return what `pack` returned as tensors that share its memory, which must not be written to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return {
            component: {name: _unpacked(value) for name, value in state.items()}
            for component, state in weights.items()
        }


def architecture_of(weights: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a hash of the names, shapes and types of weights; all types of floats are one here.

    What has another hash does not fit a policy that has taken up these weights.
    """
    lines = sorted(
        f"{component}\n{name}\n{tuple(value.shape)}\n{_type(value)}\n"
        for component, state in weights.items()
        for name, value in state.items()
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a version of the policy with everything known about it, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    with whole_file(path) as temporary:
        torch.save({**state, "weights": unpack(state["weights"])}, temporary)


def read_state(path: Path) -> dict[str, Any]:
    """Return what `write_state` wrote.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    state = dict(load_tensors(path))
    return {**state, "weights": pack(state["weights"])}


def _packed(value: Any, bf16: bool, where: str) -> np.ndarray:
    if isinstance(value, np.ndarray) and value.dtype == BFLOAT16:
        return value
    if not isinstance(value, Tensor | np.ndarray):
        raise UsageError(f"the weights hold {_kind(value)} at {where}; send tensors or arrays")
    if isinstance(value, np.ndarray):
        if not bf16 or value.dtype != np.float32:
            return value
        value = _unpacked(value)
    tensor = value.detach().cpu()
    if bf16 and tensor.dtype == torch.float32:
        tensor = tensor.bfloat16()
    if tensor.dtype == torch.bfloat16:
        array: np.ndarray = tensor.contiguous().view(torch.int16).numpy()
        return array.view(BFLOAT16)
    plain: np.ndarray = tensor.numpy()
    return plain


def _unpacked(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if value.dtype == BFLOAT16:
        return torch.from_numpy(value["bfloat16"].view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(value)


def _type(value: Any) -> str:
    name = str(value.dtype).removeprefix("torch.")
    return "float" if value.dtype == BFLOAT16 or "float" in name else name


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"
