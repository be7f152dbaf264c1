"""SHA-256 of what a certificate is about, where it can be reached: weights, the answer that was sent, our own code."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path

from safetensors import SafetensorError, safe_open

import fedrad

PACKAGES = ("dp-accounting", "flwr", "numpy", "opacus", "peft", "torch", "transformers")


def weights_of(adapter: Path) -> dict[str, str]:
    """Of every file of weights in an adapter's folder, by name: with pooling ``mean`` the head is one of its own."""
    return {file.name: _sha256(file) for file in sorted(adapter.glob("*.safetensors"))}


def answer_in(directory: Path) -> tuple[str | None, str | None]:
    """What is kept of a site's last answer: its digest, by ``training.site.adapter_digest``, and how it left.

    Read here without torch, which takes seconds to import. None and "masked" (or "shared") of an answer that left under
    the masks of secure aggregation: nothing of it is kept, and under shared noise a digest of it would let a guess at
    the unprotected adapter be tested. None and None where nothing was answered, or the file can't be read.
    """
    digest = hashlib.sha256()
    try:
        with safe_open(directory / "round.safetensors", framework="np") as file:
            left = (file.metadata() or {})["left"]
            for name in sorted(key for key in file.keys() if key.startswith("reply/")):
                array = file.get_tensor(name)
                shape = tuple(array.shape)
                digest.update(f"{name.removeprefix('reply/')}|{shape}|torch.{array.dtype}|".encode())
                digest.update(array.tobytes())
    except (OSError, KeyError, SafetensorError):
        return None, None
    return (digest.hexdigest() if left == "clear" else None), left


def code() -> dict[str, object]:
    """Which fedrad this is: version, digest of its installed sources, and the versions of what it rests on."""
    return {
        "version": fedrad.__version__,
        "sources": _sources(Path(fedrad.__file__).parent),
        "packages": {name: version(name) for name in PACKAGES},
    }


def _sources(package: Path) -> str:
    """Of names and contents of all Python files. A wheel also holds the simulations' apps; a checkout has them
    elsewhere."""
    files = {file.relative_to(package).as_posix(): file for file in package.rglob("*.py")}
    digest = hashlib.sha256()
    for name in sorted(name for name in files if not name.startswith("simulations/")):
        digest.update(f"{name}|{_sha256(files[name])}|".encode())
    return digest.hexdigest()


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
