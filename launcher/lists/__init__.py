"""Steps, profiles and configurations as people read them."""
