"""NP-LoRA, the conflict report, and what merges are made of, on tiny factors against dense matrices."""

import math

import pytest
import torch
from mixlora.mixlora_core.errors import MergeError
from mixlora.mixlora_core.files.families import Anatomy
from mixlora.mixlora_core.merging import conflicts
from mixlora.mixlora_core.merging.layers import Part, meetings
from mixlora.mixlora_core.merging.null_space import NullSpaceSettings, kept_apart
from mixlora.mixlora_core.merging.ssr import SSRSettings
from mixlora.mixlora_core.merging.subspaces import nearest, overlap, singular, union

from .merging_factors import INTO, OUT, change, dense, rand


def projector(matrix):
    """Onto the row space, by a dense SVD."""
    _, s, vh = torch.linalg.svd(matrix)
    basis = vh[: int((s > 1e-9).sum())]
    return basis.T @ basis


@pytest.mark.parametrize("mu", [0.0, 0.5, 3.0, math.inf])
def test_null_space_is_the_papers_formula(mu):
    style, content = change(2, 0), change(3, 1)
    first, second = kept_apart([style, content], mu)
    assert first is not None and all(torch.equal(a, b) for a, b in zip(first, style, strict=True))
    share = 1.0 if math.isinf(mu) else mu / (1 + mu)
    expected = dense(content) @ (torch.eye(INTO, dtype=torch.float64) - share * projector(dense(style)))
    torch.testing.assert_close(dense(second), expected)
    assert second[1].shape == content[1].shape and torch.equal(second[0], content[0])
    if mu == 0:
        assert torch.equal(second[1], content[1])
    if math.isinf(mu):
        assert (dense(second) @ style[1].T).norm() <= 1e-10 * dense(content).norm()


def test_each_gives_way_to_all_before_it():
    changes = [change(2, 0), change(3, 1), change(4, 2)]
    kept = [dense(one) for one in kept_apart(changes, math.inf)]
    for later in (1, 2):
        for before in range(later):
            assert (kept[later] @ changes[before][1].T).norm() <= 1e-9
    torch.testing.assert_close(kept[1], dense(changes[1]) @ (torch.eye(INTO).double() - projector(dense(changes[0]))))


def test_only_inputs_that_a_style_reacts_to_are_its_own():
    (up, down), content = change(2, 0), change(3, 1)
    up = torch.stack([up[:, 0], torch.zeros(OUT).double()], 1)  # its second row of A goes nowhere
    _, kept = kept_apart([(up, down), content], math.inf)
    assert (dense(kept) @ down[0]).norm() <= 1e-10 and (dense(kept) @ down[1]).norm() > 0.1
    silent = (torch.zeros_like(up), down)
    assert torch.equal(kept_apart([silent, content], math.inf)[1][1], content[1])


def test_subspaces_are_those_of_dense_matrices():
    one, other = change(2, 0), change(3, 1)
    left, s, right = singular(one)
    torch.testing.assert_close(left * s @ right.T, dense(one))
    torch.testing.assert_close(s, torch.linalg.svdvals(dense(one))[:2])
    p, q = projector(dense(one)), projector(dense(other))
    right_other = singular(other)[2]
    assert overlap(right, right_other) == pytest.approx((p * q).sum().item() / 2)
    assert nearest(right, right_other) == pytest.approx(torch.linalg.svdvals(p @ q)[0].item())
    both = union([right, right_other, right])
    torch.testing.assert_close(both @ both.T, projector(torch.cat([dense(one), dense(other)])))


def layers(*changes):
    return {"a.layer": [Part(at, up, down, 1.0) for at, (up, down) in enumerate(changes)]}


def test_the_report_counts_what_dense_matrices_say():
    one, other = change(2, 0), change(3, 1)
    (found,) = conflicts.conflicts(layers(one, other))
    d, e = dense(one), dense(other)
    assert found.cosine == pytest.approx(((d * e).sum() / d.norm() / e.norm()).item())
    assert found.inputs == pytest.approx((projector(d) * projector(e)).sum().item() / 2)
    assert found.outputs == pytest.approx((projector(d.T) * projector(e.T)).sum().item() / 2)
    assert (found.inputs_by_chance, found.outputs_by_chance) == (pytest.approx(3 / INTO), pytest.approx(3 / OUT))
    assert found.loudness == pytest.approx((d.norm() * e.norm()).sqrt().item())


def test_chance_is_the_mean_of_random_subspaces():
    shares = [overlap(singular(change(2, 2 * n))[2], singular(change(3, 2 * n + 1))[2]) for n in range(200)]
    assert sum(shares) / 200 == pytest.approx(3 / INTO, rel=0.1)


