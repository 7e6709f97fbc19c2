"""For tests, ours and yours: a clock that is set by hand, models made of functions."""
