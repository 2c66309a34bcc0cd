"""Every scenario is told in every framework."""

import pytest
from tests.frameworks.scenarios import SCENARIOS, SYSTEMS, told


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_scenario_is_told(scenario, system):
    assert told(system)[scenario], f"{SYSTEMS[system]} has no test_{scenario}_...: {SCENARIOS[scenario]}"
