"""Fixtures that several test files need."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden numbers, real data and the tokenizer that lies beside the checkout, where it does."""
    if not SHARED.is_dir():
        pytest.skip("../shared is not there: golden numbers and real data cannot be checked")
    return SHARED
