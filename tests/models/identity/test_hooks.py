"""Hooks and replaced methods that can change a model's outputs are reported."""

from __future__ import annotations

import pytest
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_full_backward_pre_hook

from nse_plugin.models.identity import ModelIdentity


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
