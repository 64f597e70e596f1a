"""The real ComfyUI, tiny models and LoRA files. One model for the whole run: no test may leave a trace in it."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def _load(name: str, path: Path):
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


standalone = _load("standalone", ROOT / "standalone.py")
standalone.import_comfy(cpu=True)
standalone.import_pack()


@pytest.fixture(autouse=True)
def nothing_stays_loaded():
    """ComfyUI keeps the model of the last sampling loaded, with its patches in the weights; the next test must not."""
    yield
    import comfy.model_management

    comfy.model_management.unload_all_models()


@pytest.fixture(scope="session")
def models():
    """The module tests/comfy/models.py."""
    return _load("mixlora_test_models", ROOT / "tests" / "comfy" / "models.py")


@pytest.fixture(scope="session")
def sd15(models):
    return models.unet(models.SD15_UNET)


@pytest.fixture(scope="session")
def clip(models):
    return models.clip()


@pytest.fixture(scope="session")
def sdxl(models):
    import torch

    return models.unet(models.SDXL_UNET, dtype=torch.float16)


@pytest.fixture
def loras(tmp_path, models, monkeypatch):
    """A loras folder that ComfyUI knows. `save(name, family or tensors)` writes a file into it."""
    import folder_paths
    from safetensors.torch import save_file

    folder = tmp_path / "loras"
    folder.mkdir()
    entry = ([str(folder)], folder_paths.supported_pt_extensions)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", entry)
    folder_paths.filename_list_cache.pop("loras", None)

    def save(name, content="LoRA", metadata=None, **options):
        tensors = models.lora_tensors(content, **options) if isinstance(content, str) else content
        path = folder / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: value.clone().contiguous() for key, value in tensors.items()}, path, metadata=metadata)
        return f"{name}.safetensors"

    yield SimpleNamespace(folder=folder, save=save)
    folder_paths.filename_list_cache.pop("loras", None)


@pytest.fixture
def chained():
    """Core's own LoraLoader, one after the other: what the mode "sum" must equal."""
    nodes: Any = importlib.import_module("nodes")  # ComfyUI's, not this pack's

    def apply(model, clip, rows):
        for row in rows:
            model, clip = nodes.LoraLoader().load_lora(model, clip, *row)
        return model, clip

    return apply


@pytest.fixture
def mixed():
    """MixLoRAWeights on rows of (lora_name, strength_model, strength_clip). Returns (model, clip, report)."""
    from mixlora.nodes.mix_weights import MixLoRAWeights

    def apply(model, clip, rows, mode="sum", total=1.0, limit=0.0):
        out = MixLoRAWeights.execute(model, mode, total, limit, clip=clip, lora_stack=list(rows))
        return out.result

    return apply


@pytest.fixture
def three(loras):
    """Three LoRA files that touch the same weights, opened as a stack."""
    from mixlora.mixlora_core.stack import StyleStack

    rows = [(loras.save(f"s{seed}", "LoRA", seed=seed, size=0.1), 0.5 + 0.1 * seed, 1.0) for seed in range(3)]
    return StyleStack().plus(rows)


@pytest.fixture
def compose(sd15):
    from mixlora.mixlora_core.compose import composed

    def make(stack, composition, executor="automatic", model=None):
        return composed(model or sd15, stack, composition, executor)

    return make


@pytest.fixture
def methods():
    from mixlora.mixlora_core.composition import Composite, Merge, Switch

    return SimpleNamespace(Switch=Switch, Composite=Composite, Merge=Merge)


@pytest.fixture
def untouched(sd15, models):
    """Fails the test that leaves a weight, hook or wrapper behind in the model, or in the clone that it came from."""
    before = {key: (value, value.clone()) for key, value in sd15.model.named_parameters()}
    sibling = sd15.clone()
    yield sibling
    after = dict(sd15.model.named_parameters())
    for key, (parameter, bits) in before.items():
        assert after[key] is parameter, f"{key} is another parameter now"
        assert models.same_bits(after[key].data, bits.data), f"{key} has other bits"
    assert not any(module._forward_hooks for module in sd15.model.modules())
    for owner in (sd15, sibling):
        assert not owner.patches and not any(owner.wrappers.values()) and not owner.additional_models


@pytest.fixture(scope="session")
def checkpoint(sd15, tmp_path_factory):
    """A complete SD v1.5 checkpoint in half precision: two-level UNet, TAESD, CLIP-L without attention."""
    import comfy.sd1_clip
    import torch
    from comfy.taesd.taesd import TAESD
    from safetensors.torch import save_file

    torch.manual_seed(0)
    unet = sd15.model.diffusion_model.state_dict()
    text = comfy.sd1_clip.SD1ClipModel(device="meta", dtype=torch.float16).state_dict()
    tensors = {f"model.diffusion_model.{name}": value for name, value in unet.items()}
    for name, value in TAESD().state_dict().items():
        if value.dim():  # ComfyUI leaves convolutions uninitialised
            value = (
                torch.randn(value.shape) * value[0].numel() ** -0.5 if value.dim() == 4 else torch.zeros(value.shape)
            )
        tensors[f"first_stage_model.{name}"] = value
    for name, like in text.items():
        value = torch.zeros(like.shape)
        if "embedding" in name:
            value.normal_(std=0.1)
        elif "norm" in name and name.endswith("weight"):
            value += 1
        tensors["cond_stage_model." + name.removeprefix("clip_l.")] = value
    path = tmp_path_factory.mktemp("base") / "tiny.safetensors"
    save_file({name: value.half().contiguous() for name, value in tensors.items()}, path)
    yield path
    path.unlink()


@pytest.fixture
def command(checkpoint, tmp_path):
    """The arguments of a training run of a few seconds."""
    from PIL import Image

    data = tmp_path / "data"
    data.mkdir()
    for number in range(3):
        Image.effect_noise((80, 70 + number), 60).save(data / f"{number}.png")
        (data / f"{number}.txt").write_text(f"a hill ({number})")
    return [
        "--base", str(checkpoint), "--data", str(data), "--output", str(tmp_path / "out" / "monet.safetensors"),
        "--trigger", "monet style", "--steps", "16", "--batch", "1", "--accumulate", "1", "--lr", "1e-3",
        "--resolution", "64", "--dtype", "fp32", "--device", "cpu",
    ]  # fmt: skip
