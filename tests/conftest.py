"""Options of the tests."""

import pytest
from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # the machine may be busy with other things
settings.load_profile("untimed")


def pytest_addoption(parser):
    parser.addoption(
        "--update-messages", action="store_true", help="Write tests/messages/*.txt anew, from what is raised now."
    )


@pytest.fixture
def update_messages(request):
    return request.config.getoption("--update-messages")
