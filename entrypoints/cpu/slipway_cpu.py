"""What the substitutions for CUDA share: a finder that waits for a library's modules and changes them.

A cpu image has this file in its site-packages, beside the hook of its library, which a .pth imports: so every
interpreter start pays for both, and only `sys` is imported here.
"""

import sys

SAID = "SLIPWAY_CPU_SAID"  # set once it is said: processes that inherit it need not say it again


class Finder:
    """Lets the other finders find a named module, and has its substitutions made after its own code has run.

    `substitutions`: module -> functions that get it; `also`: modules to be met besides. Where torch finds a CUDA device
    nothing is done; else `prepare` is called once, before the first named module, and `before` with each of them.
    """

    def __init__(self, library, substitutions, also=(), prepare=None, before=None, absent=""):
        self.library, self.substitutions, self.named = library, substitutions, {*substitutions, *also}
        self.prepare, self.before, self.absent = prepare, before, absent
        self.active = None  # whether torch finds no CUDA device; None before the first module that asks
        sys.meta_path.insert(0, self)

    def find_spec(self, name, path=None, target=None):
        if name not in self.named:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    self._hook(spec.loader)
                return spec
        return None

    def _hook(self, loader):
        """`loader` belongs to this one module: what is set on it reaches no other."""
        run = loader.exec_module

        def exec_module(module):
            active = self._activate()
            if active and self.before:
                self.before(module)
            run(module)
            for substitution in self.substitutions.get(module.__name__, ()) if active else ():
                substitution(module)

        loader.exec_module = exec_module

    def _activate(self):
        if self.active is None:
            import torch  # every named module does so, or is imported by one that has

            self.active = not torch.cuda.is_available()
            if self.active:
                if self.prepare:
                    self.prepare()
                self._say()
        return self.active

    def _say(self):
        import os

        if os.environ.get("RANK", "0") == "0" and SAID not in os.environ:
            names = ", ".join(s.__name__ for group in self.substitutions.values() for s in group)
            text = f"no CUDA device: {self.library} runs with substitutions ({names}){self.absent}"
            print(f"slipway: {text}", file=sys.stderr, flush=True)
        os.environ[SAID] = "1"


def taker(hook, library):
    """A function (module, name) that returns the attribute, or raises ImportError by the hook's name and its library's
    version."""

    def take(module, name):
        if not hasattr(module, name):
            what = f"{module.__name__} has no {name!r}; these substitutions are for {library}"
            raise ImportError(f"{hook}: {what}")
        return getattr(module, name)

    return take


def cpu():
    """torch's device."""
    import torch

    return torch.device("cpu")
