"""Malicious and damaged Parquet files: false sizes and offsets, decompression bombs, and columns of all types."""

import base64
import copy
import io
import json
import os
import pickle

import hostile
import numpy as np
import parquet_parts
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile import EXAMPLES, EXTREMES, Canary, mutated
from hypothesis import given
from hypothesis import strategies as st
from parquet_parts import get, put, put_together, row_groups, take_apart, varint
from PIL import Image

from cifar_flax.data import Options, Source, parquet

pytestmark = pytest.mark.medium
Image.init()  # imports all plugins of Pillow, with namedtuples, which call `eval`

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 6, 6, 3), np.uint8)
LABELS = np.arange(12) % 3
NAMES = {"info": {"features": {"img": {"_type": "Image"}, "label": {"names": ["a", "b", "c"], "_type": "ClassLabel"}}}}
STRUCT = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def png(image):
    stored = io.BytesIO()
    Image.fromarray(image).save(stored, "PNG")
    return stored.getvalue()


PICTURES = pa.array([{"bytes": png(image), "path": None} for image in IMAGES], STRUCT)


def written(metadata=NAMES, columns=None, **options):
    """The content of a file. Without columns, a valid one."""
    table = pa.table({"img": PICTURES, "label": LABELS} if columns is None else columns)
    stored = io.BytesIO()
    metadata = metadata if isinstance(metadata, bytes) else json.dumps(metadata).encode()
    pq.write_table(table.replace_schema_metadata({b"huggingface": metadata}), stored, **{"row_group_size": 5} | options)
    return stored.getvalue()


TEXTS = {"img": PICTURES, "label": pa.array([f"class {label}" for label in LABELS])}
DELTAS = {"img.bytes": "DELTA_BYTE_ARRAY", "label": "DELTA_LENGTH_BYTE_ARRAY"}
PHOTOS = {"img": PICTURES.field("bytes"), "label": pa.array(LABELS, pa.uint8())}
VALID = [written(compression=codec) for codec in ("none", "snappy", "gzip", "zstd")]
VALID += [written(data_page_version="2.0"), written(write_page_index=True, write_page_checksum=True)]
VALID += [
    written(columns=TEXTS, compression="none"),
    written(columns=TEXTS, column_encoding=DELTAS, use_dictionary=False),
]
VALID += [written(columns=PHOTOS, use_dictionary=False, data_page_size=200)]
PARTS = [take_apart(content) for content in VALID]


def examples(fraction):
    """A quarter of the examples by default, because each one starts two processes."""
    return hostile.examples(fraction if EXAMPLES >= 1000 else fraction / 4)


