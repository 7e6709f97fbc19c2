"""What was seen: observers (callables that take one Event) that count and log, what was counted as pages and sums, and
the recording of calls.
"""
