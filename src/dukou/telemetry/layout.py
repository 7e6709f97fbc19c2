"""Where each count is in a worker's file: a header and MOST_BLOCKS blocks of equal size, sparse on disk.

Every cell is 8 bytes, a double: whole numbers are exact up to 2^53, seconds to a nanosecond for three months of them.
The layout number changes with anything here, so that a file of another layout is not taken for one of this.
"""

from dukou.core.buckets import FINE_SECONDS, SECONDS
from dukou.core.entry import ENTRIES
from dukou.core.errors import Code

LAYOUT = 6
PREFIX = "counters-"
MOST_BLOCKS = 1024
MOST_SIZES = 128
"""So many batch sizes of a version have a row of their own; the ones that come first keep it."""

ROWS = tuple([2**exponent for exponent in range(21)])
"""Upper bounds of the batch size buckets, in rows; one more bucket takes what is larger."""

CODES = tuple(Code)
"""Errors are counted by Code, in this order."""

TIME_BUCKETS = len(SECONDS) + 1
FINE_BUCKETS = len(FINE_SECONDS) + 1
ROW_BUCKETS = len(ROWS) + 1
CELL_BYTES = 8

# The header: layout number, process id, Unix time less monotonic time, then for each block whose it is, 0 for nobody's.
PID = 1
OFFSET = 2
USED = 3
HEADER_CELLS = USED + MOST_BLOCKS

# A block begins with one group for each kind of call. Latencies are counted finer than they are told: rollouts are
# judged by them.
LATENCY = 0
RUNTIME = LATENCY + FINE_BUCKETS
LATENCY_SUM = RUNTIME + TIME_BUCKETS
QUEUE_SUM = LATENCY_SUM + 1
ENTRY_CELLS = QUEUE_SUM + 1

# What follows counts for all kinds of calls together. INPUT_SUM and OUTPUT_SUM add up (requests - 1) times an
# execution's times, so that a lone request leaves them alone: its times are in the row of its batch size.
QUEUE = len(ENTRIES) * ENTRY_CELLS
INPUT_SUM = QUEUE + TIME_BUCKETS
OUTPUT_SUM = INPUT_SUM + 1
ERRORS = OUTPUT_SUM + 1
ERROR_SUM = ERRORS + len(CODES)
UNSAID = ERROR_SUM + 1
FAILED_RUNS = UNSAID + 1
LAST = FAILED_RUNS + 1  # on the monotonic clock
PENDING = LAST + 1
COPIES_SENT = PENDING + 1
COPIES_DROPPED = COPIES_SENT + 1
RUNNING = COPIES_DROPPED + 1  # executions, where that is marked
CRASHES = RUNNING + 1  # those during which the worker died

# A row of a batch size: how many executions, and three times of them. Its size stands before it.
RUNS, INPUT, INFER, OUTPUT = range(4)
SIZE_CELLS = 1 + 4
SIZES = CRASHES + 1
OTHER_SIZES = SIZES + MOST_SIZES * SIZE_CELLS
OTHER_ROWS = OTHER_SIZES + 4
OTHER_BUCKETS = OTHER_ROWS + 1
BLOCK_CELLS = OTHER_BUCKETS + ROW_BUCKETS

BLOCK_BYTES = BLOCK_CELLS * CELL_BYTES
FILE_BYTES = HEADER_CELLS * CELL_BYTES + MOST_BLOCKS * BLOCK_BYTES


def start_of(block: int) -> int:
    """The first cell of a block."""
    return HEADER_CELLS + block * BLOCK_CELLS
