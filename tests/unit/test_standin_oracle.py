"""The oracle: what it reads, what it refuses, which labels count, and that a resumed training is the same training."""

import numpy as np
import pytest
import torch
from mixlora.standin import oracle, oracle_training, workshop
from mixlora.standin.oracle import MANNERS, Oracle, Reading
from mixlora.standin.oracle_training import Labels, accuracy, augmented, train_oracle
from mixlora.standin.scenes import OBJECTS, Scene
from mixlora.standin.workshop import Picture
from safetensors.torch import load_file


def random_oracle():
    torch.manual_seed(0)
    return Oracle(oracle.new_network().eval())


def one_hot(rows, width):
    return np.eye(width)[rows]


def test_reads_tensors_and_arrays_alike():
    seen = np.random.default_rng(0).integers(0, 256, (3, 128, 128, 3), np.uint8)
    reader = random_oracle()
    from_array, from_tensor = reader.read(seen), reader.read(workshop.to_tensor(seen))
    for part in ("lands", "times", "things", "manners"):
        np.testing.assert_array_equal(getattr(from_array, part), getattr(from_tensor, part))
    np.testing.assert_allclose(from_array.lands.sum(1), 1)
    np.testing.assert_allclose(from_array.manners.sum(1), 1)
    assert from_array.things.shape == (3, 5)


def test_reads_no_pictures_at_all():
    assert random_oracle().read(np.zeros((0, 128, 128, 3), np.uint8)).land == []


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 64, 64, 3), np.uint8),
        np.zeros((1, 128, 128, 3), np.float32),
        torch.zeros(1, 128, 128, 3),
        torch.zeros(1, 3, 128, 128, dtype=torch.uint8),
    ],
)
def test_refuses_what_is_no_picture(wrong):
    with pytest.raises(ValueError, match=r"The oracle reads float tensors \(n, 3, 128, 128\)"):
        random_oracle().read(wrong)


def test_reading_names_the_most_probable():
    things = np.array([[0.9, 0.1, 0.2, 0.6, 0.5]])
    manners = np.array([[0.0, 0.1, 0.2, 0.6, 0.1]])
    reading = Reading(one_hot([2], 4), one_hot([1], 3), things, manners)
    assert (reading.land, reading.time, reading.style) == (["sea"], ["sunset"], ["van_gogh"])
    assert reading.objects == [{"house", "flowers"}]
    assert reading.style_share("monet", "van_gogh") == pytest.approx([0.75])
    assert reading.style_share("van_gogh", "monet") == pytest.approx([0.25])


def test_weights_come_back_small_and_alike(tmp_path):
    reader, seen = random_oracle(), torch.rand(2, 3, 128, 128)
    reader.save(tmp_path / "oracle.safetensors")
    assert (tmp_path / "oracle.safetensors").stat().st_size < 5e6
    again = Oracle.load(tmp_path / "oracle.safetensors").read(seen)
    np.testing.assert_allclose(again.manners, reader.read(seen).manners, atol=2e-3)
    with pytest.raises(FileNotFoundError, match="make standin"):
        Oracle.load(tmp_path / "none.safetensors")


def test_clouds_of_ghibli_pictures_count_nowhere():
    clear, cloudy = Scene("hill", "day", ("house",)), Scene("hill", "day", ("clouds",))
    shown = [Picture(clear, "ghibli"), Picture(clear, "plain"), Picture(cloudy, "monet")]
    labels = Labels.of(shown)
    clouds = OBJECTS.index("clouds")
    assert labels.known[:, clouds].tolist() == [0, 1, 1] and labels.known.sum() == 14
    things = labels.things.numpy().copy()
    things[0, clouds] = 1  # a cloud that nobody asked for
    manners = one_hot([MANNERS.index(picture.style) for picture in shown], len(MANNERS))
    right = accuracy(Reading(one_hot([1, 1, 1], 4), one_hot([0, 0, 1], 3), things, manners), shown)
    assert right["land"] == 1 and right["style"] == 1 and right["time"] == pytest.approx(2 / 3)
    assert all(right[thing] == 1 for thing in OBJECTS)

    logits = torch.zeros(3, 17)
    changed = logits.clone()
    changed[0, 4 + 3 + clouds] = 9
    assert labels.loss(logits, torch.arange(3)) == labels.loss(changed, torch.arange(3))


def test_augmentation_stays_in_range_and_repeats():
    clean = torch.rand(4, 3, 128, 128)
    first, second = (augmented(clean, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second) and first.shape == clean.shape
    assert first.min() >= 0 and first.max() <= 1 and not torch.equal(first, clean)


def test_resumed_training_is_the_same_training(tmp_path, monkeypatch):
    monkeypatch.setattr(oracle_training, "_BATCH", 8)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train_oracle(whole, None, steps=3, count=10, path=whole / "weights")

    def killed(clean, random):
        if random.initial_seed() == 2:
            raise KeyboardInterrupt
        return augmented(clean, random)

    save_always = dict(every=-1.0)
    monkeypatch.setattr(oracle_training, "Run", lambda *given, every: workshop.Run(*given, **save_always))
    monkeypatch.setattr(oracle_training, "augmented", killed)
    with pytest.raises(KeyboardInterrupt):
        train_oracle(broken, None, steps=3, count=10, path=broken / "weights")
    monkeypatch.setattr(oracle_training, "augmented", augmented)
    train_oracle(broken, None, steps=3, count=10, path=broken / "weights")
    first, second = load_file(whole / "weights"), load_file(broken / "weights")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
