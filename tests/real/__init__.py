"""Tests against real engines. A package, so that what they share is no other module's namesake."""
