"""An image in memory is the same image as in a file, in every form that libraries hand over."""

import io
import mmap
import os
import re
import struct
import tempfile
import weakref
import zipfile
import zlib
from collections import deque

import numpy as np
import pytest
import torch
from PIL import Image

from fastad.data import ImageError
from fastad.data.inputs import image_batches, image_dataset, to_tensor
from fastad.data.training_set import read_training_set

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (3, 9, 7, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (3, 9, 7), dtype=np.uint16)
SIZE = (9, 7)


def forms_of(images):
    """One image (H, W) or (H, W, C) alone, in a list, among several, and as part of a stack."""
    stack = np.stack([images, images])
    yield images, 1
    yield [images], 1
    yield [images, images], 2
    yield (stack if stack.ndim == 4 else stack[..., None]), 2


def together(images, size=SIZE, batch_size=2, **options):
    return torch.cat([batch for _, batch, _ in image_batches(images, size, batch_size, **options)])


def as_file(array, path, mode=None):
    Image.fromarray(array, mode).save(path) if mode else Image.fromarray(array).save(path)
    return to_tensor(path)


def check(array, expected):
    for form, count in forms_of(array):
        wanted = expected.expand(count, -1, -1, -1)
        assert torch.equal(together(form), wanted)
        assert torch.equal(image_dataset(form, SIZE)[:], wanted)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_bytes_of_any_number_of_channels(tmp_path, channels):
    array = RNG.integers(0, 256, (9, 7, channels), dtype=np.uint8)
    expected = as_file(array[..., 0] if channels == 1 else array, tmp_path / "a.png")
    check(array, expected)
    if channels == 1:
        check(array[..., 0], expected)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    assert torch.equal(together(tensor[None]), expected[None])
    assert torch.equal(together([tensor]), expected[None])


def test_black_and_white(tmp_path):
    array = RNG.random((9, 7)) > 0.5
    expected = as_file(array, tmp_path / "a.png")
    assert set(expected.unique().tolist()) == {0, 255}
    check(array, expected)
    colour = RNG.random((9, 7, 3)) > 0.5
    check(colour, torch.from_numpy(colour).permute(2, 0, 1) * 255)
    assert torch.equal(together(torch.from_numpy(array)[None]), expected[None])


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_sixteen_bits_of_grey(tmp_path, order):
    expected = as_file(DEEP[0], tmp_path / "a.png")
    check(DEEP[0].astype(order), expected)
    tensor = torch.from_numpy(DEEP[0])[None]
    assert torch.equal(together(tensor), expected[None])
    assert torch.equal(together([tensor]), expected[None])


def test_sixteen_bits_of_colour(tmp_path):
    """Pillow writes none: a PNG by hand."""
    values = RNG.integers(0, 65536, (9, 7, 3), dtype=np.uint16)
    path = tmp_path / "deep.png"
    path.write_bytes(png_of_16_bits(values))
    check(values, to_tensor(path))
    check(values.astype(">u2"), to_tensor(path))


