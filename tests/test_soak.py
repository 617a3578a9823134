"""A short soak; `python dev.py soak` makes a long one."""

from __future__ import annotations

import os
from pathlib import Path

from development import soak


def test_workflows_succeed_against_a_server_that_fails_at_random(tmp_path: Path) -> None:
    soak.check(tmp_path, int(os.environ.get("SOAK_WORKFLOWS", "20")), seed=3)
