"""Coefficients by gradient, on models of a few numbers whose best coefficients are known."""

import math

import pytest
import torch
from mixlora.training.base import Base
from mixlora.training.learning import LearnSettings, composite_target, learn
from mixlora.training.mixture import Mixture, Voice
from mixlora.training.samples import Samples
from mixlora.training.settings import TrainingError
from torch import nn

FIRST, LAST = "input_blocks.1.proj", "output_blocks.2.proj"


class Toy(nn.Module):
    """Two layers named as a UNet's: a 1 x 1 convolution and a linear layer, perhaps with a bend between them."""

    def __init__(self, bend: bool = False) -> None:
        super().__init__()
        self.input_blocks = nn.ModuleList([nn.Identity(), nn.ModuleDict({"proj": nn.Conv2d(3, 3, 3, padding=1)})])
        last = nn.ModuleDict({"proj": nn.Linear(3, 3)})
        self.output_blocks = nn.ModuleList([nn.Identity(), nn.Identity(), last])
        self.bend = bend

    def forward(self, x, timesteps, context):
        hidden = self.get_submodule(FIRST)(x) + context.mean() * timesteps.view(-1, 1, 1, 1) / 1000
        hidden = torch.tanh(hidden) if self.bend else hidden
        return self.get_submodule(LAST)(hidden.movedim(1, -1)).movedim(-1, 1)


def voice(seed, name="a", rank=2, layers=(FIRST, LAST)):
    generator = torch.Generator().manual_seed(seed)
    columns = {FIRST: 27, LAST: 3}
    return Voice(name, {
        layer: (torch.randn(3, rank, generator=generator) * 0.3,
                torch.randn(rank, columns[layer], generator=generator) * 0.3, 0.5)
        for layer in layers
    })  # fmt: skip


@pytest.fixture
def toy():
    torch.manual_seed(0)
    return Toy(bend=True).requires_grad_(False)


def base_of(unet, levels=(0.2, 0.5, 0.8)):
    return Base(unet=unet, alphas_cumprod=torch.tensor(levels))


def samples(count=3, scale=1.0):
    torch.manual_seed(1)
    return Samples(
        latents=scale * torch.randn(count, 3, 4, 4), context=torch.randn(count, 2, 5), empty=torch.zeros(2, 5)
    )


def mixed(unet, voices, coefficients, groups):
    """The same UNet with W + sum of c * dW written out."""
    torch.manual_seed(0)
    other = Toy(unet.bend)
    state = unet.state_dict()
    for index, one in enumerate(voices):
        for layer, (up, down, factor) in one.layers.items():
            group = groups.index({FIRST: "input.1", LAST: "output.2"}[layer])
            change = coefficients[index, group] * factor * (up @ down)
            state[f"{layer}.weight"] = state[f"{layer}.weight"] + change.view(state[f"{layer}.weight"].shape)
    other.load_state_dict(state)
    return other


def test_a_mixture_is_the_weights_written_out(toy):
    voices = [voice(1, "a"), voice(2, "b", rank=3, layers=(LAST,))]
    mixture = Mixture(toy, voices)
    assert mixture.groups == ("input.1", "output.2")
    assert mixture.touched.tolist() == [[True, True], [False, True]]
    coefficients = torch.tensor([[0.7, -0.2], [9.0, 1.5]])
    inputs = torch.randn(2, 3, 4, 4), torch.tensor([10.0, 500.0]), torch.randn(2, 2, 5)
    plain = toy(*inputs)
    with mixture.attached(toy):
        with mixture.speaking(coefficients):
            torch.testing.assert_close(toy(*inputs), mixed(toy, voices, coefficients, mixture.groups)(*inputs))
        with mixture.speaking(None):
            assert torch.equal(toy(*inputs), plain)
        assert not torch.equal(toy(*inputs), plain)
    assert torch.equal(toy(*inputs), plain)
    assert not any("forward" in vars(module) for module in toy.modules())


def test_gradients_are_finite_differences(toy):
    toy.double()
    mixture = Mixture(toy, [voice(1), voice(2)], "layer", start=0.5)
    inputs = torch.randn(2, 3, 4, 4).double(), torch.tensor([1.0, 900.0]), torch.randn(2, 2, 5).double()
    with mixture.attached(toy):
        toy(*inputs).square().sum().backward()
        found = mixture.coefficients.grad
        for place in torch.cartesian_prod(torch.arange(2), torch.arange(2)).tolist():
            sides = []
            for move in (2**-10, -(2**-10)):
                moved = mixture.coefficients.detach().clone()
                moved[tuple(place)] += move
                with torch.no_grad(), mixture.speaking(moved):
                    sides.append(toy(*inputs).square().sum().item())
            assert found is not None
            assert found[tuple(place)].item() == pytest.approx((sides[0] - sides[1]) / 2**-9, rel=1e-4)


