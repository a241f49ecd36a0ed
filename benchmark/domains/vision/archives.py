"""Archives that hold a data set: zips of class folders, and the tars of the webdataset format.

`datasets` takes a zip's own folder for the class of every image in it, and a tar whose names have dots for one sample
with as many columns as there are files.
"""

from __future__ import annotations

import functools
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from benchmark.common.errors import UserError
from benchmark.common.files import check_regular, open_regular

COPY_AGAIN = "Fetch or copy the files again."
# Samples of a tar whose names are looked at: those by which `datasets` decides on the columns.
FIRST_SAMPLES = 5


def why(error: Exception) -> str:
    """What an exception says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


@functools.cache
def image_suffixes() -> frozenset[str]:
    """The ends of names, lower case and with their dot, of the formats that Pillow reads."""
    from PIL import Image

    return frozenset(end for end, name in Image.registered_extensions().items() if name in Image.OPEN)


def zipped_images(file: Path) -> list[tuple[zipfile.ZipInfo, str]]:
    """``(member, class)`` of every image in a zip of class folders, by name; hidden files are no images.

    The folders may stand at the top or in one folder named as the zip is.
    Raises UserError for a file that is no zip, or images outside of class folders.
    """
    try:
        check_regular(file)
        with zipfile.ZipFile(file) as opened:
            listed = sorted((i for i in opened.infolist() if not i.is_dir()), key=lambda info: info.filename)
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{file} cannot be read: {why(error)}", COPY_AGAIN) from None
    members = []
    for info in listed:
        path = PurePosixPath(info.filename)
        if path.suffix.lower() not in image_suffixes() or any(part.startswith((".", "__")) for part in path.parts):
            continue
        inside = path.parts[1:] if path.parts[0] == file.stem else path.parts
        if len(inside) < 2:
            raise UserError(f"{file}: {info.filename} stands in no class folder", "Expected CLASS/*.png in the zip.")
        members.append((info, inside[-2]))
    return members


def read_members(file: Path, members: list[tuple[zipfile.ZipInfo, str]]) -> Iterator[tuple[bytes | None, str]]:
    """``(content, "")`` of each member, or ``(None, why it cannot be read)``."""
    with zipfile.ZipFile(file) as opened:
        for info, _ in members:
            try:
                yield opened.read(info), ""
            except Exception as error:  # a foreign archive: a wrong checksum, a cut stream, a password
                yield None, why(error)


def check_tar_names(file: Path) -> None:
    """Raise UserError for a tar whose first samples hold several images each."""
    seen: dict[str, str] = {}
    try:
        check_regular(file)
        with tarfile.open(file) as opened:
            for member in opened:
                folder, name = str(PurePosixPath(member.name).parent), PurePosixPath(member.name).name
                stem, dot, ends = name.partition(".")
                sample = f"{folder}/{stem}"
                if not (member.isfile() and stem and dot):
                    continue
                if f".{ends.rpartition('.')[2].lower()}" in image_suffixes():
                    if sample in seen:
                        raise UserError(
                            f"{file}: the images {seen[sample]} and {name} are one sample, {stem!r}: in a webdataset "
                            "a sample's name ends at its first dot",
                            f"Expected one image a sample: write {stem}_{ends.replace('.', '_', ends.count('.') - 1)} "
                            "and so on.",
                        )
                    if len(seen) == FIRST_SAMPLES:
                        return
                    seen[sample] = name
    except (tarfile.TarError, OSError, EOFError):
        return  # what reads its samples names it


def tar_ends(file: Path) -> bool:
    """Whether a tar ends with its two blocks of zeros (or is compressed); one cut between two members has none."""
    with open_regular(file) as opened:
        plain = opened.read(tarfile.BLOCKSIZE)[257:262] == b"ustar"
        opened.seek(max(0, file.stat().st_size - 2 * tarfile.BLOCKSIZE))
        return not (plain and any(opened.read()))


def unreadable(file: Path) -> str | None:
    """Why a parquet file, a zip or a tar cannot be listed; None where it can, and for other files."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        check_regular(file)
        if file.suffix.lower() == ".parquet":
            pq.read_schema(file)
        elif file.suffix.lower() == ".zip":
            zipfile.ZipFile(file).close()
        elif file.suffix.lower() == ".tar":
            with tarfile.open(file) as opened:
                opened.getmembers()
    except (pa.ArrowException, zipfile.BadZipFile, tarfile.TarError, OSError, EOFError) as error:
        return why(error)
    return None