@pytest.mark.parametrize(
    "other, cosine, says",
    [
        (lambda up, down: (2 * up, down), 1.0, "much the same"),
        (lambda up, down: (-up, down), -1.0, "opposite directions"),
        (lambda up, down: (rand(OUT, 2, seed=7), down), None, "react to the same inputs"),
        (lambda up, down: (up, torch.linalg.qr(down.T, mode="complete")[0][:, 2:4].T), 0.0, "hardly meet"),
    ],
)
def test_advice(other, cosine, says):
    up, down = torch.linalg.qr(rand(OUT, 2))[0], rand(2, INTO, seed=1)
    found = conflicts.conflicts(layers((up, down), other(up, down)))
    assert cosine is None or found[0].cosine == pytest.approx(cosine, abs=1e-12)
    text = conflicts.describe(found, ["monet", "ghibli"])
    assert says in text.splitlines()[-1] and "monet and ghibli: cosine" in text and "- a.layer: " in text


def test_the_worst_layers_come_first_and_silence_is_no_conflict():
    one = change(2, 0)
    silent = (torch.zeros_like(one[0]), one[1])
    loud = {"quiet": [Part(0, *one, 0.1), Part(1, *one, 0.1)], "loud": [Part(0, *one, 1.0), Part(1, *one, -1.0)]}
    found = conflicts.conflicts(loud | {"silent": [Part(0, *one, 1.0), Part(1, *silent, 1.0)]})
    assert [one.layer for one in found] == ["loud", "quiet"] and found[0].cosine == pytest.approx(-1)
    assert "nothing to compare" in conflicts.describe([], ["a", "b"])


def test_layers_in_which_adapters_meet():
    up, down = change(2, 0)
    pair, hada = Anatomy("LoRA", factors=(up, down, 0.5)), Anatomy("LoHa")
    anatomies = [{"x": pair, "y": pair, "z": pair}, {"x": pair, "y": hada}, {"x": pair, "z": pair}]
    coefficients = [{"x": 2.0, "y": 1.0, "z": 1.0}, {"x": -1.0, "y": 1.0}, {}]  # the third has strength 0
    met, left = meetings(anatomies, coefficients, ["a", "b", "c"])
    assert list(met) == ["x"] and [part.adapter for part in met["x"]] == [0, 1]
    torch.testing.assert_close(dense(met["x"][1].factors()), -0.5 * up @ down)
    assert [(one.layer, one.reason) for one in left] == [("y", "LoHa of b: no low-rank pair")]
    assert "- y: LoHa of b" in conflicts.describe([], ["a", "b", "c"], left)


def test_settings_that_are_no_good():
    for bad in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(MergeError, match="ridge"):
            SSRSettings(bad)
    with pytest.raises(MergeError, match="unseen"):
        SSRSettings(unseen="loud")
    for bad in (-0.1, math.nan):
        with pytest.raises(MergeError, match="mu"):
            NullSpaceSettings(bad)
    with pytest.raises(MergeError, match="each place"):
        NullSpaceSettings(order=(1, 2))
    with pytest.raises(MergeError, match="names 2 LoRAs, the stack has 3"):
        NullSpaceSettings(order=(1, 0)).ranks(3)
    assert NullSpaceSettings(order=(2, 0, 1)).ranks(3) == [1, 2, 0] and NullSpaceSettings().ranks(2) == [0, 1]


def test_policies_know_their_parameters_and_who_is_the_style():
    from pathlib import Path

    from mixlora.evaluation.jobs import EvaluationError
    from mixlora.evaluation.methods import method
    from mixlora.evaluation.policies.merging import element, priority

    assert method("ssr", {"ridge": 0.01}, 1.0).parameters["unseen"] == "silent"
    assert method("null_space", {"mu": 1}, 1.0).parameters == {"mu": 1.0, "first": "style"}
    for kind, bad in (("ssr", {"ridge": 0.0}), ("ssr", {"size": 100}), ("null_space", {"first": "content"})):
        with pytest.raises(EvaluationError, match=next(iter(bad))):
            method(kind, bad, 1.0)
    files = [Path(f"{name}.safetensors") for name in ("windmill", "snow", "monet", "balloon")]
    assert priority("style", files) == (2, 0, 1, 3)
    assert priority("style", files[:2]) == priority("stack", files[:2]) == (0, 1)
    assert priority("reverse", files) == (3, 2, 1, 0)
    public = element(Path("loras/anime/style_1.safetensors"))
    assert public is not None and public.category == "style" and element(Path("other.safetensors")) is None
