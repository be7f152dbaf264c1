"""A finished run as a folder for the Hugging Face hub: adapter, tokenizer, model card, certificates."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedrad.certificate.verify import read, verify
from fedrad.errors import CertificateError, ModelError
from fedrad.files import whole_folder
from fedrad.model.base import load_base
from fedrad.model.card import card, public_name
from fedrad.model.export import import_peft
from fedrad.model.folder import MANIFEST, adapter_folder
from fedrad.training.result import rounded_up

_PEFT = "adapter_config.json"


def export_run(
    run: Path, folder: Path, *, licence: str = "other", base_name: str = "", certificates: Sequence[Path] = ()
) -> None:
    """Writes the folder. It appears whole or not at all.

    Args:
        run: a finished run.
        folder: must not exist, or be empty.
        licence: of the adapter, as the hub names it.
        base_name: the hub id of the base model, where the run was trained on a local folder; default: the run's.
        certificates: those of real hospitals, beside the ones that lie in ``run``.

    Raises:
        ModelError: there is no adapter in ``run``, something is in ``folder``, or it can't be written.
        CertificateError: a certificate is refused, by its own figures or by what lies in ``run``.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelError(f"{folder} exists already; nothing is overwritten. Name another folder.")
    adapter = adapter_folder(run)
    manifest, _ = import_peft(adapter)
    files = [*sorted(run.glob("certificate*.json")), *certificates]
    for file in files:
        # Not for its code: the run may be older than what exports it.
        failed = [
            f"{found.what}: {found.words}"
            for found in verify(file, run=run)
            if found.verdict == "FAILED" and found.what != "code"
        ]
        if failed:
            raise CertificateError(f"{file} is refused, so nothing is exported: {'; '.join(failed)}")
    contents = [read(file)[1] for file in files]
    base = load_base(manifest.spec.name, manifest.spec.revision)
    base = replace(base, name=base_name or public_name(base.name))
    peft = json.loads((adapter / _PEFT).read_text(encoding="utf-8"))
    written = json.loads((adapter / MANIFEST).read_text(encoding="utf-8"))
    written["spec"]["name"] = base.name
    if base_name or peft["base_model_name_or_path"] == manifest.spec.name:
        peft["base_model_name_or_path"] = base.name
    text = card(
        replace(manifest, spec=replace(manifest.spec, name=base.name)),
        base,
        peft["target_modules"],
        licence=licence,
        privacy=_for_programs(contents),
        protection=protection(contents),
    )
    try:
        with whole_folder(folder) as partial:
            for file in adapter.glob("*.safetensors"):
                shutil.copyfile(file, partial / file.name)
            for name, values in ((_PEFT, peft), (MANIFEST, written)):
                (partial / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
            base.tokenizer.save_pretrained(partial)
            for file in files:
                shutil.copyfile(file, partial / file.name)
            (partial / "README.md").write_text(text, encoding="utf-8")
    except OSError as error:
        raise ModelError(f"the run can't be exported to {folder}: {error.strerror or error}.") from error


def protection(contents: Sequence[Mapping[str, Any]]) -> str:
    """What the certificates say, as Markdown: a row for each hospital, and what the weakest promises."""
    if not contents:
        return (
            "No certificate lies in the run. Each hospital writes its own, beside its ledger: ask for them, and check"
            " them with `fedrad certificate verify`."
        )
    head = "| hospital | epsilon | delta | unit | neighbouring data sets | accountant | noise |"
    rows = [
        f"| {content['site']} | {_epsilon(g['epsilon'])} | {rounded_up(g['delta'])} | {g['unit']} | {g['relation']} |"
        f" {g['rule']} | {g['noise']['source']}: {g['noise']['meaning']} |"
        for content in contents
        for g in [content["guarantee"]]
    ]
    weakest = _weakest(contents)
    said = weakest["statement"]
    parts = [
        "\n".join([head, "|---|---|---|---|---|---|---|", *rows]),
        f"What {weakest['site']}, the weakest of them, promises:" if len(contents) > 1 else "What is promised:",
        "\n".join(f"- {line}" for line in said["promised"]),
        "**What it does not protect:**",
        "\n".join(f"- {line}" for line in said["not_promised"]),
        "`fedrad certificate verify FILE` computes epsilon again from a certificate, and checks signature and digests.",
    ]
    return "\n\n".join(parts)


def _for_programs(contents: Sequence[Mapping[str, Any]]) -> dict[str, object] | None:
    if not contents:
        return None
    guarantee = _weakest(contents)["guarantee"]
    protects = guarantee["private"] and guarantee["noise"]["source"] == "system"
    return {
        "epsilon": guarantee["epsilon"],
        "delta": guarantee["delta"],
        "unit": guarantee["unit"],
        "relation": guarantee["relation"],
        "accountant": guarantee["rule"],
        "noise": guarantee["noise"]["source"],
        "protects": guarantee["unit"] if protects else "nobody",
    }


def _weakest(contents: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    def loss(content: Mapping[str, Any]) -> float:
        epsilon = content["guarantee"]["epsilon"]
        return float("inf") if epsilon is None else float(epsilon)

    return max(contents, key=loss)


def _epsilon(value: float | None) -> str:
    return "none" if value is None else rounded_up(value)
