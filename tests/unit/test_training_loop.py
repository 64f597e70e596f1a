"""The loop on a toy UNet: randomness without state, resuming, accumulation, clipping, stopping, saving."""

import itertools
import json
import os
import signal
import sys
from dataclasses import replace

import pytest
import torch
from mixlora.training.base import Base
from mixlora.training.checkpoint import Autosave, State
from mixlora.training.loop import train
from mixlora.training.objective import clip_norm_, learning_rate, offset_noise
from mixlora.training.optimizers import make_optimizer, optimizer_tensors
from mixlora.training.run import NonFiniteLossError
from mixlora.training.samples import Samples
from mixlora.training.settings import TrainingError, TrainSettings
from mixlora.training.stopping import Stop
from torch import nn

ALPHAS = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0).float()
SETTINGS = TrainSettings(steps=8, batch=2, accumulate=2, lr=1e-2, rank=2, caption_dropout=0.3)


class Toy(nn.Module):
    """A UNet in its call only: latents [n, 4, 2, 2], float timesteps, context [n, 3, 5]."""

    def __init__(self):
        super().__init__()
        self.attn1 = nn.ModuleDict({name: nn.Linear(16, 16) for name in ("to_q", "to_k")})
        self.attn2 = nn.ModuleDict({"to_v": nn.Linear(5, 16)})
        self.rows = []

    def forward(self, x, timesteps, context):
        assert len(x) == len(timesteps) == len(context)
        self.rows.append(len(x))
        hidden = self.attn1["to_q"](x.flatten(1)) + self.attn2["to_v"](context).mean(1)
        return self.attn1["to_k"](torch.tanh(hidden + timesteps[:, None].to(x.dtype) / 1000)).view_as(x)


def base(**options):
    torch.manual_seed(0)
    return Base(unet=Toy(), alphas_cumprod=ALPHAS, **options)


def seen(base):
    """How many rows its UNet got at a time."""
    return set(base.unet.rows)


def samples(count=5):
    source = torch.Generator().manual_seed(1)
    return Samples(
        latents=torch.randn(count, 4, 2, 2, generator=source),
        context=torch.randn(3, 3, 5, generator=source),
        caption_of=[i % 3 for i in range(count)],
        empty=torch.zeros(3, 5),
        names=[f"{i}.png" for i in range(count)],
    )


def test_learns_and_reports_every_step():
    reports = []
    settings = replace(SETTINGS, steps=150, rank=8, lr=3e-2, min_snr=0.0)
    trained = train(base(), samples(), settings, on_step=reports.append)
    assert trained.finished and trained.steps == 150
    assert [progress.step for progress in reports] == list(range(1, 151))
    assert [progress.loss for progress in reports] == trained.losses
    assert sum(trained.losses[-30:]) < 0.8 * sum(trained.losses[:30])


def test_same_seed_same_bits_other_seed_other_bits():
    first, second = (train(base(), samples(), SETTINGS) for _ in range(2))
    assert first.losses == second.losses and torch.equal(first.lora.flat, second.lora.flat)
    assert train(base(), samples(), replace(SETTINGS, seed=1)).losses != first.losses


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("after", [0, 1, 5])
def test_stop_and_resume_is_the_uninterrupted_run(tmp_path, after, ema):
    settings = replace(SETTINGS, ema=ema)
    whole = train(base(), samples(), settings)
    autosave = Autosave(tmp_path / "state", every_steps=0, every_minutes=0, resume=True)
    calls = 2 * after + 1  # in the middle of a step: half of its batches are done and must be done again
    answers = iter([False] * calls + [True])
    part = train(base(), samples(), settings, autosave=autosave, stop=lambda: next(answers))
    assert not part.finished and part.steps == after
    rest = train(base(), samples(), settings, autosave=autosave)
    assert rest.finished and rest.losses == whole.losses
    assert torch.equal(rest.lora.flat, whole.lora.flat)