def png_of_16_bits(values):
    def chunk(name, data):
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", ">f8", "longdouble"])
@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 1), (9, 7, 3), (9, 7, 4)])
def test_floats_from_0_to_1(tmp_path, dtype, shape):
    array = RNG.integers(0, 256, shape, dtype=np.uint8)
    expected = as_file(array[..., 0] if shape[2:] == (1,) else array, tmp_path / "a.png")
    check((array / 255).astype(dtype), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensors_of_floats(dtype):
    expected = torch.from_numpy(PIXELS).permute(0, 3, 1, 2) / 255
    tensor = expected.to(dtype).requires_grad_()
    found = together(tensor)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert torch.equal(found, tensor.detach().float())
    assert not image_dataset(tensor, SIZE).requires_grad
    grey = tensor[:, :1]
    assert torch.equal(together(grey), grey.detach().float().expand(-1, 3, -1, -1))


@pytest.mark.parametrize(
    "arranged",
    [
        lambda a: a.copy(),
        np.asfortranarray,
        lambda a: np.repeat(a, 2, axis=1)[:, ::2],
        lambda a: np.ascontiguousarray(a[::-1])[::-1],
        lambda a: np.ascontiguousarray(a[..., ::-1])[..., ::-1],
        lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
        lambda a: np.ascontiguousarray(a.transpose(2, 0, 1)).transpose(1, 2, 0),
    ],
    ids=["plain", "fortran", "strided", "upside down", "bgr", "read-only", "channels first"],
)
def test_the_arrangement_in_memory_does_not_matter(arranged, tmp_path):
    expected = torch.from_numpy(PIXELS[0]).permute(2, 0, 1)
    check(arranged(PIXELS[0]), expected)
    check(arranged((PIXELS[0] / 255).astype(np.float32)), expected)
    deep = PIXELS[0].astype(np.uint16) * 257
    check(arranged(deep), expected)
    file = np.memmap(tmp_path / "a", np.uint8, "w+", shape=PIXELS[0].shape)
    file[:] = PIXELS[0]
    check(file, expected)
    tensor = torch.from_numpy(PIXELS).permute(0, 3, 1, 2)  # channels last
    for form in (tensor, tensor.contiguous(), tensor.flip(3).flip(3), tensor.mT.contiguous().mT):
        assert torch.equal(together(form), tensor)


@pytest.mark.parametrize(
    ("images", "error", "match"),
    [
        (np.zeros((3, 9, 7), np.uint8), ValueError, r"transpose\(1, 2, 0\)"),
        (np.zeros((4, 9, 7), np.float32), ValueError, r"transpose\(1, 2, 0\)"),
        (np.zeros((2, 3, 9, 7), np.uint8), ValueError, r"transpose\(0, 2, 3, 1\)"),
        (np.zeros((5, 9, 7), np.uint8), ValueError, r"fourth axis, use images\[..., None\]"),
        (torch.zeros(9, 7, 3), ValueError, r"permute\(2, 0, 1\)"),
        (torch.zeros(2, 9, 7, 3), ValueError, r"permute\(0, 3, 1, 2\)"),
        (torch.zeros(5, 9, 7), ValueError, r"images\[:, None\] for many grey"),
        (torch.zeros(4, 9, 7), ValueError, r"images\[:, None\] for many grey.*with alpha"),
        (np.zeros((9, 7, 3), np.int64), ValueError, r"int64 \(9, 7, 3\): use .*astype\(np.uint8\)"),
        (np.zeros((9, 7, 3), np.uint32), ValueError, r"got uint32 .*np.uint16 for 16 bits"),
        (np.zeros((9, 7, 3), complex), ValueError, r"got complex128 \(9, 7, 3\)$"),
        (np.zeros((9, 7), "M8[s]"), ValueError, r"got datetime64\[s\] \(9, 7\)$"),
        (
            PIXELS.astype(float),
            ValueError,
            r"float64 from 0 to 255: divide them by 255$",
        ),
        (np.full((9, 7), -0.1), ValueError, r"floats in \[0, 1\].*from -0.1 to -0.1$"),
        (np.full((9, 7), np.nan), ValueError, r"floats in \[0, 1\].*from nan to nan"),
        (np.zeros((0, 7, 3)), ValueError, "no pixels in shape"),
        (torch.zeros(3, 9, 7, dtype=torch.int64), TypeError, "got torch.int64"),
    ],
)
def test_what_cannot_be_taken_is_said_with_what_would_be(images, error, match):
    for use in (together, lambda x: image_dataset(x, SIZE)):
        with pytest.raises(error, match=match):
            use(images)


def test_a_stack_is_converted_part_by_part():
    stack = np.zeros((4, 9, 7, 3))
    stack[3] = 2
    batches = image_batches(stack, SIZE, 2)
    assert len(next(batches)[1]) == 2
    with pytest.raises(ValueError, match="from 0 to 2"):
        next(batches)


# Files in memory, open files, members of archives.


@pytest.fixture
def png(tmp_path):
    Image.fromarray(PIXELS[0]).save(tmp_path / "a.png")
    return tmp_path / "a.png"


EXPECTED = torch.from_numpy(PIXELS[0]).permute(2, 0, 1)


@pytest.mark.parametrize(
    "open_",
    [
        lambda path: path.read_bytes(),
        lambda path: bytearray(path.read_bytes()),
        lambda path: memoryview(path.read_bytes()),
        lambda path: mapped(path),
        lambda path: io.BytesIO(path.read_bytes()),
        lambda path: path.open("rb"),
        lambda path: path.open("rb", buffering=0),
        lambda path: OnlyReads(path.read_bytes()),
        lambda path: member(packed(path)),
        lambda path: zipfile.Path(packed(path), "inner/a.png"),
        lambda path: spooled(path.read_bytes()),
        lambda path: os.fdopen(os.open(path, os.O_RDONLY), "rb"),
    ],
)
def test_bytes_and_files(png, open_):
    assert torch.equal(together(open_(png)), EXPECTED[None])
    assert torch.equal(together([open_(png), PIXELS[0], png])[0], EXPECTED)
    assert torch.equal(together([open_(png)]), EXPECTED[None])
    assert torch.equal(image_dataset(open_(png), SIZE), EXPECTED[None])
    assert torch.equal(image_dataset([open_(png), open_(png)], SIZE)[1], EXPECTED)
    [(paths, _, _)] = image_batches([open_(png)], SIZE, 2)
    assert paths is None


def mapped(path):
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


class OnlyReads:
    """As what comes over a network: no position, no name."""

    def __init__(self, data):
        self._data = data

    def read(self, size=-1):
        return self._data


def packed(path):
    archive = path.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as file:
        file.write(path, "inner/a.png")
    return archive


def member(archive):
    return zipfile.ZipFile(archive).open("inner/a.png")


def spooled(data):
    file = tempfile.SpooledTemporaryFile()  # noqa: SIM115
    file.write(data)
    return file


def test_a_file_is_read_from_its_beginning_and_left_where_it_was(png):
    buffer = io.BytesIO()
    Image.fromarray(PIXELS[0]).save(buffer, "png")  # its position is at the end
    end = buffer.tell()
    for _ in range(2):
        assert torch.equal(together(buffer), EXPECTED[None])
        assert buffer.tell() == end
    assert torch.equal(together([buffer] * 5), EXPECTED.expand(5, -1, -1, -1))
    with png.open("rb") as file:
        file.seek(5)
        assert torch.equal(to_tensor(file), EXPECTED)
        assert file.tell() == 5
        assert not file.closed


def test_files_may_be_closed_as_soon_as_the_next_is_asked_for(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, pixels in zip(paths, PIXELS, strict=True):
        Image.fromarray(pixels).save(path)

    def files():
        for path in paths:
            with path.open("rb") as file:
                yield file

    expected = torch.from_numpy(PIXELS).permute(0, 3, 1, 2)
    assert torch.equal(together(files()), expected)
    assert torch.equal(image_dataset(files(), SIZE), expected)


def test_every_format_of_a_file_in_memory(tmp_path):
    image = Image.fromarray(PIXELS[0])
    for ending in ("png", "bmp", "tif", "jpg", "webp", "gif", "ppm", "jp2"):
        path = tmp_path / f"a.{ending}"
        image.save(path)
        assert torch.equal(to_tensor(path.read_bytes()), to_tensor(path)), ending


def test_broken_bytes_and_files_are_named(png, tmp_path):
    with pytest.raises(ImageError, match=r"^bytes: cannot be read as an image: it is none of PNG"):
        together(b"no image")
    with pytest.raises(ImageError, match=r"^bytes: is empty"):
        together(b"")
    with pytest.raises(ImageError, match=r"^BytesIO: cannot be read .*truncated"):
        together(io.BytesIO(png.read_bytes()[:-40]))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"x")
    with broken.open("rb") as file, pytest.raises(ImageError, match=rf"^{re.escape(str(broken))}:"):
        together(file)
    named = member(packed(broken))
    with pytest.raises(ImageError, match=r"^inner/a\.png: cannot"):
        together(named)
    with (
        png.open(encoding="latin-1") as file,
        pytest.raises(TypeError, match=r'a\.png must be a file opened in binary mode \("rb"\)'),
    ):
        together(file)
    for wrong in (io.StringIO("x"), zipfile.ZipFile(packed(png)), OnlyReads((True, PIXELS[0]))):
        with pytest.raises(TypeError, match=r'opened in binary mode \("rb"\); got \w+$'):
            together(wrong)
    skipped = []
    found = together([png, b"x"], skip=lambda item, error: skipped.append((item, str(error))))
    assert torch.equal(found, EXPECTED[None])
    [(position, message)] = skipped
    assert position == 1
    assert message.startswith("bytes: cannot be read")


# Pillow's images are those of the file that they would be saved to.


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"]
)
def test_pillow_images_of_every_mode(mode):
    image = Image.fromarray(PIXELS[0])
    if mode == "LAB":
        from PIL import ImageCms

        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(image, *profiles, outputMode="LAB")
    else:
        image = image.convert("LA" if mode == "PA" else mode).convert(mode)
    found = to_tensor(image)
    assert found.shape == (3, 9, 7)
    assert found.dtype == torch.uint8
    if mode in ("RGB", "RGBA", "RGBX", "CMYK"):
        assert torch.equal(found, EXPECTED)
    buffer = io.BytesIO()
    endings = {"1": "png", "L": "png", "LA": "png", "P": "png", "RGB": "png", "RGBA": "png"}
    if mode in endings or mode in ("CMYK", "LAB"):
        image.save(buffer, endings.get(mode, "tiff"))
        assert torch.equal(together(buffer)[0], found)


