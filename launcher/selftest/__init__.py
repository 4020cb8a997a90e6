"""`launch selftest`: which steps, in which order (`course`), on which inputs (`materials`); `trial`, `attesting`."""
