"""
When the certificates of private authorities end.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from ferry.app.metrics.certificates import VARIABLE, authority_ends

BUNDLE = Path(__file__).parents[1] / "corpus" / "authorities.pem"


def test_each_authority_ends_when_its_last_certificate_does():
    """
    Town Root has one of 2028 and one of 2036; Village's has no common name.
    """
    ends = authority_ends({VARIABLE: str(BUNDLE)})
    assert {name: datetime.fromtimestamp(end, UTC).date().isoformat() for name, end in ends.items()} == {
        "Town Root": "2036-11-24",
        "Village": "2026-12-27",
    }


@pytest.mark.parametrize("bundle", ["", "/dev/null", "/nowhere/ca.crt", __file__])
def test_without_certificates_none_ends(bundle):
    assert authority_ends({VARIABLE: bundle}) == {}
    assert authority_ends({}) == {}