def test_a_palette_with_transparency(tmp_path):
    image = Image.fromarray(PIXELS[0]).quantize(8)
    image.save(tmp_path / "a.png", transparency=3)
    expected = to_tensor(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as opened:
        assert torch.equal(to_tensor(opened), expected)
    assert torch.equal(expected, to_tensor(image))


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L"])
def test_pillow_images_of_16_bits(tmp_path, mode):
    order = ">u2" if mode == "I;16B" else "<u2"
    image = Image.frombytes(mode, (7, 9), DEEP[0].astype(order).tobytes())
    assert torch.equal(to_tensor(image), as_file(DEEP[0], tmp_path / "a.png"))


def test_pillow_images_without_a_known_range():
    for pixels in (np.float32(DEEP[0]), np.int32(DEEP[0]) * 9):
        with pytest.raises(ValueError, match="no known range; save it with 8 or 16 bits"):
            to_tensor(Image.fromarray(pixels))


# Many paths, in the forms in which data tools hand them over.


class Column:
    """What pandas' and polars' columns have in common. Labels are no positions."""

    def __init__(self, values):
        self.values = values

    def __len__(self):
        return len(self.values)

    def __getitem__(self, label):
        raise KeyError(label)

    def __iter__(self):
        return iter(self.values)

    def to_numpy(self):
        return np.array(self.values, dtype=object)

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype=object)


