"""Cases of which the default suite takes a part, whose whole is in the slow one."""

import pytest


def marked_slow(cases, *, but):
    """The cases, all marked slow but those of a covering set."""
    assert set(but) <= set(cases)
    return [case if case in but else slow(*(case if isinstance(case, tuple) else (case,))) for case in cases]


def slow(*values):
    """The values of one case, marked slow."""
    return pytest.param(*values, marks=pytest.mark.slow)


def asked_for(request, name, cases):
    """Those of the cases that selected tests of a file take as parameter `name`: a fixture has no need to make more."""
    items = (item for item in request.session.items if item.path == request.path and hasattr(item, "callspec"))
    wanted = {item.callspec.params.get(name) for item in items}
    return [case for case in cases if case in wanted]
