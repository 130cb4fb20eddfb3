"""Every law of `laws.py` holds."""

import pytest
from laws import LAWS


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_law(law):
    law()
