"""Buckets, pixels and captions before they are encoded."""

import hashlib
import io
import struct
import threading

import pytest
import torch
from mixlora.training import buckets, pictures
from mixlora.training.captions import orders, with_trigger
from mixlora.training.pictures import PictureError, Room, load_pixels, look, look_at_all
from PIL import Image, ImageCms, ImageOps


def stored(picture, **options):
    file = io.BytesIO()
    picture.save(file, "PNG", **options)
    return file.getvalue()


@pytest.mark.parametrize("resolution", [64, 96, 128, 512, 1000, 1024])
def test_buckets_have_about_the_area_of_the_square(resolution):
    found = buckets.sizes(resolution)
    assert (resolution, resolution) in found and len(set(found)) == len(found)
    for width, height in found:
        assert width * height <= resolution**2
        assert (width, height) == (resolution, resolution) or (width % 64 == height % 64 == 0)
        assert (
            (height, width) in found and resolution / 2 <= min(width, height) and max(width, height) <= 2 * resolution
        )
    areas = [width * height / resolution**2 for width, height in found]
    assert sum(areas) / len(areas) > (0.85 if resolution >= 512 else 0.4)


def test_the_nearest_proportions_are_chosen():
    assert buckets.choose((1000, 1000), 512) == (512, 512)
    assert buckets.choose((1500, 1000), 512) == (640, 384) and buckets.choose((1000, 1500), 512) == (384, 640)
    assert buckets.choose((4000, 300), 512) == (1024, 256)
    assert buckets.choose((700, 200), 384) == (640, 192)  # 704 x 192 is nearer, but wider than the picture
    assert buckets.choose((1500, 1000), 512, buckets=False) == (512, 512)
    assert buckets.choose((160, 144), 128) == (128, 128) and buckets.choose((300, 140), 136) == (136, 136)
    assert buckets.cut_off((1500, 1000), (640, 384)) == pytest.approx(0.1)
    assert buckets.cut_off((1000, 1500), (384, 640)) == pytest.approx(0.1)


def test_the_resolution_that_fits_a_picture():
    assert buckets.covers((640, 384), (640, 384)) and not buckets.covers((640, 383), (640, 384))
    for size, fits in (((500, 500), 448), ((640, 400), 512), ((640, 380), 448), ((700, 200), 384), ((60, 900), 0)):
        assert buckets.largest_resolution(size) == fits
        assert not fits or buckets.covers(size, buckets.choose(size, fits))
        assert not any(buckets.covers(size, buckets.choose(size, fits + more)) for more in range(64, 1024, 64))
        assert buckets.largest_resolution(size, buckets=False) == min(size) // 64 * 64


def test_sdxl_is_told_where_the_picture_was_cut():
    # 1500 x 1000 is scaled by 0.4267 to 640 x 427; of these 427 rows 21 are cut off above
    assert buckets.conditions((1500, 1000), (640, 384)) == (1000, 1500, 21, 0, 384, 640)
    assert buckets.conditions((512, 512), (512, 512)) == (512, 512, 0, 0, 512, 512)


def test_pixels_are_cut_from_the_middle_and_transparency_is_white():
    picture = Image.new("RGBA", (300, 100), (255, 0, 0, 255))
    picture.paste((0, 0, 255, 255), (100, 0, 200, 100))
    picture.paste((0, 0, 0, 0), (100, 0, 200, 20))
    pixels = load_pixels(stored(picture), (64, 64))
    assert pixels.shape == (64, 64, 3)
    assert torch.allclose(pixels[40, 32], torch.tensor([0.0, 0.0, 1.0]), atol=0.02)
    assert torch.allclose(pixels[2, 32], torch.ones(3), atol=0.02)
    whole = load_pixels(stored(picture), (300, 100))
    assert whole.shape == (100, 300, 3)
    assert torch.equal(whole[50, 10], torch.tensor([1.0, 0.0, 0.0]))


def test_pixels_are_upright_and_mirrored_on_request():
    picture = Image.effect_noise((96, 64), 80).convert("RGB")
    exif = picture.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    turned = load_pixels(stored(picture, exif=exif), (64, 96))
    assert torch.equal(turned, load_pixels(stored(picture), (96, 64)).rot90(-1))
    mirrored = load_pixels(stored(picture), (64, 64), flip=True)
    assert torch.equal(mirrored, load_pixels(stored(picture), (64, 64)).flip(1))
    with pytest.raises(PictureError, match="not a readable picture"):
        load_pixels(b"no picture", (64, 64))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_turn_is_that_of_pillow_also_where_other_tags_are_damaged(tmp_path, orientation):
    picture = Image.effect_noise((96, 64), 80).convert("RGB")
    exif = picture.getexif()
    exif[0x0112] = orientation
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(stored(picture, exif=exif))))
    tags = struct.pack("<HHHLHH", 2, 0x0112, 3, 1, orientation, 0) + struct.pack("<HHL4sL", 0x011A, 2, 3, b"72", 0)
    damaged = b"Exif\0\0II*\0" + struct.pack("<L", 8) + tags  # XResolution, a fraction, as text
    (tmp_path / "a.png").write_bytes(stored(picture, exif=damaged))
    seen = look(tmp_path / "a.png")
    assert seen.size == upright.size
    assert seen.pixels == hashlib.sha256(f"{upright.size};".encode() + upright.tobytes()).hexdigest()


