"""What a composition may say beyond branches for both sides: sides of the guidance, its scale, another fusion."""

from dataclasses import dataclass

import pytest

ADAPTERS = 3
EXECUTORS = ["swap", "rows"]


def far(one, other):
    return ((one - other).norm() / other.norm()).item()


@pytest.fixture
def sided(methods):
    """A composition of given branches, with a given fusion, that notes the guidance it was told."""
    from mixlora.mixlora_core.composition import Branch

    @dataclass(frozen=True)
    class Sided(methods.Merge):
        given: tuple = ()
        fusion: object = None
        told: list | None = None

        def branches(self, step, steps, guidance=1.0):
            if self.told is not None:
                self.told.append(guidance)
            return tuple(Branch(*one) for one in self.given)

    return Sided


@pytest.mark.parametrize("executor", EXECUTORS)
def test_each_side_has_its_own_branches(executor, three, compose, methods, models, sided, untouched):
    """One Euler step gives u + cfg * (c - u), and without guidance c alone: so both sides can be measured apart."""
    positive, negative, cfg = models.text(6), models.text(7), 3.0
    shown = [((1.0,) * 3, 1.0, None, "positive")]
    given = (*shown, ((0.25,) * 3, 1.0, None, "negative"), ((0.0,) * 3, 2.0, None, "negative"))
    both = models.sample(compose(three, sided(ADAPTERS, given), executor), positive, negative, steps=1, cfg=cfg)

    def alone(prompt, *branches):
        one = compose(three, sided(ADAPTERS, branches), executor)
        return models.sample(one, prompt, prompt, steps=1, cfg=1.0)

    c = alone(positive, ((1.0,) * 3,))
    u = alone(negative, ((0.25,) * 3, 1.0), ((0.0,) * 3, 2.0))
    assert far(both, u + cfg * (c - u)) < 1e-5
    assert far(both, c) > 1e-3


def test_the_guidance_is_told_and_its_side_is_not_run_without_it(three, compose, models, sided, sd15):
    told, seen = [], []
    given = ((1.0,) * 3, 1.0, None, "positive"), ((0.5,) * 3, 1.0, None, "negative")
    watched = models.watched(sd15, seen.append)
    composition = sided(ADAPTERS, given, told=told)
    models.sample(compose(three, composition, "swap", watched), steps=2, cfg=2.5)
    assert told == [2.5, 2.5] and len(seen) == 4
    models.sample(compose(three, composition, "swap", watched), steps=2, cfg=1.0)
    assert told[2:] == [1.0, 1.0] and len(seen) == 6


def test_a_side_without_a_branch_is_refused(three, compose, models, sided, untouched):
    from mixlora.mixlora_core.errors import CompositionError

    with pytest.raises(CompositionError, match="no branch for the negative prompt"):
        models.sample(compose(three, sided(ADAPTERS, (((1.0,) * 3, 1.0, None, "positive"),))))


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_fusion_sees_every_branch_and_remembers_within_a_run(executor, three, compose, methods, models, sided):
    calls = []

    def mean(predictions, branches, moment):
        moment.memory["calls"] = moment.memory.get("calls", 0) + 1
        calls.append((len(predictions), [branch.text for branch in branches], moment.memory["calls"]))
        assert moment.noisy.shape == predictions[0].shape
        return sum(predictions) / len(predictions)

    given = methods.Composite(ADAPTERS).branches(0, 1)
    given = tuple((one.coefficients, one.weight, one.text) for one in given)
    model = compose(three, sided(ADAPTERS, given, mean), executor)
    ours = [models.sample(model, steps=2) for _ in range(2)]
    assert models.same_bits(*ours)
    assert far(ours[0], models.sample(compose(three, methods.Composite(ADAPTERS), executor), steps=2)) < 1e-5
    assert calls == [(3, [0, 1, 2], turn) for _ in range(2) for turn in (1, 1, 2, 2)]
