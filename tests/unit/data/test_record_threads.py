"""Records are decoded by several threads at once."""

import gc
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np

from ofa.data.records import read_record
from tests.unit.data.test_shards import make_corpus, some_rows


@contextmanager
def threads_that_change_everywhere():
    """Another thread goes on wherever Python makes an object.

    Python's own parser of literals fails when two threads are in it (python/cpython#106905, Python 3.11), and
    collections of garbage with a callback are where it changes threads.
    """

    def give_way(phase, info):
        for _ in range(50):
            pass

    interval, thresholds = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(1e-6)
    gc.set_threshold(1)
    gc.callbacks.append(give_way)
    try:
        yield
    finally:
        gc.callbacks.remove(give_way)
        gc.set_threshold(*thresholds)
        sys.setswitchinterval(interval)


def test_records_are_decoded_by_several_threads_at_once(tmp_path):
    records = make_corpus(tmp_path / "corpus", some_rows()).split("train").records
    alone = [read_record(record) for record in records]
    with threads_that_change_everywhere(), ThreadPoolExecutor(4) as threads:
        together = list(threads.map(read_record, records * 200))
    for index, rows in enumerate(together):
        np.testing.assert_array_equal(rows.tokens, alone[index % len(alone)].tokens)