@pytest.mark.parametrize("name", ["lion", "prodigy"])
def test_other_optimizers_learn_and_resume_to_the_bit(tmp_path, name):
    pytest.importorskip("pytorch_optimizer")
    lr = {"lion": 1e-2, "prodigy": None}[name]
    settings = replace(SETTINGS, steps=150, rank=8, min_snr=0.0, optimizer=name, lr=lr, schedule="constant")
    reports = []
    whole = train(base(), samples(), settings, on_step=reports.append)
    assert sum(whole.losses[-30:]) < 0.85 * sum(whole.losses[:30])
    rates = [report.lr for report in reports]
    if name == "lion":
        assert rates == [learning_rate(settings, step) for step in range(150)]
    else:
        assert rates[0] < 1e-6 and 1e-3 < max(rates) < 1
    autosave = Autosave(tmp_path / "state", every_steps=0, every_minutes=0, resume=True)
    asked = itertools.count()
    assert train(base(), samples(), settings, autosave=autosave, stop=lambda: next(asked) > 40).steps == 20
    rest = train(base(), samples(), settings, autosave=autosave)
    assert rest.losses == whole.losses and torch.equal(rest.lora.flat, whole.lora.flat)


def test_an_optimizer_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(TrainingError, match="pip install pytorch_optimizer, or use adamw"):
        train(base(), samples(), replace(SETTINGS, optimizer="lion"))


def test_lions_state_is_half_of_adamws():
    pytest.importorskip("pytorch_optimizer")

    def size(name):
        flat = torch.zeros(1000, requires_grad=True)
        flat.grad = torch.ones(1000)
        optimizer = make_optimizer(flat, replace(SETTINGS, optimizer=name))
        optimizer.step()
        return sum(tensor.numel() for tensor in optimizer_tensors(optimizer).values())

    assert 0.5 <= size("lion") / size("adamw") < 0.51


def test_noise_offset_moves_whole_channels():
    noise, offsets = torch.randn(2, 4, 3, 3), torch.randn(2, 4)
    moved = offset_noise(noise, offsets, 0.1) - noise
    torch.testing.assert_close(moved, 0.1 * offsets[:, :, None, None].expand_as(noise), rtol=1e-5, atol=1e-6)
    plain, offset = (train(base(), samples(), replace(SETTINGS, noise_offset=value)).losses for value in (0.0, 0.1))
    assert plain != offset == train(base(), samples(), replace(SETTINGS, noise_offset=0.1)).losses


def test_resume_refuses_other_settings_samples_and_bases(tmp_path):
    autosave = Autosave(tmp_path / "state", resume=True)
    train(base(), samples(), SETTINGS, autosave=autosave)
    with pytest.raises(TrainingError, match=r"(?s)lr: saved 0.01, now 0.02"):
        train(base(), samples(), replace(SETTINGS, lr=2e-2), autosave=autosave)
    with pytest.raises(TrainingError, match=r"samples \(.*\): saved"):
        train(base(), samples(4), SETTINGS, autosave=autosave)
    with pytest.raises(TrainingError, match=r"base \(.*\): saved"):
        train(replace(base(), sha256="0"), samples(), SETTINGS, autosave=autosave)
    (tmp_path / "state").write_bytes(b"half a fi")
    with pytest.raises(TrainingError, match="not a readable training state"):
        train(base(), samples(), SETTINGS, autosave=autosave)


def test_saves_every_n_steps_and_keeps_the_former_state_if_writing_fails(tmp_path, monkeypatch):
    autosave = Autosave(tmp_path / "state", every_steps=3, every_minutes=0)
    written = []
    monkeypatch.setattr(State, "save", lambda state, path: written.append(state.step))
    train(base(), samples(), SETTINGS, autosave=autosave)
    assert written == [3, 6, 8]
    monkeypatch.undo()

    train(base(), samples(), SETTINGS, autosave=autosave)
    former = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert former.keys() == {"state", "state.previous"}

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    said = []
    autosave = replace(autosave, say=said.append)
    answers = iter([False] * 13 + [True])
    with pytest.raises(OSError, match="No space"):  # the last save of a run that stops; it went on after the others
        train(base(), samples(), replace(SETTINGS, seed=1), autosave=autosave, stop=lambda: next(answers))
    assert [line.split(" (")[0] for line in said] == [f"WARNING: Step {step} could not be saved" for step in (3, 6)]
    assert train(base(), samples(), SETTINGS, autosave=autosave).finished  # has its result all the same
    assert "WARNING: Step 8" in said[-1]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == former


