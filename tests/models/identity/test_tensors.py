"""A tensor's fingerprint: equal for equal bits, for every kind of tensor."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nse_plugin.models.identity import ModelIdentity, fingerprint

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


BITS = {torch.float64: torch.int64, torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}


def matrix(rows=5, columns=7, dtype=torch.float32):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(3)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_copy_has_the_same_fingerprint_and_reading_changes_nothing(dtype):
    tensor = matrix(dtype=dtype)
    before = tensor.clone()
    assert fingerprint(tensor) == fingerprint(before)
    assert torch.equal(tensor, before)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(DTYPES), st.integers(0, 4), st.integers(0, 6), st.integers(0, 63))
def test_one_bit_makes_another(dtype, row, column, bit):
    tensor = matrix(dtype=dtype)
    changed = tensor.clone()
    integers = BITS[dtype]
    size = torch.iinfo(integers).bits
    flip = -(2 ** (size - 1)) if bit % size == size - 1 else 2 ** (bit % size)
    changed.view(integers)[row, column] ^= torch.tensor(flip, dtype=integers)
    assert fingerprint(changed) != fingerprint(tensor)


@pytest.mark.parametrize("change", [lambda t: t.flip(0), lambda t: t.T, lambda t: t.reshape(4, 9), lambda t: -t])
def test_order_shape_and_sign_count(change):
    tensor = matrix(6, 6)
    assert fingerprint(change(tensor)) != fingerprint(tensor)


def test_views_count_as_what_they_show():
    tensor = matrix(9, 4)
    assert fingerprint(tensor.T) == fingerprint(tensor.T.contiguous())
    assert fingerprint(tensor[::2]) == fingerprint(tensor[::2].clone())


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(1.0), torch.tensor([True, False, True]), torch.arange(7, dtype=torch.int8), torch.arange(5),
        torch.randn(3, dtype=torch.complex64), torch.randn(2, 3, 5), torch.zeros(0, 4), torch.zeros(4, 0),
        torch.randn(5).to(torch.float8_e4m3fn), nn.Parameter(torch.randn(3)),
    ],
    ids=lambda tensor: f"{tensor.dtype} {tuple(tensor.shape)}",
)  # fmt: skip
def test_tensors_of_any_shape_and_dtype_have_one(tensor):
    assert fingerprint(tensor) == fingerprint(tensor.detach().clone())
    if tensor.numel():
        changed = tensor.detach().clone()
        changed.view(-1)[-1:] = changed.view(-1)[-1:].to(torch.float32 if changed.itemsize == 1 else changed.dtype) == 0
        assert fingerprint(tensor) != fingerprint(changed)


class Halved(torch.Tensor):
    """A tensor subclass as quantisation libraries make them, of two plain tensors."""

    @staticmethod
    def __new__(cls, codes, scale):
        return torch.Tensor._make_wrapper_subclass(cls, codes.shape, dtype=scale.dtype)

    def __init__(self, codes, scale):
        self.codes, self.scale = codes, scale

    def __tensor_flatten__(self):
        return ["codes", "scale"], None

    @classmethod
    def __torch_dispatch__(cls, function, kinds, args=(), kwargs=None):
        if function is torch.ops.aten.detach.default:
            return cls(args[0].codes, args[0].scale)
        raise NotImplementedError(function)


@pytest.mark.parametrize("name", ["full", "quick"])
def test_tensor_subclasses_count_as_what_they_are_made_of(name):
    def of(codes, scale):
        module = nn.Module()
        module.register_buffer("buffer", Halved(codes, scale))
        return getattr(ModelIdentity(module), name)()

    codes, scale = torch.arange(6, dtype=torch.int8).reshape(2, 3), torch.tensor([0.5])
    assert of(codes, scale) == of(codes.clone(), scale.clone())
    assert len({of(codes, scale), of(codes + 1, scale), of(codes, scale + 1)}) == 3


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.filterwarnings("ignore:.*quantize")
@pytest.mark.parametrize(
    "kind",
    [
        lambda t: t.to(torch.complex64).mul(1j).conj(), lambda t: t.to_sparse(), lambda t: t.to_sparse_csr(),
        lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), lambda t: t.to(torch.uint8).view(torch.uint4),
    ],
    ids=["conjugated", "sparse", "compressed", "quantised", "four bits"],
)  # fmt: skip
def test_tensors_of_any_layout_are_in_a_models(kind):
    def of(numbers):
        module = nn.Module()
        module.register_buffer("buffer", kind(numbers))
        return ModelIdentity(module)

    numbers = torch.arange(12.0).reshape(3, 4)
    for name in ("full", "quick"):
        own, same, other = (getattr(of(given), name)() for given in (numbers, numbers.clone(), numbers + 1))
        assert own == same != other


def test_large_tensors_are_hashed_in_parts(monkeypatch):
    tensor = matrix(40, 30)
    whole = fingerprint(tensor)
    monkeypatch.setattr("nse_plugin.models.identity.tensors._CHUNK", 100)
    assert fingerprint(tensor) == whole
    tensor[39, 29] += 1
    assert fingerprint(tensor) != whole


def test_it_is_the_same_tomorrow():
    """Fingerprints are written into files: another number here makes everyone measure again."""
    found = fingerprint(torch.arange(12, dtype=torch.float32).reshape(3, 4))
    assert found == "8a58a92aff503f0f73479a7c71f66771a094988dbb96496d7ee89d78c6f8383a"
