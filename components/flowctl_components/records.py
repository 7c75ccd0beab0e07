"""Bytes of a file into records, with the place of each: a pure splitter for each format.

A splitter is fed pieces of a file in order and gives the records that are complete, each with its ``end``: the offset of the
record's last byte in the file. What follows the last line break is kept until the next piece, or until ``finish``.
"""

import csv
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import msgspec

_decode: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder().encode
_BOM: Final = b"\xef\xbb\xbf"


class Entry(NamedTuple):
    """One record: its payload and the offset of its last byte."""

    payload: bytes
    end: int


class RecordError(ValueError):
    """The record that starts at ``start`` cannot be read; ``problem`` says why."""

    def __init__(self, start: int, problem: str) -> None:
        super().__init__(problem)
        self.start = start
        self.problem = problem


class Lines:
    """Every line is a record, as it is, without its line break."""

    def __init__(self, offset: int = 0, *, limit_bytes: int = 1 << 20) -> None:
        """Start at ``offset`` of the file; a record longer than ``limit_bytes`` is refused."""
        self.offset = offset
        self._limit_bytes = limit_bytes
        self._rest = b""

    def feed(self, piece: bytes) -> list[Entry]:
        """The records that are complete with this piece.

        Raises:
            RecordError: if one cannot be read; those before it in the piece are lost with it.
        """
        lines = (self._rest + piece).split(b"\n")
        self._rest = lines.pop()
        entries = self._entries(lines)
        if len(self._rest) > self._limit_bytes:
            raise RecordError(self.offset, f"a line is longer than {self._limit_bytes} bytes")
        return entries

    def finish(self) -> list[Entry]:
        """The last record, if the file does not end with a line break."""
        rest, self._rest = self._rest, b""
        if not rest:
            return []
        entries = self._entries([rest])
        # The line break that _entries counted is not there.
        self.offset -= 1
        return [entry._replace(end=entry.end - 1) for entry in entries]

    @property
    def unfinished(self) -> bytes:
        """What follows the last line break."""
        return self._rest

    def _entries(self, lines: list[bytes]) -> list[Entry]:
        entries: list[Entry] = []
        offset = self.offset
        for line in lines:
            start, offset = offset, offset + len(line) + 1
            if len(line) > self._limit_bytes:
                raise RecordError(start, f"a line is longer than {self._limit_bytes} bytes")
            entries.append(Entry(line[:-1] if line.endswith(b"\r") else line, offset - 1))
        self.offset = offset
        return entries


class JsonLines(Lines):
    """Every line is a JSON document; blank lines are passed over."""

    def _entries(self, lines: list[bytes]) -> list[Entry]:
        entries: list[Entry] = []
        start = self.offset
        for line, end in super()._entries(lines):
            text = line[len(_BOM) :] if start == 0 and line.startswith(_BOM) else line
            if text and not text.isspace():
                try:
                    _decode(text)
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    raise RecordError(start, f"this is not JSON: {error}: {text[:80]!r}") from error
                entries.append(Entry(text, end))
            start = end + 1
        return entries


class CsvRows(Lines):
    """Every row is a record: an object with the header's names, or ``columns``, and the row's values as text."""

    def __init__(
        self,
        offset: int = 0,
        *,
        columns: Sequence[str] | None = None,
        delimiter: str = ",",
        quoted: bool = True,
        limit_bytes: int = 1 << 20,
    ) -> None:
        """See ``Lines``; without ``columns`` the first row names them. With ``quoted`` a value in quotes may have line breaks."""
        super().__init__(offset, limit_bytes=limit_bytes)
        self.columns = list(columns) if columns is not None else None
        self._delimiter = delimiter
        self._quoted = quoted
        self._open_row: list[bytes] = []
        self._open_start = 0

    def finish(self) -> list[Entry]:
        """See ``Lines``; a row whose quotes never close is refused."""
        entries = super().finish()
        if self._open_row:
            raise RecordError(self._open_start, "a quoted value is never closed")
        return entries

    def _entries(self, lines: list[bytes]) -> list[Entry]:
        start = self.offset
        rows: list[tuple[bytes, int, int]] = []
        for line, end in super()._entries(lines):
            text = line[len(_BOM) :] if start == 0 and line.startswith(_BOM) else line
            if self._open_row:
                self._open_row.append(text)
                if text.count(b'"') % 2:
                    rows.append((b"\n".join(self._open_row), self._open_start, end))
                    self._open_row = []
                elif sum(map(len, self._open_row)) > self._limit_bytes:
                    raise RecordError(
                        self._open_start, f"a row is longer than {self._limit_bytes} bytes; is a quote never closed?"
                    )
            elif self._quoted and b'"' in text and text.count(b'"') % 2:
                self._open_row, self._open_start = [text], start
            elif text and not text.isspace():
                rows.append((text, start, end))
            start = end + 1
        return self._parsed(rows)

    def _parsed(self, rows: list[tuple[bytes, int, int]]) -> list[Entry]:
        if not rows:
            return []
        if self.columns is None:
            text, start, _ = rows.pop(0)
            self.columns = self._header(text, start)
        columns, width = self.columns, len(self.columns)
        entries: list[Entry] = []
        for (_, start, end), values in zip(rows, self._values(rows), strict=True):
            if len(values) != width:
                raise RecordError(start, f"the row has {len(values)} values for {width} columns")
            entries.append(Entry(_encode(dict(zip(columns, values, strict=True))), end))
        return entries

    def _header(self, text: bytes, start: int) -> list[str]:
        names = next(iter(self._values([(text, start, start)])))
        repeated = {name for name in names if names.count(name) > 1}
        if repeated:
            raise RecordError(start, f"the header names column {min(repeated)!r} twice")
        return names

    def _values(self, rows: list[tuple[bytes, int, int]]) -> Iterable[list[str]]:
        texts: list[str] = []
        for text, start, _ in rows:
            try:
                texts.append(text.decode())
            except UnicodeDecodeError as error:
                raise RecordError(start, f"the row is not UTF-8 (byte {error.start} of it): {text[:80]!r}") from error
        # The reader takes one text for each row that it gives: the number of rows so far is the place of an error.
        quoting = csv.QUOTE_MINIMAL if self._quoted else csv.QUOTE_NONE
        reader = csv.reader(texts, delimiter=self._delimiter, quoting=quoting, strict=True)
        parsed: list[list[str]] = []
        try:
            parsed.extend(reader)
        except csv.Error as error:
            raise RecordError(rows[min(len(parsed), len(rows) - 1)][1], f"this is not CSV: {error}") from error
        if len(parsed) != len(rows):
            raise RecordError(rows[0][1], "this is not CSV: a quote stands where none may")
        return parsed
