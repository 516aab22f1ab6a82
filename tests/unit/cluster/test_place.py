"""Where ranks meet."""

from hypothesis import given
from hypothesis import strategies as st

from ofa.cluster.place import PORTS, address, port


@given(st.integers(1, 10**7), st.integers(0, 200))
def test_a_start_of_a_job_has_a_port_of_its_own_that_all_tasks_find(job, restart):
    own = port(str(job), restart)
    assert PORTS[0] <= own < PORTS[1] and own == port(str(job), restart)
    again = {port(str(job), other) for other in range(restart, restart + 20)}
    assert len(again) > 15, "restarts meet elsewhere"


def test_a_name_that_the_network_knows_is_an_address():
    assert address("localhost") == "localhost"
