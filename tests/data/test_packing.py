from __future__ import annotations

import pickle

import torch

from trainer.data.packing import PackedBatch


def batch():
    return {
        "flags": torch.tensor([[True, False, True]]),
        "text": ["a", "b"],
        "action": torch.randn(3, 2, 5),
        "half": torch.randn(7).half(),
        "image": torch.randint(0, 255, (2, 3, 5, 5), dtype=torch.uint8),
        "strided": torch.arange(12.0).reshape(3, 4).T,
        "number": torch.tensor(2.5, dtype=torch.float64),
        "empty": torch.zeros(0, 3),
        "nested": {"x": torch.ones(2)},
    }


def test_a_batch_comes_back_as_it_was():
    given = batch()
    for packed in (PackedBatch(given), pickle.loads(pickle.dumps(PackedBatch(given)))):
        found = packed.unpack(torch.device("cpu"))
        assert list(found) == list(given)
        for key, value in given.items():
            if isinstance(value, torch.Tensor):
                assert found[key].dtype == value.dtype
                assert found[key].is_contiguous()
                assert torch.equal(found[key], value)
    assert found["text"] == ["a", "b"]
    assert torch.equal(found["nested"]["x"], torch.ones(2))


def test_writing_to_one_tensor_leaves_the_others():
    given = batch()
    found = PackedBatch(given).unpack(torch.device("cpu"))
    found["action"].fill_(-1)
    for key in ("flags", "half", "image", "strided", "number"):
        assert torch.equal(found[key], given[key])


def test_a_batch_without_tensors():
    assert PackedBatch({"text": ["a"]}).unpack(torch.device("cpu")) == {"text": ["a"]}
