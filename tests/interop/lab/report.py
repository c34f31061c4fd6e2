"""PASS and FAIL lines of one theme, its seed, and its exit code."""

import os
import random
import sys
import time
import traceback


class Theme:
    """One theme: `with Theme("name") as t: t.check("...", condition, "detail")`, at the end `N passed, N failed`."""

    def __init__(self, name):
        self.name = name
        self.passed = 0
        self.failed = 0
        self.seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(1 << 32))
        self.random = random.Random(self.seed)
        self.closing = []

    def __enter__(self):
        self.began = time.monotonic()
        print(f"== {self.name} (SEED={self.seed})", flush=True)
        return self

    def check(self, what, good, detail=""):
        """One PASS or FAIL line; gives back whether it passed."""
        self.passed += bool(good)
        self.failed += not good
        print(f"{'PASS' if good else 'FAIL'} {self.name}: {what}{f' ({detail})' if detail != '' else ''}", flush=True)
        return bool(good)

    def say(self, text):
        """A remark that is neither PASS nor FAIL."""
        print(f"     {text}", flush=True)

    def later(self, close):
        """Calls `close` at the end, also when the theme broke off; last registered, first called."""
        self.closing.append(close)
        return close

    def __exit__(self, kind, error, trace):
        if error is not None and not isinstance(error, SystemExit):
            traceback.print_exception(kind, error, trace, file=sys.stdout)
            self.check("runs to its end", False, f"{kind.__name__}: {error}")
        for close in reversed(self.closing):
            try:
                close()
            except Exception as problem:  # the others must still be closed
                self.check("cleans up", False, repr(problem))
        seconds = time.monotonic() - self.began
        print(f"{self.passed} passed, {self.failed} failed ({self.name}, {seconds:.0f} s)", flush=True)
        sys.stdout.flush()
        sys.exit(1 if self.failed or not self.passed else 0)
