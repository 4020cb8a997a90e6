"""What a path really is, whether it is whole, and its fingerprint; and the hub that some come from."""
