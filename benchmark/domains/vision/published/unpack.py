"""Archives of published data sets into a folder: zip, tar and gzip here, rar by a program of the machine."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from benchmark.common.errors import UserError, shown
from benchmark.common.escapes import printable
from benchmark.common.files import check_regular, open_regular
from benchmark.domains.vision.archives import COPY_AGAIN, why

#: Programs that unpack a rar, with their arguments for an archive and the folder that takes its content.
UNRAR: dict[str, Callable[[str, str], list[str]]] = {
    "unar": lambda archive, place: ["-quiet", "-no-directory", "-output-directory", place, archive],
    "bsdtar": lambda archive, place: ["-x", "-f", archive, "-C", place],
    "7zz": lambda archive, place: ["x", "-y", "-bso0", f"-o{place}", archive],
    "7z": lambda archive, place: ["x", "-y", "-bso0", f"-o{place}", archive],
    "unrar": lambda archive, place: ["x", "-y", "-idq", archive, f"{place}/"],
}


def unpack(archive: Path, place: Path) -> None:
    """The content of an archive in the folder ``place``. Raises UserError where it is damaged or leads outside."""
    try:
        if archive.suffix == ".rar":
            _unpack_rar(archive, place)
            return
        with open_regular(archive) as opened:
            if archive.name.endswith(".zip"):
                with zipfile.ZipFile(opened) as zipped:
                    zipped.extractall(place)
            elif archive.name.endswith((".tar.gz", ".tgz")):
                with tarfile.open(fileobj=opened) as tar:
                    tar.extractall(place, filter="data")
            else:
                with gzip.open(opened) as packed, open(place / archive.stem, "xb") as plain:
                    shutil.copyfileobj(packed, plain)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise UserError(f"{shown(archive)} cannot be unpacked: {why(error)}", COPY_AGAIN) from None


def _unpack_rar(archive: Path, place: Path) -> None:
    check_regular(archive)
    program = next((name for name in UNRAR if shutil.which(name)), None)
    if program is None:
        raise UserError(
            f"{shown(archive)} is a rar archive, and none of the programs that unpack one is here: {', '.join(UNRAR)}",
            f"Install one (apt install unar, brew install unar) and type this again, or unpack it beside itself: "
            f"unar {archive.name}, or 7z x {archive.name}",
        )
    place.mkdir(parents=True, exist_ok=True)
    arguments = UNRAR[program](str(archive.resolve()), str(place.resolve()))
    done = subprocess.run([program, *arguments], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()[-1:]
        raise UserError(
            f"{program} could not unpack {shown(archive)}: {printable(said[0], 200) if said else done.returncode}",
            COPY_AGAIN,
        )
    if links := [path for path in place.rglob("*") if path.is_symlink()]:
        raise UserError(f"{shown(archive)} holds a link, {links[0].name}, which may lead outside", COPY_AGAIN)
