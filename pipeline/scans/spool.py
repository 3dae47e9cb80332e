"""Lists on disk: what is known of ten million files need not be in memory.

They lie in a temporary SQLite database without a name, which only this process reads and which is gone when the process is. SQLite puts it
into the folder of temporary files: $SQLITE_TMPDIR, else $TMPDIR, else /var/tmp.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

T = TypeVar("T")
FOLDER = "the folder of temporary files ($SQLITE_TMPDIR, $TMPDIR or /var/tmp)"


class Spool:
    """A temporary database. A disk that is full or broken is an ``OSError`` that names the folder."""

    def __init__(self) -> None:
        self._base = sqlite3.connect("", isolation_level=None)
        weakref.finalize(self, self._base.close)
        self.run("PRAGMA journal_mode = OFF")  # nothing is ever rolled back

    def run(self, command: str, cells: Sequence[Any] = ()) -> sqlite3.Cursor:
        try:
            return self._base.execute(command, cells)
        except sqlite3.OperationalError as error:
            number = errno.ENOSPC if error.sqlite_errorcode == sqlite3.SQLITE_FULL else errno.EIO
            raise OSError(number, os.strerror(number), FOLDER) from error


class Table(Generic[T]):
    """A list of values, each a row. ``pack`` gives the row's cells (text, whole number or None), ``unpack`` takes them; a row is found
    fast by the columns in ``keys``."""

    def __init__(
        self, spool: Spool, name: str, columns: Sequence[str], pack: Callable[[T], tuple[Any, ...]], unpack: Callable[..., T],
        keys: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self._spool, self._name, self._pack, self._unpack, self._next = spool, name, pack, unpack, 0
        self._put = f"INSERT OR REPLACE INTO {name} VALUES (?{', ?' * len(columns)})"
        spool.run(f"CREATE TABLE {name} (number INTEGER PRIMARY KEY, {', '.join(columns)})")
        for column in keys:
            spool.run(f"CREATE INDEX {name}_{column} ON {name} ({column})")

    @property
    def end(self) -> int:
        """The number of the next value to be appended."""
        return self._next

    def append(self, value: T) -> None:
        self[self._next] = value
        self._next += 1

    def extend(self, values: Iterable[T]) -> None:
        for value in values:
            self.append(value)

    def __setitem__(self, number: int, value: T) -> None:
        self._spool.run(self._put, (number, *map(cell, self._pack(value))))

    def __getitem__(self, number: int) -> T:
        """By its number in the order of ``append``, which it keeps when others are removed."""
        for value in self._values("WHERE number = ?", (number,)):
            return value
        raise IndexError(number)

    def __iter__(self) -> Iterator[T]:
        return self._values("ORDER BY number")

    def __len__(self) -> int:
        return self._spool.run(f"SELECT count(*) FROM {self._name}").fetchone()[0]

    def where(self, **columns: Any) -> Iterator[T]:
        """The values with these cells, in the order of ``append``."""
        return self.ordered(**columns)

    def ordered(self, *by: str, **columns: Any) -> Iterator[T]:
        """As ``where``, sorted by texts in columns, or SQL expressions of them, and then by number."""
        return (value for _, value in self.numbered(*by, **columns))

    def numbered(self, *by: str, **columns: Any) -> Iterator[tuple[int, T]]:
        """(number, value) as in ``ordered``. Where nothing is sorted, a value may be replaced while it is looked at."""
        condition, cells = _condition(columns)
        order = ", ".join([*(f"CAST({text} AS BLOB)" for text in by), "number"])  # by code points, as Python sorts
        return self._rows(f"{condition} ORDER BY {order}", cells)

    def between(self, numbers: range) -> Iterator[T]:
        return self._values("WHERE number >= ? AND number < ? ORDER BY number", (numbers.start, numbers.stop))

    def last(self, **columns: Any) -> T | None:
        condition, cells = _condition(columns)
        return next(self._values(f"{condition} ORDER BY number DESC LIMIT 1", cells), None)

    def remove(self, **columns: Any) -> int:
        """Takes the values with these cells out; how many they were."""
        condition, cells = _condition(columns)
        return self._spool.run(f"DELETE FROM {self._name} {condition}", cells).rowcount

    def counts(self, column: str) -> dict[Any, int]:
        """How often each cell of a column is there."""
        return {
            from_cell(kept): number for kept, number in self._spool.run(f"SELECT {column}, count(*) FROM {self._name} GROUP BY {column}")
        }

    def _values(self, clause: str, cells: Sequence[Any] = ()) -> Iterator[T]:
        return (value for _, value in self._rows(clause, cells))

    def _rows(self, clause: str, cells: Sequence[Any] = ()) -> Iterator[tuple[int, T]]:
        for number, *row in self._spool.run(f"SELECT * FROM {self._name} {clause}", cells):
            yield number, self._unpack(*map(from_cell, row))


def _condition(columns: dict[str, Any]) -> tuple[str, list[Any]]:
    """A column has a value, or one of several in a tuple."""
    wanted = {column: value if isinstance(value, tuple) else (value,) for column, value in columns.items()}
    words = " AND ".join(f"{column} IN ({', '.join('?' * len(values))})" for column, values in wanted.items())
    return f"WHERE {words}" if words else "", [cell(value) for values in wanted.values() for value in values]


def cell(value: Any) -> Any:
    """Text, but of names that are no UTF-8, which SQLite refuses as text."""
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return value.encode("utf-8", "surrogatepass")
    return value


def from_cell(kept: Any) -> Any:
    """What ``cell`` was given."""
    return kept.decode("utf-8", "surrogatepass") if isinstance(kept, bytes) else kept
