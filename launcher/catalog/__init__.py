"""What there is to choose from: steps, their releases, profiles. Read from files, nothing looked at."""
