"""Reads the files of a tar or tar.gz in memory.

`tarfile` follows extended headers and skips as many bytes as a header claims, so a few headers can keep it busy
indefinitely. Here only plain headers count, and the numbers of bytes and of headers are bounded.
"""

import gzip
import io
import tarfile
import zlib
from collections.abc import Container, Iterator
from pathlib import Path

GZIP = b"\x1f\x8b"  # the first bytes
MAX_BYTES = 2**28  # of a complete tar, read or skipped; that of CIFAR-100 has 186 million
MAX_MEMBERS = 100  # that of CIFAR-10 has nine
START_BYTES = 2**16  # read to find the first file
FILE_TYPES = (tarfile.REGTYPE, tarfile.AREGTYPE)
EMPTY_TYPES = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)
DAMAGES = (OSError, EOFError, tarfile.TarError, zlib.error)
Stream = gzip.GzipFile | io.BytesIO


def is_tar(start: bytes) -> bool:
    """Whether the first 512 bytes of a file are those of a gzip or of a tar."""
    try:
        return start.startswith(GZIP) or bool(tarfile.TarInfo.frombuf(start, "utf-8", "surrogateescape"))
    except tarfile.TarError:
        return False


def read(content: bytes, wanted: Container[str]) -> dict[str, bytes]:
    """The files with the wanted names, in any folder of a tar or tar.gz.

    Raises:
        OSError, EOFError, tarfile.TarError, zlib.error: the tar is damaged, too large, or has a name twice.
    """
    files: dict[str, bytes] = {}
    with _open(content) as stream:
        for path, size in _files(stream):
            name = Path(path).name
            if name not in wanted:
                continue
            if name in files:
                raise tarfile.TarError(f"it contains {name} twice, the second time as {path!r}")
            files[name] = stream.read(size)
            if len(files[name]) < size:
                raise EOFError(f"{name} is cut short")
    return files


def first_name(path: Path, wanted: Container[str]) -> str | None:
    """The first wanted name near the start of a tar or tar.gz, or None, also if the file is something else."""
    try:
        with path.open("rb") as file:
            start = file.read(START_BYTES)
        with _open(start) as stream:
            return next((name for path_in_tar, _ in _files(stream) if (name := Path(path_in_tar).name) in wanted), None)
    except DAMAGES:
        return None


def _open(content: bytes) -> Stream:
    stream = io.BytesIO(content)
    return gzip.GzipFile(fileobj=stream) if content.startswith(GZIP) else stream


def _files(stream: Stream) -> Iterator[tuple[str, int]]:
    """Yields the path and the size of each regular file when the stream is at its content, which need not be read."""
    remaining = MAX_BYTES
    for _ in range(MAX_MEMBERS):
        header = stream.read(tarfile.BLOCKSIZE)
        if not header.strip(b"\0"):
            _skip(stream, remaining)  # up to gzip's checksum, which is at the end
            return
        member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        size = 0 if member.type in EMPTY_TYPES else member.size
        stored = size + -size % tarfile.BLOCKSIZE
        remaining -= tarfile.BLOCKSIZE + stored
        if size < 0 or remaining < 0:
            raise tarfile.TarError(f"{member.name!r} claims {size} bytes")
        end = stream.tell() + stored
        if member.type in FILE_TYPES:
            yield member.name, size
        _skip(stream, end - stream.tell())
    raise tarfile.TarError(f"it has more than {MAX_MEMBERS} members")


def _skip(stream: Stream, size: int) -> None:
    while size > 0 and (chunk := stream.read(min(size, 2**20))):
        size -= len(chunk)
