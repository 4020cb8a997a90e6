"""The nouns that everything above shares: arguments, what was asked for and seen, the plan, GPUs."""
