"""Malicious, damaged and unusual image files."""

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hostile import examples, mutated
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile

from cifar_flax.data.pictures import read_image

pytestmark = pytest.mark.medium

SHAPE = (8, 8, 3)
PIXELS = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
MODES = {
    "png": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "jpeg": ("L", "RGB", "CMYK"),
    "gif": ("L", "P", "RGB"),
    "bmp": ("1", "L", "P", "RGB"),
    "webp": ("RGB", "RGBA"),
    "tiff": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"),
    "ppm": ("1", "L", "RGB", "I;16"),
}


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """A function that reads a file with the given content, whose format need not match its name."""
    path = tmp_path_factory.mktemp("images") / "an image.png"

    def read(content, channels=3):
        path.write_bytes(content)
        return read_image(path, (8, 8, channels))

    return read


def image_of_mode(mode):
    image = Image.fromarray(PIXELS)
    if mode == "I;16":
        return Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257)
    if mode == "LAB":
        return Image.frombytes("LAB", (7, 9), PIXELS.tobytes())
    return image.convert("L").convert(mode) if mode in ("I", "F") else image.convert(mode)


def encoded(format, mode, **options):
    stored = io.BytesIO()
    image_of_mode(mode).save(stored, format, **options)
    return stored.getvalue()


VALID = [encoded(format, mode) for format, modes in MODES.items() for mode in modes]
VALID += [encoded("tiff", "RGB", compression=name) for name in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg")]
VALID += [encoded("tiff", "1", compression="group4"), encoded("jpeg", "RGB", progressive=True)]
VALID += [
    encoded(f, "RGB", save_all=True, append_images=[image_of_mode("RGB").rotate(90)] * 2)
    for f in ("gif", "webp", "png")
]
ROTATED = Image.Exif()
ROTATED[0x0112] = 6
VALID += [encoded(format, "RGB", exif=ROTATED) for format in ("png", "jpeg", "webp", "tiff")]


def check(image, channels=3):
    if image is not None:
        assert image.shape == (8, 8, channels)
        assert image.dtype == np.uint8


@given(mutated(VALID), st.sampled_from([1, 3]))
@examples(0.5)
def test_damaged_image_is_read_or_rejected(watch, read, capfd, content, channels):
    check(watch(read, content, channels), channels)
    assert capfd.readouterr().err == ""


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


SIDES = st.one_of(st.integers(0, 20), st.sampled_from([5_000, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**32 - 1]))
DEPTHS = st.sampled_from(
    [(1, 0), (8, 0), (16, 0), (8, 2), (16, 2), (8, 3), (2, 3), (8, 4), (8, 6), (16, 6), (16, 3), (0, 9)]
)
KINDS = st.sampled_from(
    [b"PLTE", b"tRNS", b"iCCP", b"zTXt", b"iTXt", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"IDAT", b"gAMA", b"oOPs"]
)
CONTENTS = st.binary(max_size=60) | st.sampled_from(
    [b"x\0\0" + zlib.compress(bytes(10**7)), zlib.compress(bytes(10**6))]
)


@given(SIDES, SIDES, DEPTHS, st.integers(0, 2), st.lists(st.tuples(KINDS, CONTENTS), max_size=3), st.integers(0, 2_000))
@examples(0.2)
def test_arbitrary_png_is_read_or_rejected(watch, read, width, height, depth, interlace, chunks, pixels):
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, *depth, 0, 0, interlace)), *chunks]
    parts += [(b"IDAT", zlib.compress(bytes(pixels))), (b"IEND", b"")]
    check(watch(read, b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)))


def tiff(entries, content):
    """A TIFF of tags (number, type, count, value) and the content that they point to."""
    tags = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + tags + bytes(4) + content


TAGS = st.sampled_from(
    [256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 338, 339, 347, 34665]
)
VALUES = st.one_of(st.integers(0, 9), SIDES, st.sampled_from([32773, 34712, 50000, 50001, 32946, 7, 5]))
VALID_TAGS = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 200, 277: 1, 278: 8, 279: 64}


@given(st.lists(st.tuples(TAGS, st.integers(0, 13), st.sampled_from([1, 1, 1, 0, 3, 2**31]), VALUES), max_size=4))
@examples(0.15)
def test_arbitrary_tiff_is_read_or_rejected(watch, read, capfd, entries):
    valid = {number: (number, 4, 1, value) for number, value in VALID_TAGS.items()}
    tags = valid | {entry[0]: entry for entry in entries}
    check(watch(read, tiff(tags.values(), bytes(400))))
    assert capfd.readouterr().err == ""


