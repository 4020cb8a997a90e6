"""From arguments to what can be submitted: probe, resolve, check, plan, render."""
