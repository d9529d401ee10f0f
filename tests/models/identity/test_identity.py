"""A model's identity: equal for equal models, different for anything that the outputs depend on."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import IA3Config, LoraConfig, get_peft_model
from tiny import tiny_model
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_full_backward_pre_hook

from nse_plugin.models.identity import ModelIdentity, fingerprint

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
BITS = {torch.float64: torch.int64, torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}


def matrix(rows=5, columns=7, dtype=torch.float32):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(3)).to(dtype)


# -- one tensor --------------------------------------------------------------------------------------------------


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


# -- a whole model -----------------------------------------------------------------------------------------------


def with_buffer(model):
    model.model.layers[0].mlp.register_buffer("correction", torch.zeros(3, dtype=torch.int64))
    model.model.layers[3].mlp.factors = [[1.0, 2.0], torch.zeros(2), lambda x: x]
    return model


def with_adapter(kind=LoraConfig, **options):
    options = {"r": 2, "target_modules": ["q_proj", "v_proj"]} if kind is LoraConfig else options
    wrapped = get_peft_model(tiny_model("llama"), kind(**options))
    wrapped.add_adapter("other", kind(**options))
    return wrapped


def change_config(model):
    model.config.rms_norm_eps = 0.1


def change_parameter(model):
    model.model.layers[3].self_attn.k_proj.weight.data[1, 1] += 1


def change_vector(model):
    model.model.norm.weight.data[5] += 1


def change_buffer(model):
    model.model.layers[0].mlp.correction[1] = 2


def change_rotary(model):
    model.model.rotary_emb.inv_freq *= 2


def change_class(model):
    class Other(type(model.model.layers[2].mlp)):
        pass

    model.model.layers[2].mlp.__class__ = Other


def change_setting(model):
    model.model.layers[3].self_attn.scaling *= 2


def change_tie(model):
    model.model.layers[3].mlp.up_proj.weight = model.model.layers[2].mlp.up_proj.weight


def change_list(model):
    model.model.layers[3].mlp.factors[0][1] = 3.0


def change_plain_tensor(model):
    model.model.layers[3].mlp.factors[1].add_(1)


def change_function(model):
    model.model.layers[3].mlp.factors[2] = lambda x: x + 1


CHANGES = [
    change_config, change_parameter, change_vector, change_buffer, change_rotary, change_class, change_setting,
    change_tie, change_list, change_plain_tensor, change_function,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_whatever_a_model_computes_with_is_in_it(change):
    model = with_buffer(tiny_model("llama"))
    identity, full, quick = ModelIdentity(model), ModelIdentity(model).full(), ModelIdentity(model).quick()
    assert (identity.full(), identity.quick()) == (full, quick)
    model(input_ids=torch.tensor([[1, 2, 3]]))  # running it changes nothing
    assert (identity.full(), identity.quick()) == (full, quick)
    assert ModelIdentity(copy.deepcopy(model)).full() == full
    change(model)
    assert identity.full() != full
    assert identity.quick() != quick


@pytest.mark.parametrize("adapter", [LoraConfig, IA3Config])
@pytest.mark.parametrize("whole", [True, False], ids=["wrapper", "base model"])
def test_adapters_that_are_switched_are_in_it(adapter, whole):
    options = {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}
    wrapped = with_adapter(adapter, **options)
    identity = ModelIdentity(wrapped if whole else wrapped.get_base_model())
    seen = {(identity.full(), identity.quick())}
    with wrapped.disable_adapter():
        seen.add((identity.full(), identity.quick()))
    wrapped.set_adapter("other")
    seen.add((identity.full(), identity.quick()))
    if adapter is LoraConfig:
        wrapped.set_adapter("default")
        for module in wrapped.modules():
            if hasattr(module, "set_scale"):
                module.set_scale("default", 3.0)
        seen.add((identity.full(), identity.quick()))
    assert len({full for full, _ in seen}) == len({quick for _, quick in seen}) == (4 if adapter is LoraConfig else 3)


def test_merging_an_adapter_is_seen():
    wrapped = with_adapter()
    identity, before = ModelIdentity(wrapped), ModelIdentity(wrapped).full()
    wrapped.merge_adapter()
    assert identity.full() != before


def test_autocast_is_in_it(llama):
    identity = ModelIdentity(llama)
    full, quick = identity.full(), identity.quick()
    with torch.autocast("cpu", torch.bfloat16):
        assert identity.full() != full
        assert identity.quick() != quick
    assert (identity.full(), identity.quick()) == (full, quick)


def test_where_it_came_from_and_what_it_returns_are_not(llama):
    full = ModelIdentity(llama).full()
    llama.config._name_or_path = "elsewhere"
    llama.config.output_hidden_states = llama.config.use_cache = True
    llama.train().requires_grad_(False)
    assert ModelIdentity(llama).full() == full


def test_a_model_may_be_taken_as_if_in_another_dtype():
    half = tiny_model("llama", torch.bfloat16)
    upcast = copy.deepcopy(half).to(torch.float32)
    assert ModelIdentity(upcast).full() != ModelIdentity(half).full()
    assert ModelIdentity(upcast).full(torch.bfloat16) == ModelIdentity(half).full(torch.bfloat16)
    upcast.model.layers[0].self_attn.q_proj.weight.data *= 2
    assert ModelIdentity(upcast).full(torch.bfloat16) != ModelIdentity(half).full(torch.bfloat16)


def test_a_model_loaded_in_inference_mode_has_one():
    with torch.inference_mode():
        model = tiny_model("llama")
    assert ModelIdentity(model).quick() == ModelIdentity(model).quick()
    assert ModelIdentity(model).full() == ModelIdentity(tiny_model("llama")).full()


# -- what cannot be seen -----------------------------------------------------------------------------------------


def hook_output(model):
    model.model.layers[1].register_forward_hook(lambda *_: None)


def hook_input(model):
    model.model.layers[1].mlp.register_forward_pre_hook(lambda *_: None)


def hook_gradient(model):
    model.model.layers[3].register_full_backward_hook(lambda *_: None)


def hook_by_accelerate(model):
    from accelerate.hooks import ModelHook, SequentialHook, add_hook_to_module

    class Doubled(ModelHook):
        def post_forward(self, module, output):
            return 2 * output

    add_hook_to_module(model.model.layers[1].mlp, SequentialHook(Doubled()))


def replace_helper(model):
    """A method that forward calls."""

    class Scaled(nn.Identity):
        def scaled(self, x):
            return x

        def forward(self, x):
            return self.scaled(x)

    model.model.layers[2].mlp.act_fn = Scaled()
    assert ModelIdentity(model).unseen is None
    model.model.layers[2].mlp.act_fn.scaled = lambda x: 2 * x


def replace_forward(model):
    layer = model.model.layers[2].mlp
    layer.forward = lambda x: 2 * type(layer).forward(layer, x)


UNSEEN = [hook_output, hook_input, hook_gradient, hook_by_accelerate, replace_forward, replace_helper]


@pytest.mark.parametrize("change", UNSEEN)
def test_hooks_and_replaced_forwards_are_named(llama, change):
    assert ModelIdentity(llama).unseen is None
    change(llama)
    assert "model.layers." in ModelIdentity(llama).unseen


@pytest.mark.parametrize("register", [register_module_forward_hook, register_module_full_backward_pre_hook])
def test_global_hooks_are_named(register, llama):
    handle = register(lambda *_: None)
    try:
        assert ModelIdentity(llama).unseen == "global module hooks"
    finally:
        handle.remove()


def test_transformers_and_accelerate_only_observe(llama):
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    def hook(*_):
        return None

    hook.__module__ = "transformers.utils.output_capturing"
    llama.model.layers[1].register_forward_hook(hook)
    add_hook_to_module(llama.model.layers[0], AlignDevicesHook(execution_device="cpu"))
    assert ModelIdentity(llama).unseen is None
    replace_forward(llama)
    add_hook_to_module(llama.model.layers[2].mlp, AlignDevicesHook(execution_device="cpu"))
    assert ModelIdentity(llama).unseen == "a replaced forward method of model.layers.2.mlp"


def scaled(forward, factor):
    """A forward as decorators leave it: with the name, and from the module, of the one it wraps."""

    @functools.wraps(forward)
    def wrapped(self, hidden):
        return factor * forward(self, hidden)

    return wrapped


@pytest.mark.parametrize("method", ["forward", "__call__"])
def test_methods_replaced_for_a_whole_class_are_in_it(llama, method, monkeypatch):
    kind = type(llama.model.layers[0].mlp)
    own, seen = getattr(kind, method), {ModelIdentity(llama).full()}
    for replaced in (lambda self, x: x, lambda self, x: x + 1, scaled(own, 2.0), scaled(own, 3.0)):
        monkeypatch.setattr(kind, method, replaced)
        seen.add(ModelIdentity(llama).full())
        assert ModelIdentity(llama).full() in seen
    assert len(seen) == 5


def test_it_is_the_same_for_a_model_that_was_saved(llama, tmp_path):
    llama.save_pretrained(tmp_path)
    loaded = type(llama).from_pretrained(tmp_path, dtype=torch.float64)
    loaded.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=2)
    assert ModelIdentity(loaded).full() == ModelIdentity(llama).full()


def test_the_random_state_is_untouched(llama):
    state = torch.get_rng_state()
    ModelIdentity(llama).full()
    ModelIdentity(llama).quick()
    assert torch.equal(torch.get_rng_state(), state)
