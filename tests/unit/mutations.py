"""Hypothesis strategies for wrong input: any JSON, one thing changed in a JSON value, one place changed in bytes."""

import copy

from hypothesis import strategies as st

numbers = st.one_of(
    st.integers(-3, 70),
    st.sampled_from([0, -1, 2**31, 2**63 - 1, 2**63, -(2**64), 10**30]),
    st.floats(allow_nan=True, allow_infinity=True),
)
texts = st.text(max_size=8) | st.sampled_from(["", "8", "true", "/", "\0"])
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
"""What JSON can hold, and what Python's reader of it lets through."""


def places(value, path=()):
    """Every path inside a JSON value, outermost first."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from places(one, (*path, key))


def at(value, path):
    """What stands at a path."""
    for key in path:
        value = value[key]
    return value


@st.composite
def mutated(draw, original):
    """(a copy of a JSON value with one thing changed, the path of the change)."""
    value = copy.deepcopy(original)
    path = draw(st.sampled_from([path for path in places(value) if path]))
    parent, key = at(value, path[:-1]), path[-1]
    operation = draw(st.sampled_from(["replace", "replace", "nudge", "remove", "add", "wrap"]))
    if operation == "remove":
        del parent[key]
    elif operation == "add" and isinstance(parent, dict):
        path = (*path[:-1], draw(st.text(max_size=6)))
        parent[path[-1]] = draw(values)
    elif operation == "wrap":
        parent[key] = draw(st.sampled_from([[parent[key]], {"value": parent[key]}]))
    elif operation == "nudge" and isinstance(parent[key], int | float):
        parent[key] += draw(st.sampled_from([-1, 1]))
    else:
        parent[key] = draw(values)
    return value, path


@st.composite
def damaged(draw, original):
    """Bytes that differ from the original in one place: flipped, cut off, left out or put in."""
    place = draw(st.integers(0, len(original) - 1))
    operation = draw(st.sampled_from(["flip", "cut", "remove", "insert", "swap"]))
    if operation == "cut":
        return original[:place]
    if operation == "remove":
        return original[:place] + original[place + draw(st.integers(1, 600)) :]
    if operation == "insert":
        return original[:place] + draw(st.binary(min_size=1, max_size=600)) + original[place:]
    changed = bytearray(original)
    if operation == "flip":
        changed[place] ^= 1 << draw(st.integers(0, 7))
    else:
        width = draw(st.integers(1, 64))
        changed[place : place + width] = draw(st.binary(min_size=width, max_size=width))[: len(original) - place]
    return bytes(changed)
