"""What an audit of a run found, from its ``audit.json``: the part that a certificate and a report repeat."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fedrad.errors import CertificateError

FILE = "audit.json"


def read_audits(directory: Path) -> list[dict[str, Any]]:
    """Each audit in ``audit.json``, by the names of the schema, without negative controls, whose path was broken on
    purpose; none where there is no such file.

    Raises:
        CertificateError: there is one, and it is none of an audit.
    """
    path = directory / FILE
    if not path.is_file():
        return []
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        return [_audit(entry) for entry in read["audits"] if not entry["broken"]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CertificateError(
            f"{path} can't be read as an audit ({type(error).__name__}). Audit the run again."
        ) from None


def _audit(entry: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": str(entry["kind"]),
        "view": str(entry["view"]),
        "epsilon": None if entry["epsilon"] is None else float(entry["epsilon"]),
        "delta": float(entry["delta"]),
        "bound": float(entry["bound"]),
        "confidence": float(entry["confidence"]),
        "canaries": int(entry["canaries"]),
    }