def test_composites_target_is_the_sum_of_effects(toy):
    voices = [voice(1), voice(2), voice(3)]
    mixture = Mixture(toy, voices)
    inputs = torch.randn(2, 3, 4, 4), torch.tensor([10.0, 500.0]), torch.randn(2, 2, 5)
    of_base = toy(*inputs)
    expected = of_base.clone()
    for index in range(3):
        expected += mixed(toy, voices, mixture.alone(index), mixture.groups)(*inputs) - of_base
    with mixture.attached(toy):
        torch.testing.assert_close(composite_target(lambda: toy(*inputs), mixture, of_base), expected)


def test_learns_to_be_composite_where_one_pass_can():
    """Layers that act one by one: without a product of two changes the sum of effects is the merge at 1."""
    torch.manual_seed(0)
    unet = Toy()
    mixture = Mixture(unet, [voice(1, "a", layers=(LAST,)), voice(2, "b", layers=(LAST,))])
    found = learn(base_of(unet), mixture, samples(), LearnSettings(steps=150, pull=0.0, lr=0.05))
    assert found.before == pytest.approx((1 - 1 / math.sqrt(2)) ** 2, rel=1e-3)
    assert found.after < 1e-4 and len(found.losses) == 150
    torch.testing.assert_close(found.coefficients, torch.ones(2, 1), atol=0.02, rtol=0)


def test_learns_the_mix_of_pictures():
    """Black pictures: the noise is the noisy latent over sqrt(1 - a), so W + sum of c dW must be that multiple of 1."""
    torch.manual_seed(0)
    unet, level, best = Toy(), 0.36, torch.tensor([[1.3], [0.4]])
    voices = [voice(4, "a", layers=(LAST,)), voice(5, "b", layers=(LAST,))]
    first, last = unet.get_parameter(f"{FIRST}.weight"), unet.get_parameter(f"{LAST}.weight")
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.zero_()
        first[:, :, 1, 1] = torch.eye(3)
        change = sum(c * v.layers[LAST][2] * v.layers[LAST][0] @ v.layers[LAST][1]
                     for c, v in zip(best[:, 0], voices, strict=True))  # fmt: skip
        last.copy_(torch.eye(3) / math.sqrt(1 - level) - change)
    black = Samples(latents=torch.zeros(2, 3, 4, 4), context=torch.zeros(2, 2, 5), empty=torch.zeros(2, 5))
    settings = LearnSettings(objective="pictures", start="one", steps=300, pull=0.0, lr=0.05, batch=4)
    found = learn(base_of(unet, (level,)), Mixture(unet, voices), black, settings)
    torch.testing.assert_close(found.coefficients, best, atol=0.02, rtol=0)
    assert found.after < 1e-3 < found.before


def test_the_pull_holds_and_runs_repeat(toy):
    def run(pull, **options):
        mixture = Mixture(toy, [voice(1), voice(2)])
        return learn(base_of(toy), mixture, samples(), LearnSettings(steps=20, lr=0.05, pull=pull, **options))

    free, again, held = run(0.0), run(0.0), run(1000.0)
    assert torch.equal(free.coefficients, again.coefficients) and free.losses == again.losses
    assert not torch.equal(free.coefficients, run(0.0, seed=1).coefficients)
    start = 1 / math.sqrt(2)
    assert (held.coefficients - start).abs().max() < 0.1 < (free.coefficients - start).abs().max()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda toy: LearnSettings(objective="clip", start="zero"), "objective: .*\n.*start: expected one or root"),
        (lambda toy: LearnSettings(steps=0), "steps: expected 1 or more"),
        (lambda toy: LearnSettings(pull=-1.0), "pull: expected 0 or more"),
        (lambda toy: Mixture(toy, []), "no adapter to mix"),
        (
            lambda toy: Mixture(toy, [Voice("c", {"nowhere": voice(1).layers[LAST]})]),
            "c: the base has no layer nowhere",
        ),
        (
            lambda toy: Mixture(toy, [Voice("c", {FIRST: voice(1).layers[LAST]})]),
            "c: .* do not fit input_blocks.1.proj",
        ),
    ],
)
def test_what_cannot_be_learned_is_refused(toy, make, message):
    with pytest.raises(TrainingError, match=message):
        make(toy)


def test_a_loss_that_is_not_finite_ends_it(toy):
    wild = Voice("a", {LAST: (torch.full((3, 1), 1e30), torch.full((1, 3), 1e30), 1.0)})
    with pytest.raises(TrainingError, match="Step 1: loss or gradient is not finite"):
        learn(base_of(toy), Mixture(toy, [wild]), samples(), LearnSettings(steps=2))