def test_accumulation_sees_the_samples_of_one_large_batch():
    one, split = base(), base()
    large = train(one, samples(), replace(SETTINGS, batch=4, accumulate=1))
    small = train(split, samples(), replace(SETTINGS, batch=1, accumulate=4))
    torch.testing.assert_close(large.losses, small.losses, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(large.lora.flat, small.lora.flat, rtol=1e-3, atol=1e-4)
    assert seen(one) == {4} and seen(split) == {1}


def test_a_broken_picture_stops_the_run_and_is_named(tmp_path):
    broken, autosave = base(), Autosave(tmp_path / "state", every_steps=0)
    target = samples().latents[3]

    def call(x, timesteps, context):
        hit = (x - target).flatten(1).abs().mean(1) < 0.5  # that picture with little noise on it
        return torch.where(hit.view(-1, 1, 1, 1), torch.nan, broken.unet(x, timesteps, context))

    with pytest.raises(NonFiniteLossError, match=r"with: 3\.png\. ") as raised:
        train(replace(broken, call=call), samples(), replace(SETTINGS, steps=500), autosave=autosave)
    state = State.load(tmp_path / "state", _recipe(tmp_path / "state"))
    assert f"loss of step {state.step + 1} " in str(raised.value)
    assert torch.isfinite(state.tensors["flat"]).all()


def _recipe(path):
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["recipe"])


def test_fp16_base_trains_the_same_direction():
    half = base()
    half.unet.half()
    full = train(base(), samples(), SETTINGS)
    trained = train(half, samples(), SETTINGS)
    assert trained.lora.flat.dtype == torch.float32
    torch.testing.assert_close(trained.losses, full.losses, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_base_learns_with_the_optimizer_of_a_gpu(monkeypatch, dtype):
    """There AdamW is fused; its one kernel also exists for the CPU."""
    settings = replace(SETTINGS, steps=150, rank=8, lr=3e-2, min_snr=0.0)

    def losses():
        half = base()
        half.unet.to(dtype)
        return train(half, samples(), settings).losses

    plain, adamw = losses(), torch.optim.AdamW
    monkeypatch.setattr(torch.optim, "AdamW", lambda flat, **options: adamw(flat, **{**options, "fused": True}))
    fused = losses()
    assert sum(fused[-30:]) < 0.8 * sum(fused[:30])
    assert fused == pytest.approx(plain, rel=0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_only_asks_to_stop(number):
    before = signal.getsignal(number)
    with Stop() as stop:
        assert not stop()
        signal.raise_signal(number)
        assert stop() and stop.received == number
        if number == signal.SIGINT:
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_clipping_clips():
    gradient = torch.full((100,), 10.0)
    clip_norm_(gradient, 100.0, 1.0)
    assert gradient.norm().item() == pytest.approx(1.0)
    clip_norm_(gradient, 1.0, 5.0)
    assert gradient.norm().item() == pytest.approx(1.0)
    clip_norm_(gradient, 1.0, 0.0)
    assert gradient.norm().item() == pytest.approx(1.0)
    reports = []
    train(base(), samples(), replace(SETTINGS, clip_norm=1e-3, steps=2), on_step=reports.append)
    assert reports[0].gradient_norm > 1e-3


def test_samples_must_fit_together():
    good = samples()
    with pytest.raises(TrainingError, match="caption_of: expected 5 rows, all below 3"):
        replace(good, caption_of=[0, 1, 2, 3, 0])
    with pytest.raises(TrainingError, match=r"latents: not finite for 2\.png"):
        latents = torch.stack(list(good.latents))
        latents[2, 0, 0, 0] = torch.inf
        replace(good, latents=latents)
    with pytest.raises(TrainingError, match="empty: expected"):
        replace(good, empty=torch.zeros(2, 5))
    with pytest.raises(TrainingError, match="empty caption's context"):
        train(base(), replace(good, empty=None), SETTINGS)
