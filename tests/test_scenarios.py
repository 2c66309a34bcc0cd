"""Every scenario is told in every framework."""

import pytest
from tests.frameworks.scenarios import PAGES, SCENARIOS, SYSTEMS, headings, told


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_scenario_is_told(scenario, system):
    assert told(system)[scenario], f"{SYSTEMS[system]} has no test_{scenario}_...: {SCENARIOS[scenario]}"


@pytest.mark.parametrize("system", PAGES)
def test_the_pages_have_the_same_sections(system):
    assert [heading[3:].partition(".")[0].lower() for heading in headings(system)] == list(SCENARIOS)
    assert headings(system) == headings("PyTorch")
