"""What is found in a folder of pictures, and that everything wrong with it is said at once."""

import json
import shutil
from pathlib import Path

import pytest
from mixlora.training.dataset import find_pictures
from mixlora.training.settings import TrainingError, TrainSettings
from mixlora.training.sources import folder_repeats
from PIL import Image

SMALL = TrainSettings(resolution=128, trigger="monet style", caption_chunks=1)


def paint(path, width=160, height=144, colour=(40, 90, 200), caption: str | None = "a hill", **options):
    """A picture unlike those of other paths, and its caption."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGB", (width, height), colour)
    picture.putpixel((0, 0), tuple(str(path.name).encode()[:3]))
    picture.save(path, **options)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    for number in range(3):
        paint(tmp_path / f"{number}.png", 160 + 32 * number, colour=(40 * number, 90, 200), caption=f"hill {number}\n")
    return tmp_path


def words(text):
    return 1 + len(text.split()) // 20


def problems(folder, settings=SMALL):
    with pytest.raises(TrainingError) as raised:
        find_pictures(folder, settings, words)
    head, *lines = str(raised.value).splitlines()
    lines = [line for line in lines if not line.startswith("  WARNING: ")]
    assert head == f"{folder} cannot be trained on, {len(lines)} problem(s):"
    return [line.strip() for line in lines]


def test_pictures_and_captions_are_found_in_order(folder):
    paint(folder / "more" / "a.JPG", caption=None, format="JPEG")
    (folder / "more" / "a.caption").write_text("\ufeffa sea,\n Monet Style", encoding="utf-8")
    (folder / ".hidden.txt").write_text("")
    (folder / "notes.md").write_text("")
    found = find_pictures(folder, SMALL, words)
    assert [picture.path.name for picture in found.pictures] == ["0.png", "1.png", "2.png", "a.JPG"]
    assert found.pictures[0].captions == ("hill 0, monet style",)
    assert found.pictures[3].captions == ("a sea, Monet Style",)
    assert [path.name for path in found.passed_over] == ["notes.md"]
    text = str(found)
    assert text.startswith(f"4 pictures in {folder}") and "  0.png: hill 0, monet style" in text
    assert "sizes 128 x 128: 4; cut off at most 36% of a picture (2.png)" in text and "not used: 1 .md" in text


def test_all_problems_of_a_folder_are_reported_at_once(folder):
    bare = TrainSettings(resolution=128, caption_chunks=1)
    (folder / "0.txt").unlink()
    (folder / "1.txt").write_text("  \n")
    (folder / "2.caption").write_text("another")
    paint(folder / "small.png", 100, 90, caption="a small one " * 20)
    (folder / "torn.jpg").write_bytes((folder / "2.png").read_bytes()[:60])
    (folder / "torn.txt").write_bytes(b"\xff\xfe\xff")
    (folder / "lonely.txt").write_text("no picture")
    shutil.copy(folder / "2.png", folder / "copy.png")
    Image.open(folder / "2.png").save(folder / "same.bmp")
    paint(folder / "2.webp", caption=None)
    paint(folder / "film.tiff")
    for name in ("copy", "same"):
        (folder / f"{name}.txt").write_text("the same again")
    Image.new("I;16", (200, 200), 40000).save(folder / "deep.png")
    (folder / "deep.txt").write_text("sixteen bits")
    frames = [Image.new("RGB", (200, 200), colour) for colour in ("red", "blue")]
    frames[0].save(folder / "moving.webp", save_all=True, append_images=frames[1:])
    (folder / "moving.txt").write_text("two frames")
    found = problems(folder, bare)
    for part in (
        "0.png: no caption; write 0.txt or 0.caption",
        "1.png: caption 1.txt is empty",
        "2.png: both 2.caption and 2.txt; delete one",
        "2.webp: shares its name, and so its caption, with 2.png; rename one of them",
        "copy.png: the same file as 2.png; delete one (repeats show a picture more often)",
        "deep.png: 16 bits or more per pixel; save it with 8 bits per channel",
        "film.tiff: expected one of .png, .jpg, .jpeg, .webp, .bmp; convert it",
        "moving.webp: an animation of 2 frames; save one of them as a picture",
        "same.bmp: the same pixels as 2.png; delete one (repeats show a picture more often)",
        "small.png: 100 x 90 is smaller than 128 x 128, its size at resolution 128; leave it out, or lower the "
        "resolution to 64",
        "small.png: caption needs 4 chunks of CLIP's 75 tokens, more than caption_chunks allows (1); shorten it: "
        f"{'a small one ' * 19 + 'a small one'!r}",
    ):
        assert part in found, part
        found.remove(part)
    assert len(found) == 2 and "torn.jpg: not a readable picture" in found[1], found
    assert "torn.jpg: caption torn.txt cannot be read as UTF-8 text" in found[0]
    empty = folder / "empty"
    empty.mkdir()
    assert problems(empty) == [".: no pictures (.png, .jpg, .jpeg, .webp, .bmp)"]
    with pytest.raises(TrainingError, match="expected a folder"):
        find_pictures(folder / "0.png", SMALL, words)


def test_links_are_followed_and_nothing_is_passed_over_in_silence(folder, tmp_path_factory, monkeypatch):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    paint(elsewhere / "far.png")
    try:
        (folder / "link").symlink_to(elsewhere, target_is_directory=True)
    except OSError:
        pytest.skip("no symbolic links here")
    (elsewhere / "up").symlink_to(folder, target_is_directory=True)  # round and round
    assert [picture.path.name for picture in find_pictures(folder, SMALL, words).pictures][3:] == ["far.png"]
    (elsewhere / "gone.png").symlink_to(elsewhere / "nowhere.png")
    (elsewhere / "gone.txt").write_text("a hill")
    closed, iterdir = folder / "closed", Path.iterdir
    closed.mkdir()

    def refuse(path):
        if path == closed:
            raise PermissionError(13, "Permission denied")
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    found = problems(folder)
    assert found[0] == "closed: cannot be opened ([Errno 13] Permission denied)"
    assert found[1].startswith("link/gone.png: not a readable picture ([Errno 2]") and len(found) == 2


def write_rows(folder, *rows):
    text = "\n".join(row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
    (folder / "metadata.jsonl").write_text(text, encoding="utf-8")
    for path in folder.rglob("*.txt"):
        path.unlink()


def test_captions_from_metadata(folder):
    paint(folder / "more" / "a.png")
    write_rows(
        folder, {"file_name": "more/a.png", "text": "a \u2028 sea"}, "", {"file_name": "0.png", "caption": "hill 0"},
        {"file_name": "./1.png", "text": "hill 1", "source": "x"}, {"file_name": "2.png", "text": "h", "caption": "h"},
    )  # fmt: skip
    found = find_pictures(folder, SMALL, words)
    captions = {picture.path.relative_to(folder).as_posix(): picture.captions[0] for picture in found.pictures}
    assert captions == {
        "0.png": "hill 0, monet style", "1.png": "hill 1, monet style", "2.png": "h, monet style",
        "more/a.png": "a sea, monet style",
    }  # fmt: skip


def test_all_problems_of_metadata_are_reported_at_once(folder):
    paint(folder / "3.png")
    paint(folder / "4.png")
    write_rows(
        folder, '{"text":', [1], {"text": "nameless"}, {"file_name": "none.png", "text": "x"},
        {"file_name": "0.png", "text": "a"}, {"file_name": "0.png", "text": "b"}, {"file_name": "1.png", "text": " "},
        {"file_name": "2.png", "text": "a", "caption": "b"}, {"file_name": "3.png"},
    )  # fmt: skip
    paint(folder / "sub" / "5.png", caption=None)
    (folder / "sub" / "metadata.jsonl").write_text("")
    assert problems(folder) == [
        "4.png: no line in metadata.jsonl",
        "metadata.jsonl: line 1: not JSON (Expecting value: line 1 column 9 (char 8))",
        "metadata.jsonl: line 2: expected an object, found '[1]'",
        "metadata.jsonl: line 3: file_name: expected the picture's path, found None",
        "metadata.jsonl: line 4: file_name: no picture 'none.png' in the folder",
        "metadata.jsonl: line 6: 0.png is named in line 5 already",
        "metadata.jsonl: line 7: text (or caption): expected the caption of '1.png', found ' '",
        "metadata.jsonl: line 8: text and caption differ; keep one",
        "metadata.jsonl: line 9: text (or caption): expected the caption of '3.png', found None",
        "sub/5.png: no line in metadata.jsonl",
        "sub/metadata.jsonl: expected metadata.jsonl at the top of the data folder only",
    ]
    (folder / "metadata.jsonl").write_bytes(b"\xff\xfe{")
    assert "metadata.jsonl: cannot be read as UTF-8 text" in problems(folder)[0]


def test_both_kinds_of_captions_are_one_problem(folder):
    (folder / "metadata.jsonl").write_text('{"file_name": "0.png", "text": "a"}')
    found = "both captions in metadata.jsonl and 3 caption file(s), first 0.txt; keep one of the two"
    assert problems(folder) == [f"metadata.jsonl: {found}"]


def test_repeats_of_folders(folder):
    paint(folder / "3_monet" / "a.png")
    paint(folder / "2024_summer" / "b.png")
    found = find_pictures(folder, SMALL, words)
    assert [picture.repeats for picture in found.pictures] == [1, 1, 1, 1, 3]
    assert "an epoch shows (pictures x times): 4 x 1, 1 x 3" in str(found)
    doubled = TrainSettings(resolution=128, repeats=2)
    assert [picture.repeats for picture in find_pictures(folder, doubled, words).pictures] == [2, 2, 2, 2, 6]
    plain = TrainSettings(resolution=128, folder_repeats=False)
    assert {picture.repeats for picture in find_pictures(folder, plain, words).pictures} == {1}
    deep = folder / "10_a" / "2_b" / "c" / "d.png"
    assert folder_repeats(deep, folder) == 2 and folder_repeats(folder / "0_x" / "a.png", folder) == 1
    assert folder_repeats(folder / "10_a" / "x.png", folder / "10_a") == 1  # the data folder's own name says nothing


def test_sizes_captions_and_lengths_are_summed_up(folder):
    settings = TrainSettings(resolution=256, caption_shuffle=4, keep_tags=1)
    paint(folder / "wide.png", 640, 200, caption="one, two, three, four")
    paint(folder / "long.png", 500, 500, caption="word " * 30)
    for number in range(3):
        (folder / f"{number}.png").unlink()
        (folder / f"{number}.txt").unlink()
    found = find_pictures(folder, settings, words)
    assert [picture.bucket for picture in found.pictures] == [(256, 256), (384, 128)]
    captions = found.pictures[1].captions
    assert len(set(captions)) == 4 and captions[0] == "one, two, three, four"
    assert all(caption.startswith("one, ") for caption in captions)
    text = str(found)
    assert "encoded as ComfyUI does: 1 in 2 chunks" in text and "captions in up to 4 orders" in text
    assert "256 x 256: 1, 384 x 128: 1; cut off at most 6% of a picture (wide.png)" in text
    small = TrainSettings(resolution=256, buckets=False)
    assert problems(folder, small) == [
        "wide.png: 640 x 200 is smaller than 256 x 256, its size at resolution 256; leave it out, or lower the "
        "resolution to 192"
    ]


def test_a_trigger_with_a_comma_stands_once_in_every_order(folder):
    trigger = "oil painting, monet style"
    paint(folder / "0.png", caption=f"pond, {trigger}, bridge")
    paint(folder / "1.png", colour=(90, 40, 20), caption="pond, bridge, hill")
    found = find_pictures(folder, TrainSettings(resolution=128, caption_shuffle=6, trigger=trigger), words)
    orders = [caption for picture in found.pictures[:2] for caption in picture.captions]
    assert len(orders) == 12 and all(caption.count(trigger) == 1 for caption in orders)
    assert all(caption.count(tag) == 1 for caption in orders for tag in trigger.split(", "))
