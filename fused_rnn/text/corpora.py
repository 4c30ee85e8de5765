# SPDX-License-Identifier: MIT
"""Corpora known by name, downloaded when first asked for."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import NamedTuple

from .reading import TextError, digest

# Read once: the folder that holds what `corpus` downloads.
FOLDER = Path(os.environ.get("FUSED_RNN_DATA", Path.home() / ".cache" / "fused_rnn"))
_TIMEOUT = 60


class Corpus(NamedTuple):
    """A file on the net, and the file wanted from it."""

    url: str
    sha1: str
    # Name and SHA-1 of the file itself; in a zip archive, `member` is its path there.
    file: str
    file_sha1: str
    member: str | None
    origin: str


CORPORA = {
    "time-machine": Corpus(
        "http://d2l-data.s3-accelerate.amazonaws.com/timemachine.txt",
        "090b5e7e70c295757f55df93cb0a180b9691891a",
        "timemachine.txt",
        "090b5e7e70c295757f55df93cb0a180b9691891a",
        None,
        "H. G. Wells, The Time Machine (1895), public domain",
    ),
    "jaychou-lyrics": Corpus(
        "https://raw.githubusercontent.com/d2l-ai/d2l-zh/13177e16f335fef0b47317f98e2705c2f69a3440"
        "/data/jaychou_lyrics.txt.zip",
        "9529987e701a4f37048ab778270a5dde9a762a0b",
        "jaychou_lyrics.txt",
        "389655757a8ef48c7ad5253ded9caa13cdf6086a",
        "jaychou_lyrics.txt",
        "lyrics sung by Jay Chou, as the book's first Chinese edition serves them; under copyright",
    ),
    "fra-eng": Corpus(
        "http://d2l-data.s3-accelerate.amazonaws.com/fra-eng.zip",
        "94646ad1522d915e7b0f9296181140edcf86a4f5",
        "fra.txt",
        "c43f99dce27311d3afd4d3e0716848194cfcc103",
        "fra-eng/fra.txt",
        "www.manythings.org/anki and tatoeba.org, CC-BY 2.0 FR",
    ),
}


def corpus(name: str, folder: str | Path | None = None) -> Path:
    """Returns the file of a corpus known by name, which is downloaded the first time.

    Args:
        name: one of CORPORA.
        folder: where it is or will be. Default: what the environment variable FUSED_RNN_DATA
            named when this package was imported, else ~/.cache/fused_rnn.

    Raises:
        ValueError: there is no corpus of this name.
        TextError: the file there, or what was downloaded, is not the one expected; or it cannot
            be downloaded. The message says what to do.
        ModuleNotFoundError: it is to be downloaded, and the `pooch` package is not installed.
    """
    if name not in CORPORA:
        raise ValueError(f"name: expected one of {sorted(CORPORA)}, got {name!r}")
    wanted = CORPORA[name]
    path = Path(folder if folder is not None else FOLDER) / wanted.file
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            got = _fetched(wanted, path, Path(scratch))
            _check(got, wanted.file_sha1)
            os.replace(got, path)
    _check(path, wanted.file_sha1)
    return path


def python_topics() -> str:
    """Returns the help texts that come with every CPython, some 465,000 characters of English."""
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))


def _fetched(wanted: Corpus, path: Path, scratch: Path) -> Path:
    import pooch

    unzip = None if wanted.member is None else pooch.Unzip(members=[wanted.member])
    patient = pooch.HTTPDownloader(timeout=_TIMEOUT)
    try:
        got = pooch.retrieve(
            wanted.url, f"sha1:{wanted.sha1}", path=scratch, processor=unzip, downloader=patient
        )
    # The latter, if what comes has another digest.
    except (OSError, ValueError) as error:
        raise TextError(
            f"{wanted.url}: cannot be downloaded ({error}). Without a network, put the file "
            f"{wanted.file} at {path}, or name a folder that holds it with the environment "
            "variable FUSED_RNN_DATA"
        ) from None
    return Path(got if unzip is None else got[0])


def _check(path: Path, sha1: str) -> None:
    found = digest(path, "sha1")
    if found != sha1:
        raise TextError(f"{path}: expected a file of SHA-1 {sha1}, got {found}")