class Elsewhere:
    def __init__(self, name):
        self.name = name

    def __fspath__(self):
        return self.name


@pytest.fixture
def paths(tmp_path):
    files = [tmp_path / f"{name}.png" for name in (2, 10, 1)]
    for path, pixels in zip(files, PIXELS, strict=True):
        Image.fromarray(pixels).save(path)
    return files


@pytest.mark.parametrize(
    "form",
    [
        list,
        tuple,
        iter,
        deque,
        np.array,
        Column,
        lambda paths: np.array([str(path) for path in paths]),
        lambda paths: np.array([str(path) for path in paths], dtype=object),
        lambda paths: np.array(paths, dtype=object)[[0, 1, 2]],
        lambda paths: [np.str_(path) for path in paths],
        lambda paths: [Elsewhere(str(path)) for path in paths],
        lambda paths: (path for path in paths),
        lambda paths: map(str, paths),
        lambda paths: dict.fromkeys(paths).keys(),
        lambda paths: dict(enumerate(paths)).values(),
    ],
)
def test_many_paths(form, paths):
    expected = torch.from_numpy(PIXELS).permute(0, 3, 1, 2)
    assert torch.equal(together(form(paths)), expected)
    names = [name for found, _, _ in image_batches(form(paths), SIZE, 2) for name in found]
    assert names == paths
    source = read_training_set(form(paths), 32)
    assert source.dataset.paths == paths
    assert read_training_set(form(paths), "auto").size == (288, 224)
    dataset = image_dataset(form(paths), SIZE)
    assert dataset.paths == paths
    assert torch.equal(dataset.images, expected)