SIGNATURES = [
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    b"\xc5\xd0\xd3\xc6",
    b"%PDF-1.4\n",
    b"SIMPLE  =",
    b"\x89HDF\r\n\x1a\n",
]
SIGNATURES += [
    b"\xd7\xcd\xc6\x9a\0\0",
    b"GRIB",
    b"BUFR",
    b"\0\0\1\xb3",
    b"8BPS\0\1",
    b"\0\0\1\0\1\0",
    b"icns",
    b"DDS ",
    b"qoif",
    b"gimp",
]
SIGNATURES += [
    b"GIF89a",
    b"BM",
    b"RIFF\xff\xff\xff\xffWEBPVP8 ",
    b"RIFF\0\0\0\0WEBPVP8X",
    b"MM\0*",
    b"II+\0",
    b"\xff\xd8\xff\xe1",
]
SIGNATURES += [
    b"P1\n",
    b"P3 9 9 255\n",
    b"P4 2147483647 1\n",
    b"P5 9 9 65535\n",
    b"P6 99999 99999 255\n",
    b"Pf\n9 9\n-1e400\n",
    b"P7\n",
]


@given(st.sampled_from(SIGNATURES), st.binary(max_size=300))
@examples(0.15)
def test_arbitrary_content_after_a_known_signature_is_read_or_rejected(watch, read, signature, rest):
    check(watch(read, signature + rest))


@pytest.mark.parametrize("kind", ["EPS", "PDF", "ICO", "PCX", "SGI", "TGA", "JPEG2000"])
def test_unsupported_format_is_rejected_without_running_a_program(kind, watch, read):
    stored = io.BytesIO()
    Image.fromarray(PIXELS).save(stored, kind)
    assert watch(read, stored.getvalue()) is None
    assert "not a readable image" in watch.error


def test_largest_image_is_read_within_the_limits(watch, read):
    stored = io.BytesIO()
    Image.new("LA", (7_700, 7_700)).save(stored, "png")  # the mode that takes the most memory
    check(watch(read, stored.getvalue()))
    assert watch.error == ""


@pytest.mark.parametrize(
    "size", [(7_800, 7_800), (9_400, 9_400), (20_000, 20_000), (2**30, 1), (1, 2**30), (2**31 - 1,) * 2]
)
def test_decompression_bomb_is_rejected(size, watch, read):
    parts = [(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 6, 0, 0, 0)), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    assert watch(read, b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)) is None
    assert "DecompressionBomb" in watch.error or "pixels, more than" in watch.error


@pytest.mark.parametrize("kind", ["empty", "folder", "pipe", "device", "long"])
def test_path_without_image_data_is_rejected(kind, watch, tmp_path):
    path = {"device": "/dev/zero", "long": "x" * 5_000}.get(kind, "a name with spaces.png")
    if kind == "empty":
        (tmp_path / path).touch()
    elif kind == "folder":
        (tmp_path / path).mkdir()
    elif kind == "pipe":
        os.mkfifo(tmp_path / path)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert watch(lambda: read_image(type(tmp_path)(path), SHAPE)) is None


def test_16_bits_are_scaled_not_clipped(read):
    deep = PIXELS.astype(np.uint16) * 257
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
    color = b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*part)
        for part in (
            (b"IHDR", struct.pack(">IIBBBBB", 7, 9, 16, 2, 0, 0, 0)),
            (b"IDAT", zlib.compress(rows)),
            (b"IEND", b""),
        )
    )
    np.testing.assert_array_equal(read(color), read(encoded("png", "RGB")))
    np.testing.assert_array_equal(read(encoded("png", "I;16"), 1), read(encoded("tiff", "I;16"), 1))
    gray = io.BytesIO()
    Image.fromarray(PIXELS[..., 0]).save(gray, "png")
    np.testing.assert_array_equal(read(encoded("png", "I;16"), 1), read(gray.getvalue(), 1))


GRAY = PIXELS[..., 0]


