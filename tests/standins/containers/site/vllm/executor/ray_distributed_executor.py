def start(python: str = "") -> str:
    return python


STARTED = start()
