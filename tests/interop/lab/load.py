"""Sensors and verifier: `loadgen` as a process that takes orders."""

import json
import os
import pathlib
import queue
import subprocess
import threading

from .process import Process, TookTooLong


class _Tool(Process):
    def __init__(self, log, words, options):
        argv = [os.environ["LOADGEN"], *words]
        for name, value in options.items():
            if value is True:
                argv.append(f"--{name.replace('_', '-')}")
            elif value is not None and value is not False:
                argv += [f"--{name.replace('_', '-')}", str(value)]
        super().__init__(argv, log, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.lines = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        for line in self.child.stdout:
            self.lines.put(line.strip())
        self.lines.put(None)

    def order(self, line):
        self.child.stdin.write(line + "\n")
        self.child.stdin.flush()

    def hear(self, seconds):
        try:
            line = self.lines.get(timeout=seconds)
        except queue.Empty:
            raise TookTooLong(f"not within {seconds:g} s: an answer of {' '.join(self.argv[:2])}") from None
        if line is None:
            raise RuntimeError(f"{' '.join(self.argv)} ended: {self.log()[-500:]}")
        return line


class Sensors(_Tool):
    """Publishers with numbered messages; what was acknowledged is in `journal` when they have ended."""

    def __init__(self, folder, port, name="sensors", **options):
        self.journal = pathlib.Path(folder) / f"{name}.journal"
        super().__init__(
            pathlib.Path(folder) / f"{name}.log", ["publish"],
            {"to": f"127.0.0.1:{port}", "journal": self.journal, **options},
        )

    def result(self, seconds=120):
        return json.loads(self.hear(seconds))

    def stop(self, seconds=120):
        """No new messages; waits for the acknowledgements of the others."""
        self.order("stop")
        return self.result(seconds)


class Verifier(_Tool):
    """A subscriber that keeps the books; returns when it is subscribed (a resumed session is subscribed already)."""

    def __init__(self, folder, port, name="verifier", resumed=False, **options):
        self.folder = pathlib.Path(folder)
        super().__init__(self.folder / f"{name}.log", ["verify"],
                         {"from": f"127.0.0.1:{port}", "client_id": name, **options})
        if not resumed and self.hear(30) != "ready":
            raise RuntimeError("the verifier did not subscribe")

    def status(self):
        self.order("status")
        return json.loads(self.hear(10))

    def expect(self, *journals, seconds=300):
        """Waits for everything in the journals, and gives the result."""
        journal = self.folder / "expected.journal"
        journal.write_text("".join(pathlib.Path(j).read_text() for j in journals))
        self.order(f"expect {journal}")
        return json.loads(self.hear(seconds))

    def count(self, messages, seconds=300):
        """Waits for so many different messages, and gives the result."""
        self.order(f"count {messages}")
        return json.loads(self.hear(seconds))


class Idle(_Tool):
    """Clients that are connected and say nothing; returns when all are."""

    def __init__(self, folder, port, clients, seconds=120, **options):
        super().__init__(pathlib.Path(folder) / "idle.log", ["idle"],
                         {"to": f"127.0.0.1:{port}", "clients": clients, **options})
        if self.hear(seconds) != "ready":
            raise RuntimeError("the idle clients did not connect")

    def stop(self, seconds=60):
        self.order("stop")
        return json.loads(self.hear(seconds))


class Sink(_Tool):
    """An upstream that is never the limit; `result` when it has taken so many messages."""

    def __init__(self, folder, port, count):
        super().__init__(pathlib.Path(folder) / "sink.log", ["sink"], {"listen": f"127.0.0.1:{port}", "count": count})

    def result(self, seconds=300):
        return json.loads(self.hear(seconds))


def check_delivery(theme, result, label, duplicates_allowed=True, new_ids_allowed=0):
    """Lost 0, out of order 0, duplicates counted and recognisable."""
    good = theme.check(f"{label}: lost 0 of {result['expected']}", result["lost"] == 0 and result["expected"] > 0,
                       result["lost_ranges"] or result["distinct"])
    good &= theme.check(f"{label}: out of order 0", result["out_of_order"] == 0 and result["ids_out_of_order"] == 0,
                        {k: result[k] for k in ("out_of_order", "ids_out_of_order")})
    counts = {k: v for k, v in result.items() if k.startswith("duplicates") or k == "id_conflicts"}
    fine = (result["duplicates_without_id"] == 0 and result["id_conflicts"] == 0
            and result["duplicates_new_id"] <= new_ids_allowed and (duplicates_allowed or result["duplicates"] == 0))
    good &= theme.check(f"{label}: {'every duplicate is recognisable' if duplicates_allowed else 'no duplicates'}",
                        fine, counts)
    return good
