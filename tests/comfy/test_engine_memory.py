"""Devices with little memory: what does not fit stays where it is, and the pictures are the same.

No GPU is needed: the device "meta" stands for one, on which every mixture of devices is an error.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ADAPTERS = 3
META = torch.device("meta")
PLENTY = 1e32


class OneDevice(TorchDispatchMode):
    """Fails where an operation gets tensors of several devices, as it would on a GPU; copies may."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor) and leaf.dim()]
        if func.overloadpacket not in (torch.ops.aten._to_copy, torch.ops.aten.copy_):
            assert len({tensor.device.type for tensor in tensors}) < 2, f"{func} got tensors of several devices"
        return func(*args, **(kwargs or {}))


@pytest.fixture
def bank(three, sd15):
    """The three adapters joined, with ComfyUI's handle on them for a device other than their own."""
    from mixlora.mixlora_core.compose import matched
    from mixlora.mixlora_core.execution.bank import BankPatcher
    from mixlora.mixlora_core.execution.rows import RowsBank

    adapters = [matched(sd15, entry.file) for entry in three.entries]
    return BankPatcher(RowsBank(adapters, torch.float32), META, torch.device("cpu"))


def devices(patcher):
    return {parameter.device.type for parameter in patcher.model.parameters()}


def test_a_bank_is_loaded_as_a_whole_or_not_at_all(bank):
    for too_little in (0, 1, bank.model_size()):
        assert bank.partially_load(META, too_little) == 0
        assert devices(bank) == {"cpu"} and bank.loaded_size() == 0
    assert bank.partially_load(META, PLENTY) == bank.model_size() == bank.loaded_size()
    assert devices(bank) == {"meta"}
    assert bank.partially_load(META, 1) == 0 and bank.partially_unload("cpu", 1) == 0
    assert devices(bank) == {"meta"}


@pytest.mark.parametrize("regions", [False, True])
def test_rows_fetch_what_is_not_on_the_device(regions, bank, models):
    from mixlora.mixlora_core.execution.executor import Speech
    from mixlora.mixlora_core.execution.rows import Rows
    from mixlora.mixlora_core.regions.masks import Regions

    unet = models.unet(models.SD15_UNET).model.to("meta")
    masks = Regions(tuple(torch.rand(1, 8, 8) for _ in range(ADAPTERS))) if regions else None
    speeches = [Speech((1.0, 0.5, 0.0), masks), Speech((0.0, 0.5, 1.0), masks)]
    x, t, text = torch.empty(4, 4, 8, 8, device="meta"), torch.empty(4, device="meta"), (4, 77, 768)
    options = {"optimized_attention_override": attention}
    with OneDevice(), Rows(bank.model).speaking(unet, speeches, x, options):
        made = unet.diffusion_model(x, t, torch.empty(text, device="meta"), transformer_options=options)
    assert made.shape == x.shape and devices(bank) == {"cpu"}


def attention(function, q, k, v, heads, *args, **kwargs):
    """ComfyUI's own ask how much memory the device has."""
    from comfy.ldm.modules.attention import attention_pytorch

    return attention_pytorch(q, k, v, heads)


def test_a_device_without_room_for_a_second_copy_of_the_weights(
    three, compose, methods, models, monkeypatch, caplog, untouched
):
    """The third change of the weights runs out of memory; rows go on from there."""
    import comfy.model_management as management
    from mixlora.mixlora_core.execution import swap

    expected = models.sample(compose(three, methods.Switch(ADAPTERS, 1), "swap"), steps=4)
    changes, write = [], swap.Swap._write

    def scarce(self, model, name, speaking):
        changes.append(name)
        if len(changes) == 5:  # of two weights: the first one of the third change
            raise management.OOM_EXCEPTION("no memory left")
        write(self, model, name, speaking)

    monkeypatch.setattr(swap.Swap, "_write", scarce)
    monkeypatch.setattr("mixlora.mixlora_core.execution.choice.changes", lambda composition: 0)
    ours = models.sample(compose(three, methods.Switch(ADAPTERS, 1)), steps=4)
    assert ((ours - expected).norm() / expected.norm()).item() < 1e-5
    assert len(changes) == 5 and "out of memory for a copy of the weights" in caplog.text
    with pytest.raises(management.OOM_EXCEPTION):  # who asked for it gets it or nothing
        changes.clear()
        models.sample(compose(three, methods.Switch(ADAPTERS, 1), "swap"), steps=4)


def test_a_model_that_was_loaded_in_parts_keeps_its_weights(three, compose, methods, models, monkeypatch, untouched):
    """Whether it is, is known when it has been loaded, which is after the node has run."""
    import comfy.model_management as management
    from comfy.patcher_extension import CallbacksMP
    from mixlora.mixlora_core.execution import swap

    expected = models.sample(compose(three, methods.Switch(ADAPTERS)))
    management.unload_all_models()
    model = compose(three, methods.Switch(ADAPTERS))
    model.add_callback(CallbacksMP.ON_LOAD, lambda patcher, *_: setattr(patcher.model, "model_lowvram", True))
    monkeypatch.setattr(swap.Swap, "_write", None)
    assert ((models.sample(model) - expected).norm() / expected.norm()).item() < 1e-5


def test_comfyui_makes_room_for_the_copy(three, compose, methods):
    """1,280 numbers of rank 4 a side would not tell it that two whole weights are copied."""
    ((rows,),) = compose(three, methods.Composite(ADAPTERS)).additional_models.values()
    ((swap,),) = compose(three, methods.Switch(ADAPTERS)).additional_models.values()
    files = [parameter.nbytes for parameter in swap.model.parameters()]
    assert swap.model_size() == sum(files) + 4 * (320 * 768 + 320 * 320) == swap.clone().model_size()
    assert rows.model_size() == sum(parameter.nbytes for parameter in rows.model.parameters())


def test_packed_weights_are_left_alone(three, compose, methods, models):
    """Layers of GGUF files hold bytes in a form of their own; only rows can stand beside them."""
    import comfy.utils
    from mixlora.mixlora_core.compose import matched
    from mixlora.mixlora_core.execution.rows import RowsBank

    model = models.unet(models.SD15_UNET)
    adapters = [matched(model, entry.file) for entry in three.entries]
    for name in {str(key) for adapter in adapters for key in adapter.model_patches}:
        packed = torch.zeros(comfy.utils.get_attr(model.model, name).numel() // 2, dtype=torch.uint8)
        comfy.utils.set_attr(model.model, name, torch.nn.Parameter(packed, requires_grad=False))
    ((bank,),) = compose(three, methods.Switch(ADAPTERS), model=model).additional_models.values()
    assert isinstance(bank.model, RowsBank)
