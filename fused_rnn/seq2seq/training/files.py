# SPDX-License-Identifier: MIT
"""Files that are never seen half written."""

import os
from pathlib import Path


def replace_file(path: Path, data: bytes) -> None:
    """Writes a file so that its path holds, at every moment, all of the old or all of the new.

    What is no file, a terminal or a pipe, is written to; a link leads to the file it names.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    path = Path(os.path.realpath(path))
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
