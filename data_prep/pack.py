"""Best-fit packing of segments into rows, per shard.

Longest first, each segment goes to the fullest row that still has room for it. The rows' free places are kept as the
bits of one integer, so finding that row takes one shift and one bit scan, and a shard of 100,000 segments packs in a
fraction of a second. Bin completion would fill the last half per cent at many times the cost.
"""

from __future__ import annotations

from collections.abc import Sequence


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of the segments of each row; a row's lengths sum to at most `capacity`.

    The result depends on the lengths alone; equal lengths keep their order.

    Args:
        lengths: Of each segment, between 1 and `capacity`.
    """
    rows: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(capacity + 1)]  # free places -> rows
    occupied = 0  # bit r: some row has r free places
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        length = lengths[index]
        assert 0 < length <= capacity, (length, capacity)
        fitting = occupied >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = with_room[room].pop()
            if not with_room[room]:
                occupied &= ~(1 << room)
        else:
            room, row = capacity, len(rows)
            rows.append([])
        rows[row].append(index)
        left = room - length
        if left:
            with_room[left].append(row)
            occupied |= 1 << left
    return rows
