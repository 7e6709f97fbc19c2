"""The composition root: the only room that knows all others. Import from its files: each needs other libraries, and a
start has no time for all of them.

- The supervisor's process: `server`, with `state` (its folder), `passing` (the child that packs), `ready`, `program`.
- The control plane in it: `controlling` puts it together and `control_plane` acts; `following` is what is declared and
  found (by `declare` or `model_config`), `operating` what is asked for, `judging` what rollouts have shown (by
  `measuring`); `blocks` says which counters are whose, `notices` what the log says once.
- A worker: `worker` and `host`, with `versions` (loads and lets go: `opening`, `warming`, `release`) and `taps`.
- A model process: `model_process`, which is `answering`.
- `dukou replay`: `replay`, with `traffic` and `side_by_side`.
- The engine inside somebody's program: `embed`.
"""
