"""Every finding that a patient can have, by name."""

from __future__ import annotations

from fedrad.data.synthetic.chest import BONES, DEVICES, HEART, PLEURA
from fedrad.data.synthetic.lungs import LESIONS, OPACITIES
from fedrad.data.synthetic.phrases import Finding
from fedrad.data.synthetic.unlabelled import OTHERS

FINDINGS: dict[str, Finding] = {**OPACITIES, **LESIONS, **HEART, **PLEURA, **BONES, **DEVICES, **OTHERS}
