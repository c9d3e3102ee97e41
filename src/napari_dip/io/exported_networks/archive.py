"""Read the zip archive in which torch.export saves a program, without unpacking it.

Only uncompressed entries are read, by their exact names. So nothing can grow while it is read, and
no name can lead out of the archive. Pickled entries are never opened.
"""

from __future__ import annotations

import json
import tomllib
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_dip.errors import RefusedError
from napari_dip.io.paths import convert_read_errors, describe_exception, stat_readable_file

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

#: Maximum bytes of the graph and of a list of weights. The graph has 2.4 kB per step, so that of a
#: network of a thousand steps has 3 MB; parsed, it takes ten times as much.
MAX_TEXT_BYTES = 2**24
#: Maximum number of entries; a network has about one per weight.
MAX_ARCHIVE_ENTRIES = 2**16
FORMATS = tomllib.loads(Path(__file__).with_name("formats.toml").read_text("utf-8"))
#: Suffix of other network files -> description of their format.
FOREIGN_FORMATS: Mapping[str, str] = FORMATS["foreign_formats"]
#: Why a program saved by an older torch is refused.
PICKLED_REASON = "it was saved by a torch that pickled the weights, which 2.13 no longer does"
#: First bytes of a pickle.
_PICKLE_MAGIC = b"\x80"
#: First bytes of a zip archive.
_ZIP_MAGIC = b"PK\x03\x04"
_ARCHIVE_ERRORS = (zipfile.BadZipFile, OSError, ValueError, RuntimeError, NotImplementedError)


class ProgramArchive:
    """A zip archive of torch.export, whose entries share one root folder.

    Parameters
    ----------
    path : path of a file of `torch.export.save`, usually .pt2

    Raises
    ------
    RefusedError
        If it is no such archive, or of a format that can run code.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        file_path, archive_bytes = stat_readable_file(path)
        self.path: Path = file_path
        _check_format(self.path)
        try:
            with zipfile.ZipFile(self.path) as file:
                entries = file.infolist()
        except _ARCHIVE_ERRORS as error:
            raise self.make_broken_error(describe_exception(error)) from None
        self._entries = {entry.filename: entry for entry in entries}
        if len(entries) > MAX_ARCHIVE_ENTRIES or len(self._entries) != len(entries):
            raise self.make_broken_error("it has too many entries, or two of one name")
        self._root = self._find_root()  # names another format, before its entries are judged
        _check_entries(self, entries, archive_bytes)

    def list_entries(self) -> list[str]:
        """List the entries, without the root folder."""
        return [name.removeprefix(self._root) for name in self._entries]

    def get_entry_size(self, name: str) -> int:
        """Return the bytes of an entry; raise `RefusedError` if it is missing."""
        return self._entry(name).file_size

    def read_entry(self, name: str) -> bytes:
        """Read an entry.

        Raises
        ------
        RefusedError
            If it is missing or damaged.
        """
        entry = self._entry(name)
        try:
            with zipfile.ZipFile(self.path) as file:
                return file.read(entry)
        except _ARCHIVE_ERRORS as error:
            raise self.make_broken_error(describe_exception(error)) from None

    def read_json(self, name: str) -> dict[str, Any]:
        """Read an entry as JSON; raise `RefusedError` if it is invalid or too large."""
        if self.get_entry_size(name) > MAX_TEXT_BYTES:
            raise self.make_broken_error(f"its {name} is far longer than that of a network")
        try:
            data = json.loads(self.read_entry(name))
        except (ValueError, RecursionError) as error:
            why = f"its {name} is no JSON: {describe_exception(error)}"
            raise self.make_broken_error(why) from None
        if not isinstance(data, dict):
            raise self.make_broken_error(f"its {name} holds something else than a program")
        return data

    def make_broken_error(self, why: str) -> RefusedError:
        """Return the error for a damaged or unsupported archive."""
        return RefusedError("network-broken", path=self.path, why=why[:300])

    def _entry(self, name: str) -> zipfile.ZipInfo:
        entry = self._entries.get(self._root + name)
        if entry is None:
            raise self.make_broken_error(f"it lacks {name[:100]}")
        return entry

    def _find_root(self) -> str:
        """Return the root folder of all entries, with a slash."""
        model_entry = "models/model.json"
        models = [name for name in self._entries if name.endswith("/" + model_entry)]
        if len(models) == 1:
            return models[0].removesuffix(model_entry)
        if any(name.endswith("/constants.pkl") for name in self._entries):
            kind = "a TorchScript program"
        elif any(name.endswith("data.pkl") for name in self._entries):
            kind = "a pickle of PyTorch"
        elif "serialized_exported_program.json" in self._entries:
            raise self.make_broken_error(PICKLED_REASON)
        else:
            why = "it is another kind of archive"
            raise RefusedError("network-foreign", path=self.path, why=why)
        raise RefusedError("network-type", path=self.path, kind=kind)


def _check_format(path: Path) -> None:
    """Refuse a file whose suffix or first bytes are not those of an exported program."""
    kind = FOREIGN_FORMATS.get(path.suffix.lower())
    with convert_read_errors(path), path.open("rb") as file:
        magic = file.read(4)
    if kind is None and magic[:1] == _PICKLE_MAGIC:
        kind = "a pickle"
    if kind is not None:
        raise RefusedError("network-type", path=path, kind=kind)
    if magic != _ZIP_MAGIC:
        why = "it is no archive, or its beginning is lost"
        raise RefusedError("network-foreign", path=path, why=why)


def _check_entries(
    archive: ProgramArchive, entries: list[zipfile.ZipInfo], archive_bytes: int
) -> None:
    """Refuse entries whose names lead out of the archive, and compressed ones."""
    for entry in entries:
        parts = entry.filename.replace("\\", "/").split("/")
        if ".." in parts or entry.filename.startswith(("/", "\\")) or ":" in parts[0]:
            raise archive.make_broken_error("the name of one of its entries leads out of it")
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise archive.make_broken_error("part of it is compressed, which torch never does")
    if sum(entry.file_size for entry in entries) > archive_bytes:
        raise archive.make_broken_error("its entries claim more bytes than it has")
