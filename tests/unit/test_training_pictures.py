"""Buckets, pixels and captions before they are encoded."""

import io

import pytest
import torch
from mixlora.training import buckets
from mixlora.training.captions import orders, with_trigger
from mixlora.training.pictures import PictureError, load_pixels
from PIL import Image


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
