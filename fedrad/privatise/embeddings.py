"""Tables of static token embeddings: the input embeddings of a public model, one row a token of its vocabulary.

A table is never fitted to private text. Normalised once, it serves as the space in which mechanisms move a token, and
as what their result is decoded with.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from fedrad.errors import ModelError
from fedrad.model.base import load_base, locate
from fedrad.model.checkpoint import check_folder
from fedrad.settings import CHEST, EMBEDDED

Ids = npt.NDArray[np.int64]

_UNUSED = re.compile(r"\[unused\d+\]|<unused\d+>|<\|?(reserved|extra)[^>]*>", re.IGNORECASE)
_BLOCK = 64  # outputs in a block of the coarse search
_BLOCKS, _CANDIDATES = 4, 8  # blocks that are looked into, and outputs that are compared exactly


@dataclass(frozen=True, eq=False)
class Table:
    """Embeddings of a vocabulary of V tokens in d dimensions.

    Attributes:
        name: of the model.
        tokenizer: a fast transformers tokenizer.
        unit: rows of length one, [V, d], float32.
        norms: lengths that the rows had, [V].
        outputs: ids of the K tokens that a mechanism may answer: no special tokens, no unused ones.
        targets: their rows of ``unit``, [K, d].
        rough: the same in 8 bits, up to a factor, padded with zeros to whole blocks, for a coarse search; None: search
            exactly.
        fingerprint: SHA-256 (hex) of the rows and the vocabulary.
    """

    name: str
    tokenizer: Any
    unit: Tensor
    norms: Tensor
    outputs: Ids
    targets: Tensor
    rough: Tensor | None
    fingerprint: str

    @property
    def dimension(self) -> int:
        """d."""
        return self.unit.shape[1]

    def cosines(self, points: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """Of points [n, d] to all outputs, [n, K], times the points' lengths."""
        found: npt.NDArray[np.float32] = (torch.from_numpy(points).float() @ self.targets.T).numpy()
        return found

    def nearest(self, points: npt.NDArray[np.floating]) -> Ids:
        """Ids of the outputs with the largest cosine to each point [n, d]: [n].

        With ``rough``, a product of whole numbers picks the candidates and an exact one decides between them. Rarely,
        when two outputs are nearly as close as each other, it takes the second. That is post-processing, so it has no
        influence on a guarantee.
        """
        exact = torch.from_numpy(points).float()
        if self.rough is None:
            return self.outputs[(exact @ self.targets.T).argmax(1).numpy()]
        scores = torch._int_mm(_whole(exact, exact.abs().amax(1, keepdim=True), 63), self.rough.T)
        scores[:, len(self.outputs) :] = torch.iinfo(torch.int32).min
        blocks = scores.view(len(exact), -1, _BLOCK)
        best = blocks.amax(2).topk(min(_BLOCKS, blocks.shape[1]), sorted=False).indices
        inside = blocks.gather(1, best[:, :, None].expand(-1, -1, _BLOCK)).flatten(1)
        picked = inside.topk(_CANDIDATES, sorted=False).indices
        places = best.gather(1, picked // _BLOCK) * _BLOCK + picked % _BLOCK
        places = places.clamp_max(len(self.outputs) - 1)
        found = torch.bmm(self.targets[places], exact[:, :, None])[:, :, 0].argmax(1)
        return self.outputs[places.gather(1, found[:, None])[:, 0].numpy()]

    def nearest_raw(self, points: npt.NDArray[np.floating]) -> Ids:
        """Ids of the outputs whose rows, before they were normalised, have the smallest Euclidean distance: [n]."""
        lengths = self.norms[torch.from_numpy(self.outputs)]
        scores = torch.from_numpy(points).float() @ self.targets.T * lengths - lengths**2 / 2
        return self.outputs[scores.argmax(1).numpy()]

    def vector(self, text: str) -> npt.NDArray[np.float32]:
        """The direction of a text: the mean of its tokens' embeddings, normalised, [d].

        Raises:
            ModelError: the text has no token.
        """
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if not ids:
            raise ModelError("the task has no word that the vocabulary knows: describe it in a few words.")
        mean = (self.unit[ids] * self.norms[ids][:, None]).mean(0)
        found: npt.NDArray[np.float32] = (mean / mean.norm()).numpy()
        return found


def load_table(name: str = EMBEDDED, revision: str = "", coarse: bool | None = None) -> Table:
    """The input embeddings of a model.

    Args:
        name: ``all-MiniLM-L6-v2`` or ``chest-minilm`` (embedded), a hub id, or a local folder; encoders and decoders.
        revision: commit of a hub id.
        coarse: search in 8 bits first; None: where that takes half the time, on processors with AVX2.

    Raises:
        ModelError: the model can't be loaded, has code of its own, or its tokenizer doesn't fit its table.
    """
    if name in (EMBEDDED, CHEST):
        base = load_base(name)
        return make_table(name, base.tokenizer, base.module.get_input_embeddings().weight.detach(), coarse)  # type: ignore[operator]
    source = locate(name)
    options: dict[str, Any] = {"trust_remote_code": False}
    if Path(source).is_dir():
        check_folder(name, Path(source))
    elif revision:
        options["revision"] = revision
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        module = AutoModel.from_pretrained(source, use_safetensors=True, dtype=torch.float32, **options)
        weight = module.get_input_embeddings().weight.detach()
    except Exception as error:  # transformers, tokenizers and safetensors raise errors of many types
        raise ModelError(
            f"the embeddings of {name!r} can't be loaded ({type(error).__name__}): it must be {EMBEDDED!r}, a hub id"
            " that can be reached or is in the cache, or a local folder with config.json, tokenizer files and"
            " model.safetensors."
        ) from error
    return make_table(name, tokenizer, weight, coarse)


def make_table(name: str, tokenizer: Any, weight: Tensor, coarse: bool | None = None) -> Table:
    """A table from embeddings [V, d]. Rows beyond the tokenizer's vocabulary, which pad the matrix, are left out.

    Raises:
        ModelError: the tokenizer is slow, knows more tokens than there are rows, or a row is not finite.
    """
    if not tokenizer.is_fast:
        raise ModelError(f"{name!r} needs a fast tokenizer (tokenizer.json): spans are found by its offsets.")
    size = len(tokenizer)
    if size > len(weight) or not bool(torch.isfinite(weight).all()):
        raise ModelError(f"{name!r}: its embeddings don't fit its tokenizer, or are not finite.")
    rows = weight[:size].float().contiguous()
    norms = rows.norm(dim=1)
    tokens = tokenizer.convert_ids_to_tokens(list(range(size)))
    special = set(tokenizer.all_special_ids)
    outputs = [
        k
        for k, (token, norm) in enumerate(zip(tokens, norms.tolist(), strict=True))
        if k not in special and token is not None and norm > 0 and not _UNUSED.fullmatch(token)
    ]
    digest = hashlib.sha256(repr(tokens).encode())
    digest.update(rows.numpy().data)
    unit = rows / norms.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    targets = unit[outputs]
    rough = None
    if _fast_bytes() if coarse is None else coarse:
        padded = torch.cat((targets, torch.zeros(-len(targets) % _BLOCK, targets.shape[1])))
        rough = _whole(padded, padded.abs().amax(), 127)
    ids = np.array(outputs, dtype=np.int64)
    return Table(name, tokenizer, unit, norms, ids, targets, rough, digest.hexdigest())


def _whole(rows: Tensor, largest: Tensor, most: int) -> Tensor:
    """Rows as whole numbers up to ``most``, for the entry ``largest``. Processors without VNNI add two products in 16
    bits, so one of two factors has at most 63."""
    return (rows * (most / largest.clamp_min(torch.finfo(torch.float32).tiny))).round().to(torch.int8)


def _fast_bytes() -> bool:
    return bool(torch.cpu.get_capabilities().get("avx2"))
