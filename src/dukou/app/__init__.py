"""The composition root: the only room that knows all others.

`server` is the supervisor's process, `worker` and `host` a worker's, `passing` the child that packs, `embed` the engine
inside somebody's program. Import from these: each needs other libraries, and a start has no time for all of them.
"""
