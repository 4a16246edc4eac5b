"""Lines of text files: unpacked if the name says so, checked to be UTF-8, bounded in size.

Used by the readers of JSON and CSV. A mark at the beginning (BOM) of UTF-8 is allowed and dropped; files
in other encodings are told by theirs, or by their zero bytes.
"""

import codecs
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.data.files import DataFile
from finetune_trainer.data.readers.limits import MAX_LINE, Unpacked, too_large
from finetune_trainer.errors import TrainerError
from finetune_trainer.foreign import Foreign

PACKED = (".gz", ".zst")
_FOREIGN = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_CHUNK = 2**16


def lines(file: DataFile) -> Iterator[str]:
    """The lines of a file with their ends, as text.

    Raises:
        TrainerError: DataEncodingUnknown, DataTooLarge or DataCorrupt, with the line.
    """
    for number, line in enumerate(_byte_lines(file), start=1):
        where = f"{file.name} line {number}"
        if number == 1:
            refuse_encoding(where, line)
            line = line.removeprefix(codecs.BOM_UTF8)  # noqa: PLW2901
        yield decoded(line, where)


def decoded(content: bytes, where: str) -> str:
    """Bytes as text.

    Raises:
        TrainerError: DataEncodingUnknown naming the byte.
    """
    if b"\x00" in content:
        # UTF-16 without a mark has a zero byte beside every ASCII letter.
        message = f"{where}: zero bytes in the text, as in UTF-16 or in a damaged file"
        raise TrainerError(Reason.DATA_ENCODING_UNKNOWN, message)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = content[error.start]
        message = f"{where}: not UTF-8 (byte {error.start + 1} is 0x{byte:02x})"
        raise TrainerError(Reason.DATA_ENCODING_UNKNOWN, message) from None


def refuse_encoding(where: str, beginning: bytes) -> None:
    """Refuse a text that begins with another encoding's mark.

    Raises:
        TrainerError: DataEncodingUnknown naming the encoding.
    """
    for mark, encoding in _FOREIGN.items():
        if beginning.startswith(mark):
            message = f"{where}: the file is {encoding}; expected UTF-8"
            raise TrainerError(Reason.DATA_ENCODING_UNKNOWN, message)


def whole(file: DataFile, limit: int) -> bytes:
    """The whole content of a file.

    Raises:
        TrainerError: DataTooLarge or DataCorrupt.
    """
    parts, size = [], 0
    with opened(file) as chunks:
        for chunk in chunks:
            size += len(chunk)
            if size > limit:
                raise too_large(file.name, "the file", limit)
            parts.append(chunk)
    return b"".join(parts)


@contextmanager
def opened(file: DataFile) -> Iterator[Iterator[bytes]]:
    """The content in pieces, unpacked."""
    with file.path.open("rb") as raw:
        yield _unpacked(file, raw) if file.name.lower().endswith(PACKED) else _plain(raw)


def _byte_lines(file: DataFile) -> Iterator[bytes]:
    parts: list[bytes] = []
    size, number = 0, 1
    with opened(file) as chunks:
        for chunk in chunks:
            *ends, rest = chunk.split(b"\n")
            for end in ends:
                yield b"".join((*parts, end, b"\n"))
                parts, size, number = [], 0, number + 1
            parts.append(rest)
            size += len(rest)
            if size > MAX_LINE:
                raise too_large(f"{file.name} line {number}", "the line", MAX_LINE)
    if size:
        yield b"".join(parts)


def _plain(raw: IO[bytes]) -> Iterator[bytes]:
    while chunk := raw.read(_CHUNK):
        yield chunk


def _unpacked(file: DataFile, raw: IO[bytes]) -> Iterator[bytes]:
    count = Unpacked(file)
    try:
        with _stream(file, raw) as stream:
            while chunk := stream.read(_CHUNK):
                count.add(len(chunk))
                yield chunk
    except (OSError, EOFError, zlib.error) as error:
        message = f"{file.name}: cannot be unpacked after {count.size} bytes: {error}"
        raise TrainerError(Reason.DATA_CORRUPT, message) from None


def _stream(file: DataFile, raw: IO[bytes]) -> Foreign:
    if file.name.lower().endswith(".gz"):
        return gzip.GzipFile(fileobj=raw)
    import pyarrow

    return pyarrow.CompressedInputStream(raw, "zstd")
