"""The archive in which torch.export keeps a program: a zip file, of which nothing is unpacked.

Only what lies in it as it is, without compression, is read, by its exact name. So nothing can grow
while it is read, and no name can lead anywhere. Whatever is pickled in it is left alone.
"""

from __future__ import annotations

import json
import zipfile
from typing import TYPE_CHECKING, Any

from napari_dip.errors import Refused, refusal
from napari_dip.errors.fault import make_printable
from napari_dip.io.paths import check_readable_file, describe_exception

if TYPE_CHECKING:
    import os

#: Most bytes of the graph and of a list of weights: 2.4 kB for each step were seen, so that of a
#: network of a thousand steps has 3 MB; read, it takes ten times as much.
MAX_TEXT_BYTES = 2**24
#: Most entries; a network has as many as it has weights.
MAX_ARCHIVE_ENTRIES = 2**16
#: Ends of names that other kinds of networks have, and what these are.
FOREIGN_FORMATS = {
    ".pt": "a TorchScript program or a pickle of PyTorch",
    ".pth": "a pickle of PyTorch",
    ".ckpt": "a pickle of PyTorch",
    ".bin": "a pickle of PyTorch",
    ".pkl": "a pickle",
    ".pickle": "a pickle",
    ".ts": "a TorchScript program",
    ".torchscript": "a TorchScript program",
}
#: Why a program of an older torch is refused.
PICKLED_REASON = "it was saved by a torch that pickled the weights, which 2.13 no longer does"
_PICKLE, _ZIP = b"\x80", b"PK\x03\x04"
_ARCHIVE_ERRORS = (zipfile.BadZipFile, OSError, ValueError, RuntimeError, NotImplementedError)


class ProgramArchive:
    """The entries of one archive, whose names begin with its own.

    Parameters
    ----------
    path : path

    Raises
    ------
    Refused
        If it is no such archive, or one of another kind, which can run code.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path, size = check_readable_file(path)
        self.printable_name = make_printable(str(self.path))
        _check_kind(self)
        try:
            with zipfile.ZipFile(self.path) as file:
                entries = file.infolist()
        except _ARCHIVE_ERRORS as error:
            raise self.broken(describe_exception(error)) from None
        self._entries = {item.filename: item for item in entries}
        if len(entries) > MAX_ARCHIVE_ENTRIES or len(self._entries) != len(entries):
            raise self.broken("it has too many entries, or two of one name")
        _check_entries(self, entries, size)
        self._root = self._find_root()

    def names(self) -> list[str]:
        """List the entries, without the archive's own name."""
        return [name.removeprefix(self._root) for name in self._entries]

    def size(self, name: str) -> int:
        """Count the bytes of an entry; raises Refused if it is not there."""
        return self._entry(name).file_size

    def raw(self, name: str) -> bytes:
        """Read an entry.

        Raises
        ------
        Refused
            If it is not there, or damaged.
        """
        entry = self._entry(name)
        try:
            with zipfile.ZipFile(self.path) as file:
                return file.read(entry)
        except _ARCHIVE_ERRORS as error:
            raise self.broken(describe_exception(error)) from None

    def json(self, name: str) -> dict[str, Any]:
        """Read an entry as JSON; raises Refused if it is no JSON of usual size."""
        if self.size(name) > MAX_TEXT_BYTES:
            raise self.broken(f"its {name} is far longer than that of a network")
        try:
            data = json.loads(self.raw(name))
        except (ValueError, RecursionError) as error:
            raise self.broken(f"its {name} is no JSON: {describe_exception(error)}") from None
        if not isinstance(data, dict):
            raise self.broken(f"its {name} holds something else than a program")
        return data

    def broken(self, why: str) -> Refused:
        """Say no, and why."""
        return Refused(refusal("network-broken", path=self.printable_name, why=why[:300]))

    def _entry(self, name: str) -> zipfile.ZipInfo:
        entry = self._entries.get(self._root + name)
        if entry is None:
            raise self.broken(f"it lacks {make_printable(name)[:100]}")
        return entry

    def _find_root(self) -> str:
        """Give what all names begin with: the archive's own name, and a slash."""
        ends = "models/model.json"
        roots = [name.removesuffix(ends) for name in self._entries if name.endswith("/" + ends)]
        if len(roots) == 1:
            return roots[0]
        if any(name.endswith("/constants.pkl") for name in self._entries):
            kind = "a TorchScript program"
        elif any(name.endswith("data.pkl") for name in self._entries):
            kind = "a pickle of PyTorch"
        elif "serialized_exported_program.json" in self._entries:
            raise self.broken(PICKLED_REASON)
        else:
            why = "it is another kind of archive"
            raise Refused(refusal("network-foreign", path=self.printable_name, why=why))
        raise Refused(refusal("network-type", path=self.printable_name, kind=kind))


def _check_kind(archive: ProgramArchive) -> None:
    """Say no to what the name or the first bytes tell to be no program."""
    kind = FOREIGN_FORMATS.get(archive.path.suffix.lower())
    try:
        with archive.path.open("rb") as file:
            first = file.read(4)
    except OSError as error:
        facts = {"path": archive.printable_name, "why": describe_exception(error)}
        raise Refused(refusal("file-unreadable", **facts)) from None
    if kind is None and first[:1] == _PICKLE:
        kind = "a pickle"
    if kind is not None:
        raise Refused(refusal("network-type", path=archive.printable_name, kind=kind))
    if first != _ZIP:
        why = "it is no archive, or its beginning is lost"
        raise Refused(refusal("network-foreign", path=archive.printable_name, why=why))


def _check_entries(archive: ProgramArchive, infos: list[zipfile.ZipInfo], size: int) -> None:
    """Say no to names that lead elsewhere, and to what would grow."""
    for info in infos:
        parts = info.filename.replace("\\", "/").split("/")
        if ".." in parts or info.filename.startswith(("/", "\\")) or ":" in parts[0]:
            raise archive.broken("the name of one of its entries leads out of it")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise archive.broken("part of it is compressed, which torch never does")
    if sum(item.file_size for item in infos) > size:
        raise archive.broken("its entries claim more bytes than it has")
