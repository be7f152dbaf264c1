"""These tests need a process in which the stand-in was known before anything was trained: torch's autograd counts the
devices once. `tests/test_device.py` starts it; by hand: FEDRAD_STAND_IN=1 python -m pytest tests/device
"""

from __future__ import annotations

import os

from tests.device import stand_in

collect_ignore_glob: list[str] = []
if os.environ.get("FEDRAD_STAND_IN"):
    stand_in.register()
else:
    collect_ignore_glob.append("test_*.py")
