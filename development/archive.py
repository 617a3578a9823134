"""The archive that the registry gets, made as its command line makes it.

That is every file that git tracks, less what `.comfyignore` names in the language of `.gitignore`.
"""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

from development.package import ROOT

IGNORE_FILE = ".comfyignore"


def archived_files(root: Path = ROOT) -> list[str]:
    """The paths of the archive, with forward slashes. Raises CalledProcessError outside of a git repository."""
    ignored = set(tracked_files(root, "--ignored", f"--exclude-from={IGNORE_FILE}"))
    return [path for path in tracked_files(root) if path not in ignored]


def write_archive(archive: Path, root: Path = ROOT) -> Path:
    """Write the archive and return its path."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in archived_files(root):
            file.write(root / path, path)
    return archive


def tracked_files(root: Path = ROOT, *options: str) -> list[str]:
    """The paths that git tracks. Raises CalledProcessError outside of a git repository."""
    command = ["git", "ls-files", "-z", "--cached", *options]
    listed = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE)
    return [path for path in listed.stdout.decode().split("\0") if path]
