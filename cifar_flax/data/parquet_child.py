"""The program that `parquet` runs with `child`: copies what is needed from a Parquet file to an Arrow stream.

Without arguments it copies the schema, with the number of rows in its metadata. Given the names of a column of pictures
and one of labels, it copies these columns, a few rows at a time. It imports nothing of the package.
"""

import os
import sys
from typing import Any

os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"  # the others reserve more memory than they use
sys.modules["numpy"] = None  # type: ignore[assignment]  # not needed, and takes longer to import than pyarrow

import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

BATCH_ROWS = 8
MAX_BATCH_BYTES = 2**28
MAX_FOOTER_BYTES = 2**24
BUFFER_BYTES = 2**20  # of a column that is read from the file at once


def copy_schema(file: Any) -> None:
    if file.metadata.serialized_size > MAX_FOOTER_BYTES:
        raise ValueError(f"its footer has {file.metadata.serialized_size} bytes, at most {MAX_FOOTER_BYTES} are read")
    schema = file.schema_arrow
    metadata = {**(schema.metadata or {}), "num_rows": str(file.metadata.num_rows)}
    pa.ipc.new_stream(sys.stdout.buffer, schema.with_metadata(metadata)).close()


def copy_rows(file: Any, image: str, label: str) -> None:
    """Copies pictures as `large_binary`, and labels as `int64` or `string`."""
    image_type, label_type = (file.schema_arrow.field(name).type for name in (image, label))
    is_struct = pa.types.is_struct(image_type)
    label_type = pa.int64() if pa.types.is_integer(label_type) else pa.string()
    schema = pa.schema({"picture": pa.large_binary(), "label": label_type})
    columns = [f"{image}.bytes" if is_struct else image, label]
    with pa.ipc.new_stream(sys.stdout.buffer, schema) as stream:
        for batch in file.iter_batches(BATCH_ROWS, columns=columns, use_threads=False):
            if batch.nbytes > MAX_BATCH_BYTES:
                raise ValueError(f"{len(batch)} pictures have {batch.nbytes} bytes, at most {MAX_BATCH_BYTES} are read")
            pictures = batch.column(image).flatten()[0] if is_struct else batch.column(image)
            labels = batch.column(label).cast(label_type, safe=False)  # uint64 may become negative
            copied = pa.record_batch([pictures.cast(pa.large_binary()), labels], schema=schema)
            copied.validate(full=True)
            stream.write_batch(copied)


if __name__ == "__main__":
    with pq.ParquetFile(sys.stdin.buffer, buffer_size=BUFFER_BYTES, pre_buffer=False) as parquet_file:
        if sys.argv[1:]:
            copy_rows(parquet_file, *sys.argv[1:])
        else:
            copy_schema(parquet_file)
