"""From pins to images: matrix -> lock -> Dockerfile -> image."""
