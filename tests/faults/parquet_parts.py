"""Takes a Parquet file apart into its footer and its pages, and puts it together again, for files with false claims.

A struct is a list of [field number, type, value], a list is [type of the elements, elements], as in Thrift's compact
protocol.
"""

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BYTES, LIST, STRUCT = 1, 2, 3, 4, 5, 6, 7, 8, 9, 12
INTEGERS = (I16, I32, I64)


def take_apart(content):
    """The footer, and by (row group, column) the list of [header, body] of the pages."""
    size = int.from_bytes(content[-8:-4], "little")
    footer, _ = _read(STRUCT, content, len(content) - 8 - size)
    pages = {}
    for group, columns in _columns(footer):
        for index, column in enumerate(columns):
            start = min(get(column, 11) or get(column, 9), get(column, 9))
            pages[group, index] = list(_pages(content, start, start + get(column, 7)))
    return footer, pages


def put_together(footer, pages, correct_offsets=True):
    """The file. Without correction, the footer keeps its positions of the pages."""
    content = b"PAR1"
    for group, columns in _columns(footer):
        for index, column in enumerate(columns):
            starts = []
            for header, body in pages[group, index]:
                starts.append(len(content))
                content += _write(STRUCT, header) + body
            if correct_offsets:
                has_dictionary = get(column, 11) is not None
                put(column, 11, starts[0])
                put(column, 9, starts[min(has_dictionary, len(starts) - 1)])
                put(column, 7, len(content) - starts[0])
    stored = _write(STRUCT, footer)
    return content + stored + len(stored).to_bytes(4, "little") + b"PAR1"


def get(struct, number):
    return next((value for field, _, value in struct if field == number), None)


def put(struct, number, value):
    """Replaces the value of a field, if the struct has it."""
    for field in struct:
        if field[0] == number:
            field[2] = value


def leaves(struct):
    """Yields (container, index, type) of all values that are no structs or lists."""
    for field in struct:
        yield from _leaves(field, 2, field[1])


def _leaves(container, index, kind):
    if kind == STRUCT:
        yield from leaves(container[index])
    elif kind == LIST:
        element, values = container[index]
        for i in range(len(values)):
            yield from _leaves(values, i, element)
    else:
        yield container, index, kind


def row_groups(footer):
    return get(footer, 4)[1]


def _columns(footer):
    """Yields the number of each row group and the metadata of its columns."""
    for number, group in enumerate(row_groups(footer)):
        yield number, [get(column, 3) for column in get(group, 1)[1]]


def _pages(content, position, end):
    while position < end:
        header, position = _read(STRUCT, content, position)
        size = get(header, 3)
        yield [header, content[position : position + size]]
        position += size


def varint(value):
    stored = bytearray()
    while value > 127:
        stored.append(value & 127 | 128)
        value >>= 7
    return bytes([*stored, value])


def _read_varint(content, position):
    value = shift = 0
    while True:
        byte = content[position]
        position, value, shift = position + 1, value | (byte & 127) << shift, shift + 7
        if byte < 128:
            return value, position


def _read(kind, content, position):
    """(value, end)"""
    if kind in (TRUE, FALSE):
        return kind == TRUE, position
    if kind in INTEGERS:
        value, position = _read_varint(content, position)
        return (value >> 1) ^ -(value & 1), position
    if kind == BYTES:
        size, position = _read_varint(content, position)
        return content[position : position + size], position + size
    if kind == LIST:
        return _read_list(content, position)
    if kind == STRUCT:
        return _read_struct(content, position)
    size = {BYTE: 1, DOUBLE: 8}[kind]
    return content[position : position + size], position + size


def _read_list(content, position):
    size, element = content[position] >> 4, content[position] & 15
    position += 1
    if size == 15:
        size, position = _read_varint(content, position)
    values = []
    for _ in range(size):
        value, position = _read(BYTE if element == TRUE else element, content, position)
        values.append(value)
    return [element, values], position


def _read_struct(content, position):
    fields, number = [], 0
    while content[position]:
        delta, kind = content[position] >> 4, content[position] & 15
        number += delta  # writers use the long form for none of Parquet's fields
        value, position = _read(kind, content, position + 1)
        fields.append([number, kind, value])
    return fields, position + 1


def _write(kind, value):
    if kind in INTEGERS:
        return varint(value << 1 if value >= 0 else (-value << 1) - 1)
    if kind == BYTES:
        return varint(len(value)) + value
    if kind == LIST:
        element, values = value
        size = (
            bytes([len(values) << 4 | element]) if len(values) < 15 else bytes([0xF0 | element]) + varint(len(values))
        )
        return size + b"".join(_write(BYTE if element == TRUE else element, item) for item in values)
    if kind == STRUCT:
        stored, last = b"", 0
        for number, field, item in value:
            is_bool = field in (TRUE, FALSE)
            stored += bytes([number - last << 4 | ((TRUE if item else FALSE) if is_bool else field)])
            stored += b"" if is_bool else _write(field, item)
            last = number
        return stored + b"\0"
    return value
