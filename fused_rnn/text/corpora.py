# SPDX-License-Identifier: MIT
"""Where text comes from."""

from __future__ import annotations

from pathlib import Path


class TextError(ValueError):
    """A text that cannot be used, and why."""


def read_text(path: str | Path) -> str:
    """Returns a UTF-8 file's text, without byte order mark, its lines ended by a line feed.

    Raises:
        OSError: the file cannot be read.
        TextError: it is empty or not UTF-8.
    """
    data = Path(path).read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TextError(
            f"{path}: expected UTF-8 text, got byte 0x{data[error.start]:02x} at offset "
            f"{error.start} ({error.reason})"
        ) from None
    if not text.strip():
        raise TextError(f"{path}: expected text, got a file with none")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def python_topics() -> str:
    """Returns the help texts that come with every CPython, some 465,000 characters of English."""
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))
