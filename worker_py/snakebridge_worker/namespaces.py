"""The namespaces of sessions: what their ``exec`` and ``eval`` run in, like a module each."""

from __future__ import annotations

import builtins
import linecache
import sys
from collections import OrderedDict
from itertools import count
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

#: Texts whose code and source lines are kept, the latest: a loop runs the same few.
_MOST_TEXTS = 256
#: What finalizers of other objects need.
_NEEDED_BY_OTHERS = (BuiltinFunctionType, FunctionType, ModuleType, type)


class Namespace:
    """The globals of one session, and the sources of what ran in it.

    It is a module that can be imported by its name, since dataclasses, typing and pickle look there
    for the names of a class.
    """

    __slots__ = ("module", "_texts", "_next")

    def __init__(self, number: int) -> None:
        self.module = ModuleType(f"__snakebridge_{number}__")
        self.module.__dict__["__builtins__"] = builtins
        self._texts: OrderedDict[tuple[str, str], CodeType] = OrderedDict()
        self._next = count(1).__next__

    def open(self) -> None:
        """Makes it known by its name; doing so twice changes nothing."""
        sys.modules[self.module.__name__] = self.module

    def exec(self, text: str) -> None:
        """Runs statements."""
        exec(self._compiled(text, "exec"), self.module.__dict__)

    def eval(self, text: str) -> Any:
        """The value of an expression. Raises what Python does, as SyntaxError for anything else."""
        # Python's own ``eval`` passes these over as well, which ``compile`` does not.
        return eval(self._compiled(text.lstrip(" \t"), "eval"), self.module.__dict__)

    def close(self) -> None:
        """Lets all of it go.

        Functions hold the globals that hold them, so these wait for the garbage collector. What is
        large goes at once, the latest first, while the functions and modules that its finalizers
        may use are still there.
        """
        sys.modules.pop(self.module.__name__, None)
        names = self.module.__dict__
        for name in reversed(list(names)):
            if name != "__name__" and not issubclass(type(names.get(name)), _NEEDED_BY_OTHERS):
                names.pop(name, None)
        for code in self._texts.values():
            linecache.cache.pop(code.co_filename, None)
        self._texts.clear()

    def _compiled(self, text: str, mode: str) -> CodeType:
        """The code of a text, whose lines tracebacks show."""
        kept = self._texts.get((text, mode))
        if kept is None:
            file = f"<{mode} {self._next()} of {self.module.__name__}>"
            code = compile(text, file, mode, dont_inherit=True)
            # Another thread may have been at it too. Each step is one operation, whole under the GIL.
            kept = self._texts.setdefault((text, mode), code)
            if kept is code:
                # Without a time it is never looked for on the disk.
                linecache.cache[file] = (len(text), None, text.splitlines(True), file)
            if len(self._texts) > _MOST_TEXTS:
                _, oldest = self._texts.popitem(last=False)
                linecache.cache.pop(oldest.co_filename, None)
        return kept
