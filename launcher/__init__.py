"""Step + profile + inputs -> plan -> engine -> record."""
