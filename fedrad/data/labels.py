"""Label lists (``fedrad.corpora`` has them)."""

from __future__ import annotations

from fedrad.corpora import CHEXPERT as CHEXPERT
from fedrad.corpora import COLLECTIONS as COLLECTIONS
from fedrad.corpora import CT_RATE as CT_RATE
from fedrad.corpora import NO_OTHER_LABEL as NO_OTHER_LABEL
