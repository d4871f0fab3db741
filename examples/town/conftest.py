"""
The town's tests run the API and the worker's part in one process.
"""

import pytest

pytest_plugins = ["ferry.testing"]


@pytest.fixture
def ferry_settings():
    """
    Name the town's modules, and what they read.
    """
    return {"CFP_API_EXTENSIONS": "app worker", "TOWN_SECRET": "of-the-tests", "TOWN_SMTP": "127.0.0.1:25"}
