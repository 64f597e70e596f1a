"""What is no error in a folder of pictures, but may not be meant: it is said, and training goes on."""

import importlib.util
from pathlib import Path

import pytest
from mixlora.training.dataset import find_pictures
from mixlora.training.settings import TrainingError, TrainSettings

_spec = importlib.util.spec_from_file_location("dataset", Path(__file__).with_name("test_training_dataset.py"))
assert _spec and _spec.loader
dataset = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(dataset)
folder = dataset.folder


def test_trigger_words_stand_in_for_captions_that_are_not_there(folder):
    for number in (0, 2):
        (folder / f"{number}.txt").unlink()
    found = find_pictures(folder, dataset.SMALL, dataset.words)
    assert [picture.captions for picture in found.pictures] == [
        ("monet style",), ("hill 1, monet style",), ("monet style",),
    ]  # fmt: skip
    assert "WARNING: 2 without a caption, trained with the trigger words alone: 0.png, 2.png" in str(found)
    assert dataset.problems(folder, TrainSettings(resolution=128))[0] == "0.png: no caption; write 0.txt or 0.caption"
    (folder / "1.txt").write_text(" ")  # is there, so something was meant
    assert dataset.problems(folder) == ["1.png: caption 1.txt is empty"]


def test_texts_beside_no_picture_are_named_and_no_obstacle(folder):
    for name in ("license.txt", "more.caption"):
        (folder / name).write_text("CC BY 4.0")
    said = "WARNING: 2 caption files without a picture of their name, not used: license.txt, more.caption"
    found = find_pictures(folder, dataset.SMALL, dataset.words)
    assert len(found) == 3 and said in str(found)
    (folder / "0.txt").rename(folder / "O.txt")
    with pytest.raises(TrainingError, match=r"(?s)0\.png: no caption.*WARNING: 3 caption files .*: O\.txt, license"):
        find_pictures(folder, TrainSettings(resolution=128), dataset.words)
    dataset.write_rows(folder, *({"file_name": f"{number}.png", "text": "a hill"} for number in range(3)))
    (folder / "license.txt").write_text("CC BY 4.0")
    assert "not used: license.txt, more.caption" in str(find_pictures(folder, dataset.SMALL, dataset.words))


def test_colours_that_cannot_be_brought_to_srgb_are_said(folder):
    dataset.paint(folder / "odd.png", icc_profile=b"no profile")
    said = "WARNING: 1 with a colour profile that cannot be used, taken for sRGB: odd.png"
    assert said in str(find_pictures(folder, dataset.SMALL, dataset.words))