def test_whatever_pillow_stumbles_over_is_said_of_the_picture(tmp_path, monkeypatch):
    def stumble(*_):
        raise KeyError(282)

    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image.Image, "getexif", stumble)
    with pytest.raises(PictureError, match=r"not a readable picture \(282\)"):
        look(tmp_path / "a.png")


def blue_for_red():
    """A colour profile like sRGB's, whose red is blue and whose blue is red."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb.replace(b"rXYZ", b"####", 1).replace(b"bXYZ", b"rXYZ", 1).replace(b"####", b"bXYZ", 1)
    return swapped.replace("sRGB".encode("utf-16-be"), "xRGB".encode("utf-16-be"))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_are_those_that_the_profile_means(tmp_path, mode):
    picture = Image.new("RGB", (64, 64), "red").convert(mode)
    (tmp_path / "a.png").write_bytes(stored(picture, icc_profile=blue_for_red()))
    pixels = load_pixels((tmp_path / "a.png").read_bytes(), (64, 64))
    torch.testing.assert_close(pixels[0, 0], torch.tensor([0.0, 0.0, 1.0]), atol=0.02, rtol=0)
    assert not look(tmp_path / "a.png").odd_profile


@pytest.mark.parametrize("mode, profile", [("RGB", b"no profile"), ("CMYK", None)])
def test_a_profile_of_no_use_changes_nothing_and_is_noted(tmp_path, mode, profile):
    """Damaged, or of another kind of colours than the picture."""
    picture, path = Image.new("RGB", (64, 64), "red").convert(mode), tmp_path / "a.jpg"
    picture.save(path, icc_profile=profile or blue_for_red())
    picture.save(tmp_path / "plain.jpg")
    assert look(path).odd_profile and not look(tmp_path / "plain.jpg").odd_profile
    with_it, without = (load_pixels(file.read_bytes(), (64, 64)) for file in (path, tmp_path / "plain.jpg"))
    assert torch.equal(with_it, without)


def test_an_srgb_profile_leaves_every_bit(tmp_path):
    noise = Image.effect_noise((64, 64), 80).convert("RGB")
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert torch.equal(load_pixels(stored(noise, icc_profile=srgb), (64, 64)), load_pixels(stored(noise), (64, 64)))


def test_large_pictures_are_looked_at_one_by_one(tmp_path, monkeypatch):
    for number in range(2):
        Image.new("RGB", (64, 64 + number)).save(tmp_path / f"{number}.png")
    both = threading.Barrier(2)

    def meet(path):
        try:
            both.wait(0.3)
        except threading.BrokenBarrierError:
            return path.name
        raise PictureError("two at once")

    monkeypatch.setattr(pictures, "look", meet)
    monkeypatch.setattr(pictures, "PIXELS_AT_ONCE", 64 * 128)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert look_at_all(sorted(tmp_path.iterdir())) == ["0.png", "1.png"]
    room = Room(10)
    with room.taken(4), room.taken(6):
        pass
    with room.taken(11):  # more than there is, but alone
        pass


def test_trigger_is_added_once():
    assert with_trigger("a hill", "monet style") == "a hill, monet style"
    assert with_trigger("a Monet Style hill", "monet style") == "a Monet Style hill"
    assert with_trigger("a hill", "") == "a hill"


def test_trigger_counts_only_as_whole_words():
    assert with_trigger("a party at night", "art") == "a party at night, art"
    assert with_trigger("monet style2, a hill", "monet style") == "monet style2, a hill, monet style"
    for caption in ("art, a party", "a party, (Art)", "a party of art"):
        assert with_trigger(caption, "art") == caption
    assert with_trigger("a <art> hill", "<art>") == "a <art> hill"  # no pattern, and no word of its own at its ends
    assert with_trigger("a hill", "a.hill") == "a hill, a.hill"


def test_orders_of_tags():
    caption = "one, two,three, four"
    found = orders(caption, 6, keep=1)
    assert len(set(found)) == 6 == len(found) and found[0] == caption
    assert all(sorted(order.replace(" ", "").split(",")) == ["four", "one", "three", "two"] for order in found)
    assert all(order.startswith("one, ") for order in found) and "one, two, three, four" not in found
    assert orders(caption, 6, keep=1) == found and orders(caption, 4, keep=1) == found[:4]
    assert len(orders(caption, 100, keep=1)) == 6 and len(orders(caption, 8, keep=3)) == 1
    assert orders(caption, 1) == [caption] and orders("a hill with trees", 8) == ["a hill with trees"]
    assert set(orders("same, same, other", 8)) == {"same, same, other", "same, other, same", "other, same, same"}
    assert orders("a, b", 8, keep=5) == ["a, b"]


def test_a_trigger_with_a_comma_is_one_tag():
    caption, trigger = "pond, Oil Painting, monet style, bridge", "oil painting, monet style"
    found = orders(caption, 8, trigger=trigger)
    assert len(found) == 6 and all(with_trigger(order, trigger) == order for order in found)
    assert orders("monet, a, b, c", 6, 1, trigger="monet") == orders("monet, a, b, c", 6, 1)
    assert set(orders("a, the x, y hill", 8, trigger="x, y")) == {"a, the x, y hill", "the x, y hill, a"}
    parts = "coil painting, b"  # not the whole words: an ordinary tag
    assert orders(parts, 2, trigger="oil painting, b") == orders(parts, 2)