def test_a_set_of_paths_is_sorted(paths):
    expected = torch.from_numpy(PIXELS[[2, 0, 1]]).permute(0, 3, 1, 2)
    for form in (set, frozenset):
        assert torch.equal(together(form(paths)), expected)
        assert torch.equal(together(form(map(str, paths))), expected)
        assert torch.equal(image_dataset(form(paths), SIZE).images, expected)
    with pytest.raises(TypeError, match="a set has no order, give a list"):
        together({paths[0].read_bytes(), paths[0]})


def test_one_path_of_any_class(paths):
    expected = torch.from_numpy(PIXELS[0]).permute(2, 0, 1)[None]
    for form in (Elsewhere(str(paths[0])), np.str_(paths[0]), np.array(str(paths[0]))):
        assert torch.equal(together(form), expected)
        assert torch.equal(read_training_set(form, SIZE_OF_TRAINING).dataset.images, _resized(form))
    folder = Elsewhere(str(paths[0].parent))
    assert len(together(folder)) == 3
    assert len(read_training_set(folder, 32).dataset) == 3


SIZE_OF_TRAINING = (32, 32)


def _resized(path):
    return together(path, SIZE_OF_TRAINING)


def test_columns_of_pandas_and_polars(paths):
    expected = torch.from_numpy(PIXELS[1:]).permute(0, 3, 1, 2)
    names = [str(path) for path in paths]
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"path": names, "label": 0}, index=[7, 8, 9])
    for form in (table["path"][1:], table.path[1:].astype("category"), pandas.Index(names)[1:]):
        assert torch.equal(together(form), expected)
        assert torch.equal(image_dataset(form, SIZE).images, expected)
        assert read_training_set(form, 32).dataset.paths == paths[1:]
    with pytest.raises(ValueError, match="of a table give the column of paths"):
        together(table)


def test_arrays_of_paths_have_one_axis(paths):
    with pytest.raises(ValueError, match=r"one axis; got \(3, 1\), use images.ravel\(\)"):
        together(np.array(list(map(str, paths)))[:, None])


def test_arrays_of_different_sizes(paths):
    mixed = np.empty(2, dtype=object)
    mixed[:] = [PIXELS[0], PIXELS[1][:5]]
    for form in (mixed, list(mixed), [PIXELS[0], paths[1]]):
        dataset = image_dataset(form, (8, 8))
        assert dataset.shape == (2, 3, 8, 8)
        assert torch.equal(together(form, (8, 8)), dataset)
    generated = image_dataset((image for image in mixed), (8, 8))
    assert torch.equal(generated, image_dataset(list(mixed), (8, 8)))


def test_a_generator_for_a_training_holds_one_image_at_its_full_size():
    given = []

    def images():
        for number in range(6):
            image = np.full((40, 30, 3), number, np.uint8)
            given.append(weakref.ref(image))
            assert sum(held() is not None for held in given) <= 2
            yield image

    dataset = read_training_set(images(), 32).dataset
    assert [int(image[0, 0, 0]) for image in dataset] == [0, 1, 2, 3, 4, 5]


class Foreign:
    """An array of another library."""

    def __init__(self, array):
        self._array, self.ndim = array, array.ndim

    def __iter__(self):
        return map(Foreign, self._array)

    def __array__(self, dtype=None, copy=None):
        return self._array


def test_other_libraries_arrays():
    expected = torch.from_numpy(PIXELS).permute(0, 3, 1, 2)
    for form, wanted in (
        (Foreign(PIXELS[0]), expected[:1]),
        ([Foreign(PIXELS[0])], expected[:1]),
        (Foreign(PIXELS), expected),
    ):
        assert torch.equal(together(form), wanted)
        assert torch.equal(image_dataset(form, SIZE), wanted)
    with pytest.raises(ValueError, match=r"an array in a list must be .*; one is \(\)"):
        to_tensor(np.int64(3))
