"""Pictures: one ramp of 256 greys, saved in every mode that files have, is read as the same 256 greys."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import torch

from softbench import inputs
from softbench.inputs import pictures
from softbench.tasks.images.data import _decoded

Image = pytest.importorskip("PIL.Image")

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
GREY = Image.fromarray(RAMP)


def saved(image, form, **how):
    file = io.BytesIO()
    image.save(file, form, **how)
    return file.getvalue()


def full(highest, dtype):
    """The ramp with `highest` for white."""
    return (RAMP.astype(np.float64) * highest / 255).round().astype(dtype)


def tiff(pixels, bits, kind, photometric=1):
    """A file that Pillow reads and does not write."""
    data, count = pixels.tobytes(), 9
    tags = ((256, 16), (257, 16), (258, bits), (259, 1), (262, photometric), (273, 14 + 12 * count), (277, 1),
            (279, len(data)), (339, kind))
    body = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in tags)
    return struct.pack("<2sHIH", b"II", 42, 8, count) + body + struct.pack("<I", 0) + data


def png16(pixels):
    """A 16-bit colour PNG, which Pillow does not write either."""
    import zlib

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in np.repeat(pixels[..., None], 3, 2))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


SAME = {
    "L": saved(GREY, "PNG"), "RGB": saved(GREY.convert("RGB"), "BMP"), "LA": saved(GREY.convert("LA"), "PNG"),
    "P": saved(GREY.convert("P"), "PNG"), "PA": saved(GREY.convert("P"), "PNG", transparency=b"\0" * 9),
    "GIF": saved(GREY.convert("P"), "GIF", transparency=3), "tRNS": saved(GREY, "PNG", transparency=3),
    "CMYK": saved(GREY.convert("CMYK"), "TIFF"), "RGBA": saved(GREY.convert("RGBA"), "PNG"),
    "WebP": saved(GREY.convert("RGB"), "WEBP", lossless=True),
    "16-bit PNG": saved(Image.fromarray(full(65535, np.uint16)), "PNG"), "16-bit RGB": png16(full(65535, np.uint16)),
    "16-bit TIFF": saved(Image.fromarray(full(65535, np.uint16)), "TIFF"),
    "big-endian": saved(Image.fromarray(full(65535, ">u2")), "TIFF"),
    "16-bit PGM": saved(Image.fromarray(full(65535, np.uint16)), "PPM"),
    "10-bit PGM": b"P5 16 16 1023 " + full(1023, ">u2").tobytes(),
    "16 bits, signed": tiff(full(2**15 - 1, "<i2"), 16, 2), "white is 0": tiff(65535 - full(65535, "<u2"), 16, 1, 0),
    "32 bits, signed": tiff(full(2**31 - 1, "<i4"), 32, 2), "32 bits": tiff(full(2**32 - 1, "<u4"), 32, 1),
    "16 bits in 32": tiff(full(65535, "<u4"), 32, 1), "8 bits in 32": tiff(full(255, "<i4"), 32, 2),
    "float": tiff((RAMP / 255).astype("<f4"), 32, 3),
    "float to 255": tiff(full(255, "<f4"), 32, 3),
    "float, white is 0": tiff(255 - full(255, "<f4"), 32, 3, 0),
}


@pytest.mark.parametrize("kind", SAME)
def test_every_mode_is_read_by_its_whole_range_in_training_and_in_studies(kind, tmp_path):
    trained, label = _decoded(io.BytesIO(SAME[kind]), 3)
    assert (trained.mode, trained.size, label) == ("RGB", (16, 16), 3)
    pixels = np.asarray(trained).astype(int)
    assert np.array_equal(pixels, np.repeat(RAMP[..., None], 3, 2))
    (tmp_path / "x").write_bytes(SAME[kind])
    studied = inputs._photographs(str(tmp_path / "x"))[0]
    assert torch.equal(studied, torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1) / 255)


def test_black_and_white_and_numbers_just_outside_of_their_range():
    checks = Image.fromarray(np.where(RAMP % 2, 255, 0).astype(np.uint8)).convert("1")
    read = pictures.opened(io.BytesIO(saved(checks, "PNG")))
    assert np.array_equal(np.asarray(read)[..., 0], np.asarray(checks) * 255)
    resampled = Image.fromarray((RAMP / 255 * 1.2 - 0.1).astype(np.float32))  # as bicubic overshoots
    assert np.asarray(pictures.rgb(resampled)).min() == 0
    assert np.asarray(pictures.rgb(resampled)).max() == 255


@pytest.mark.parametrize("pixels", [
    RAMP.astype(np.float32) - 200, RAMP.astype(np.float32) * 300, np.full((4, 4), np.nan, np.float32),
    np.full((4, 4), np.inf, np.float32), RAMP.astype(np.int32) - 5])
def test_numbers_without_a_range_are_refused_and_not_made_white(pixels):
    with pytest.raises(ValueError, match=r"numbers are from .* should be from 0 to"):
        pictures.rgb(Image.fromarray(pixels))


def test_orientation_is_not_applied_and_transparency_shows_what_is_beneath():
    turned, exif = Image.new("RGB", (20, 10)), Image.Exif()
    exif[0x0112] = 6
    assert pictures.opened(io.BytesIO(saved(turned, "JPEG", exif=exif))).size == (20, 10)
    hidden = Image.new("RGBA", (2, 2), (10, 20, 30, 0))
    assert pictures.opened(io.BytesIO(saved(hidden, "PNG"))).getpixel((0, 0)) == (10, 20, 30)


def test_of_several_frames_the_first_counts():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for form in ("TIFF", "GIF", "WEBP"):
        file = saved(frames[0], form, save_all=True, append_images=frames[1:])
        assert pictures.opened(io.BytesIO(file)).getpixel((0, 0))[0] > 240


def test_what_is_a_picture():
    for name in ("a.jpg", "b/c.JPEG", "d.webp", "e.BMP", "f.tif", "g.tiff", "h.gif", "i.png", "j.ppm", "k.jp2"):
        assert pictures.left_out(name) == ""
    for name, why in (("notes.txt", ".txt"), ("a.HEIC", ".heic"), ("README", "without a suffix"), ("._a.jpg", "hidden"),
                      (".cache/a.jpg", "hidden"), ("a.eps", ".eps"), ("a.h5", ".h5"), ("a.jpg.part", ".part")):
        assert pictures.left_out(name) == why


def test_no_program_is_run_for_a_file():
    """Pillow gives PostScript to Ghostscript, whatever a file is called."""
    with pytest.raises(OSError, match="cannot identify"):
        pictures.opened(io.BytesIO(saved(GREY, "EPS")))
