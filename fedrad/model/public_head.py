"""The head of a public base, in ``head.safetensors``: its last layer, and mean and principal directions of its
features.

A public base classifies the labels of generated reports before any private step. All of this comes from public text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fedrad.errors import ModelError

HEAD_FILE = "head.safetensors"
_LABELS = "labels"


@dataclass(frozen=True, eq=False)
class PublicHead:
    """A linear layer on the mean-pooled vector, and the principal axes of that vector on generated text.

    Attributes:
        labels: collection of labels -> the labels of its rows, in order.
        weight, bias: by collection: [L, d] and [L]; logits are ``pooled @ weight.T + bias``.
        mean: [d], of the pooled vectors.
        directions: [k, d], orthonormal principal directions, largest spread first.
        spread: [k], standard deviation along each.
    """

    labels: Mapping[str, tuple[str, ...]]
    weight: Mapping[str, Tensor]
    bias: Mapping[str, Tensor]
    mean: Tensor
    directions: Tensor
    spread: Tensor

    def save(self, path: Path) -> None:
        """Writes the file."""
        tensors = {"mean": self.mean, "directions": self.directions, "spread": self.spread}
        for which in self.labels:
            tensors |= {f"{which}.weight": self.weight[which], f"{which}.bias": self.bias[which]}
        save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()},
            path,
            metadata={"format": "pt", _LABELS: json.dumps({key: list(names) for key, names in self.labels.items()})},
        )

    @staticmethod
    def in_folder(folder: Path) -> PublicHead | None:
        """The head in a base model's folder, or None.

        A file of that name may be something else, such as the last layer of a merged adapter; it is ignored.

        Raises:
            ModelError: as ``read``; also if the file is damaged.
        """
        path = folder / HEAD_FILE
        if not path.is_file():
            return None
        with suppress(OSError, SafetensorError), safe_open(path, framework="pt") as file:
            if _LABELS not in (file.metadata() or {}) and {"mean", "directions", "spread"}.isdisjoint(file.keys()):
                return None
        return PublicHead.read(path)

    @staticmethod
    def read(path: Path) -> PublicHead:
        """Reads the file.

        Raises:
            ModelError: it can't be read, lacks a tensor, has a wrong shape, or is not finite.
        """
        try:
            with safe_open(path, framework="pt") as file:
                labels = {key: tuple(names) for key, names in json.loads(file.metadata()[_LABELS]).items()}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # no mapping
            head = PublicHead(
                labels,
                {which: tensors[f"{which}.weight"] for which in labels},
                {which: tensors[f"{which}.bias"] for which in labels},
                tensors["mean"],
                tensors["directions"],
                tensors["spread"],
            )
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelError(
                f"{path} can't be read as the head of a public base ({type(error).__name__}): build the base again"
                " with `fedrad base build`."
            ) from error
        head._check(path)
        return head

    def _check(self, path: Path) -> None:
        d = self.mean.shape[0] if self.mean.dim() == 1 else -1
        k = self.directions.shape[0] if self.directions.dim() == 2 else -1
        shapes = {"directions": (self.directions, (k, d)), "spread": (self.spread, (k,))}
        for which, names in self.labels.items():
            shapes |= {
                f"{which}.weight": (self.weight[which], (len(names), d)),
                f"{which}.bias": (self.bias[which], (len(names),)),
            }
        wrong = [name for name, (tensor, shape) in shapes.items() if tuple(tensor.shape) != shape]
        wrong += [name for name, (tensor, _) in shapes.items() if not bool(torch.isfinite(tensor).all())]
        if wrong or d < 1 or not bool(torch.isfinite(self.mean).all()):
            raise ModelError(f"{path}: {', '.join(sorted(set(wrong))) or 'mean'} has a wrong shape or is not finite.")