def stored(pixels, format="tiff"):
    """The file of gray values of any type that Pillow can store."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format)
    return content.getvalue()


def white_is_zero(pixels):
    """An uncompressed TIFF of 16-bit values [9, 7] of which 0 is white."""
    tags = VALID_TAGS | {256: 7, 257: 9, 258: 16, 262: 0, 278: 9, 279: 126}
    entries = [(number, 4, 1, value) for number, value in tags.items()]
    return tiff(entries, bytes(200 - 8 - 2 - 12 * len(entries) - 4) + pixels.astype("<u2").tobytes())


@pytest.mark.parametrize(
    ("content", "tolerance"),
    [
        (stored(GRAY.astype(np.float32) / 255), 0),
        (stored(GRAY.astype(np.float32)), 0),
        (stored(GRAY.astype(np.int32)), 0),
        (stored(GRAY.astype(np.int32) * 257), 0),
        (stored(GRAY.astype(np.uint16)), 0),
        (stored(GRAY.astype(np.uint16), "png"), 0),
        (stored(GRAY.astype(np.uint16) * 257, "png"), 0),
        (stored((GRAY * 16.06).astype(np.uint16)), 1),  # 12 bits
        (white_is_zero(65_535 - GRAY.astype(np.uint16) * 257), 0),
        (b"P5 7 9 4095\n" + (GRAY * 16.06).astype(">u2").tobytes(), 1),
        (b"Pf\n7 9\n-1.0\n" + (GRAY[::-1] / 255).astype("<f4").tobytes(), 0),
    ],
)
def test_gray_values_of_all_types_are_scaled_not_clipped(content, tolerance, read):
    expected = read(stored(GRAY, "png")).astype(int)
    assert np.abs(read(content) - expected).max() <= tolerance


@pytest.mark.parametrize(
    "values",
    [(-0.5, 0.5), (0, np.nan), (0, np.inf), (0, 300.5), (0, 1.5), (-3, 200), (0, 70_000)],
    ids=str,
)
def test_values_of_ambiguous_brightness_are_rejected(values, watch, read):
    dtype = np.int32 if all(isinstance(value, int) for value in values) else np.float32
    assert watch(read, stored(np.resize(np.array(values, dtype), (9, 7)))) is None
    assert "not clear which is black and which is white; save it with 8 bits per color" in watch.error


@pytest.mark.parametrize("kind", ["gray", "color"])
def test_pictures_with_fewer_bits_stored_in_16_are_remarked_on(kind, read, capsys):
    if kind == "gray":
        content, words = stored(np.full((9, 7), 4_000, np.uint16)), "12 bits"
    else:
        header, values = struct.pack(">IIBBBBB", 7, 9, 16, 2, 0, 0, 0), b"\0" + 7 * 3 * b"\x0f\xff"
        parts = ((b"IHDR", header), (b"IDAT", zlib.compress(9 * values)), (b"IEND", b""))
        content, words = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts), "almost black"
    read(content)
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1
    read(encoded("png", "RGB"))
    assert capsys.readouterr().err == ""


def test_decoder_that_runs_out_of_memory_is_reported(watch, read, monkeypatch):
    def load(image):
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    assert watch(read, encoded("bmp", "RGB")) is None
    assert "not a readable image (MemoryError" in watch.error


def test_picture_is_read_while_stderr_is_closed(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    code = "from cifar_flax.data.pictures import read_image; print(read_image('a.png', (8, 8, 3)).shape)"
    command = ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-c", code]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    finished = subprocess.run(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    assert finished.stdout == "(8, 8, 3)\n"


@pytest.mark.parametrize("mode", ["L", "I;16"])
def test_all_depths_are_rotated_upright(mode, read):
    np.testing.assert_array_equal(
        read(encoded("png", mode, exif=ROTATED), 1)[..., 0], np.rot90(read(encoded("png", mode), 1)[..., 0], -1)
    )


def test_first_frame_of_an_animation_is_read(read):
    later_frames = [Image.new("RGB", (7, 9), "red")] * 3
    for format in ("gif", "webp", "png", "tiff"):
        options = {"lossless": True} if format == "webp" else {}
        animation = encoded(format, "RGB", save_all=True, append_images=later_frames, **options)
        np.testing.assert_array_equal(read(animation), read(encoded(format, "RGB", **options)))


def test_transparent_palette_is_composited_on_white(read):
    image = Image.new("P", (8, 8), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.paste(1, (0, 0, 8, 4))
    for format in ("png", "gif"):
        stored = io.BytesIO()
        image.save(stored, format, transparency=1)
        pixels = read(stored.getvalue())
        assert pixels[:4].min() == 255
        assert pixels[5, 5].tolist() == [10, 20, 30]


@pytest.mark.parametrize("channels", [0, 2, 4])
def test_unsupported_channels_are_reported(channels, watch, tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    assert watch(read_image, tmp_path / "a.png", (8, 8, channels)) is None
    assert f"{channels} channels" in watch.error