@pytest.fixture(autouse=True)
def _one_core(monkeypatch):
    """The decoder starts no processes."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """A function that reads a file with the given content."""
    folder = tmp_path_factory.mktemp("parquet")

    def read(content, label=None):
        (folder / "train.parquet").write_bytes(content)
        return parquet.load(folder / "train.parquet", Options(label=label))

    return read


def check(source):
    """A result that is not None can be trained on."""
    if source is None:
        return
    assert isinstance(source, Source)
    train = source.train
    assert train.images.dtype == np.uint8
    assert train.images.ndim == 4
    assert train.images.size > 0
    assert train.labels.dtype == np.int32
    assert train.labels.shape == train.images.shape[:1]
    assert 0 <= train.labels.min() <= train.labels.max() < len(source.class_names)
    assert all(isinstance(name, str) for name in source.class_names)


@pytest.mark.parametrize("number", range(len(VALID)))
def test_the_valid_files_are_read(number, watch, read):
    for content in (VALID[number], put_together(*PARTS[number])):
        source = watch(read, content)
        assert sorted(map(bytes, source.train.images)) == sorted(map(bytes, IMAGES))


@given(mutated(VALID))
@examples(0.3)
def test_damaged_file_is_read_or_rejected(watch, read, content):
    check(watch(read, content))


NUMBERS = st.sampled_from([2**exponent for exponent in range(0, 64, 3)]) | st.integers(-3, 300)
NUMBERS |= st.sampled_from([2**31 - 1, 2**31, 2**32, 2**63 - 1, -1, -(2**31), -(2**63)])


def change_value(draw, struct):
    container, index, kind = draw(st.sampled_from(list(parquet_parts.leaves(struct))))
    value = container[index]
    if kind in parquet_parts.INTEGERS:
        container[index] = draw(NUMBERS | st.integers(-3, 3).map(lambda change: value + change))
    elif isinstance(value, bytes) and value:
        container[index] = bytes([value[0] ^ draw(st.integers(1, 255))]) + value[1:]
    elif isinstance(value, bool):
        container[index] = not value


def change_body(draw, page):
    """Changes the levels, the dictionary or the values of a page, whose header is adapted or not."""
    position = draw(st.integers(0, 40) | st.integers(0, 5000)) % max(len(page[1]), 1)
    new = draw(st.binary(min_size=1, max_size=3) | st.sampled_from(EXTREMES) | NUMBERS.map(lambda n: varint(abs(n))))
    page[1] = page[1][:position] + new + page[1][position + draw(st.integers(0, 4)) :]
    if draw(st.booleans()):
        put(page[0], 3, len(page[1]))


@given(st.data())
@examples(0.4)
def test_file_with_false_claims_is_read_or_rejected(watch, read, data):
    footer, pages = copy.deepcopy(data.draw(st.sampled_from(PARTS)))
    for _ in range(data.draw(st.integers(1, 3))):
        page = data.draw(st.sampled_from([page for column in pages.values() for page in column]))
        change = data.draw(st.sampled_from(["footer", "footer", "page", "page", "body"]))
        if change == "body":
            change_body(data.draw, page)
        else:
            change_value(data.draw, footer if change == "footer" else page[0])
    check(watch(read, put_together(footer, pages, correct_offsets=data.draw(st.booleans()))))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=5), children, max_size=4),
    max_leaves=9,
)
FEATURES = JSON | st.fixed_dictionaries(
    {"label": st.fixed_dictionaries({"names": JSON, "_type": st.just("ClassLabel")})}
)
METADATA = JSON | FEATURES.map(lambda features: {"info": {"features": features}})


@given(METADATA | st.binary(max_size=60))
@examples(0.1)
def test_arbitrary_metadata_is_read_or_ignored(watch, read, metadata):
    check(watch(read, written(metadata)))


COLUMNS = [
    PICTURES,
    PHOTOS["img"],
    PHOTOS["img"].cast(pa.large_binary()),
    PHOTOS["img"].dictionary_encode(),
    pa.array(LABELS),
    pa.array(LABELS, pa.uint64()),
    pa.array(LABELS, pa.int8()),
    pa.array(LABELS - 1),
    pa.array(LABELS * 2**61, pa.uint64()),
    pa.array(LABELS, pa.float16()),
    pa.array(LABELS > 0),
    pa.array([None] * 12),
    pa.array([None] * 12, pa.int64()),
    pa.array([1] * 11 + [None]),
    pa.array(["a", "b\n", ""] * 4),
    pa.array(["a", "b", "c"] * 4, pa.large_string()),
    pa.array(["a", "b", None] * 4).dictionary_encode(),
    pa.array([[1]] * 12),
    pa.array([{"bytes": 1}] * 12),
    pa.array([{"bytes": [b"a"]}] * 12),
    pa.array([{"bytes": b"a", "path": b"b"}] * 11 + [None]),
    pa.array([[{"bytes": b"a"}]] * 12),
    pa.array([{}] * 12, pa.struct([])),
    pa.array([0] * 12, pa.timestamp("us")),
]
TITLES = st.sampled_from(["img", "image", "label", "labels", "img.bytes", "label.bytes", "a"]) | st.text(max_size=9)


@given(st.dictionaries(TITLES, st.sampled_from(COLUMNS), max_size=5), st.none() | TITLES)
@examples(0.1)
def test_arbitrary_columns_are_read_or_rejected(watch, read, columns, label):
    try:
        content = written(columns=columns)
    except (pa.ArrowException, UnicodeError):  # what cannot be written
        return
    check(watch(read, content, label))


@given(st.lists(st.text(max_size=40) | st.integers(0, 99).map(lambda i: f"-{i:05}-of-0000{i % 7}"), max_size=4))
@examples(0.1)
def test_arbitrary_file_names_are_read_or_rejected(watch, tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("names")
    for name in names:
        path = folder / f"train{name}.parquet"
        if path.name.isprintable() and "/" not in name and len(os.fsencode(path.name)) < 255:
            path.write_bytes(VALID[0])
    if watch(parquet.find, folder):
        check(watch(parquet.load, folder, Options()))


def with_page(body, size, count=None, codec="none"):
    """A file of one picture, which has a false page: its stored bytes, its size, and the number of its values."""
    columns = {"img": pa.array([b"a"]), "label": np.zeros(1, int)}
    footer, pages = take_apart(written(columns=columns, compression=codec, use_dictionary=False))
    header, _ = page = pages[0, 0][0]
    page[1] = body
    put(header, 2, size)
    put(header, 3, len(body))
    if count:
        put(get(header, 5), 1, count)
    return put_together(footer, pages)


def with_column(number, change):
    """A valid file, in the footer of which a field of the first column is changed."""
    footer, pages = take_apart(VALID[1])
    column = get(get(row_groups(footer)[0], 1)[1][0], 3)
    put(column, number, change(get(column, number)))
    return put_together(footer, pages)


def with_longer_lists(statistics):
    return [
        [n, kind, [value[0], [*value[1], 1]] if kind == parquet_parts.LIST else value] for n, kind, value in statistics
    ]


def with_rows(count):
    """A file that claims this number of rows, all with the same picture."""
    footer, pages = take_apart(
        written(columns={"img": pa.array([png(IMAGES[0])] * 4), "label": np.zeros(4, int)}, compression="none")
    )
    put(footer, 3, count)
    put(row_groups(footer)[0], 3, count)
    for column in get(row_groups(footer)[0], 1)[1]:
        put(get(column, 3), 5, count)
    levels = varint(count << 1) + b"\x01"
    for index in (0, 1):
        page = pages[0, index][-1]
        page[1] = len(levels).to_bytes(4, "little") + levels + b"\x01" + varint(count << 1) + b"\0"
        put(page[0], 2, len(page[1]))
        put(page[0], 3, len(page[1]))
        put(get(page[0], 5), 1, count)
    return put_together(footer, pages)


EQUAL = {"img": pa.DictionaryArray.from_arrays([0] * 100, [bytes(2**25)]), "label": np.zeros(100, int)}
UNREADABLE = "train.parquet is not a readable Parquet file ("
BOMBS = {
    "a page of 2 GiB": (with_page(b"", 2**31 - 1, codec="zstd"), UNREADABLE),
    "a page of -1 bytes": (with_page(b"", -1), UNREADABLE),
    "a page with many values": (with_page(b"", 100, 2**31 - 1), UNREADABLE),
    "many rows": (with_rows(2**30), "the 1073741824 images of 6 x 6 pixels in"),
    "100 equal pictures of 32 MiB": (
        written(columns=EQUAL, compression="zstd", row_group_size=100, store_schema=False),
        "8 pictures have 268435553 bytes, at most 268435456 are read",
    ),
    "many columns": (written(columns={f"c{i}": [1] for i in range(5_000)}), "has no column of encoded pictures"),
    "a large footer": (b"PAR1" + bytes(100) + b"\xff\xff\xff\x7fPAR1", UNREADABLE),
    "a deep footer": (b"PAR1" + b"\x1c" * 10**5 + (10**5).to_bytes(4, "little") + b"PAR1", UNREADABLE),
    "encryption": (VALID[0][:-4] + b"PARE", UNREADABLE),
    # pyarrow's objects for the footer end the process at these two
    "an unknown codec": (with_column(4, lambda codec: 99), UNREADABLE),
    "false statistics": (with_column(16, with_longer_lists), "size mismatch"),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_bomb_is_rejected(name, watch, read):
    content, words = BOMBS[name]
    assert watch(read, content) is None
    assert words in watch.error


@pytest.mark.parametrize("mebibytes", [100, 1500])
def test_page_of_zeros_that_are_compressed_a_thousandfold_is_bounded(mebibytes, watch, read):
    """The page is copied, so that 1500 MiB take 3000."""
    size = mebibytes * 2**20
    zstd = pa.Codec("zstd")
    zeros = zstd.compress(bytes(2**20), asbytes=True)  # such frames can be concatenated
    content = zstd.compress(b"\x02\0\0\0\x02\x01" + size.to_bytes(4, "little"), asbytes=True) + zeros * mebibytes
    assert watch(read, with_page(content, size + 10, codec="zstd")) is None
    problem = (
        "row 0: not a readable image" if mebibytes == 100 else "is not a readable Parquet file (ArrowMemoryError: "
    )
    assert problem in watch.error


def test_pickle_of_an_extension_type_is_not_executed(watch, read):
    """Old versions of pyarrow unpickled the metadata of a field with this extension type."""
    extension = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": pickle.dumps(Canary())}
    for kind, name in ((STRUCT, "img"), (pa.int64(), "label")):
        fields = {"img": pa.field("img", STRUCT), "label": pa.field("label", pa.int64())}
        fields[name] = pa.field(name, kind, metadata=extension)
        table = pa.table([PICTURES, pa.array(LABELS)], pa.schema(fields.values()))
        stored = io.BytesIO()
        pq.write_table(table, stored)
        schema = base64.b64decode(pq.read_metadata(stored).metadata[b"ARROW:schema"])
        assert pickle.dumps(Canary()) in schema
        check(watch(read, stored.getvalue()))


def test_pipe_and_folder_are_rejected(watch, tmp_path):
    os.mkfifo(tmp_path / "train.parquet")
    assert watch(parquet.load, tmp_path / "train.parquet", Options()) is None
    assert "not a regular file" in watch.error
    assert watch(parquet.load, tmp_path, Options()) is None
    assert "not a regular file" in watch.error
