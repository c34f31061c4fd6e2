"""An upstream that comes and goes: Mosquitto, a proxy in front of it, and a verifier that listens whenever messages can come.

Mosquitto's own bookkeeping across restarts is not what is tested here. So before it is stopped the gateway's connections are cut and
everything it acknowledged has reached the verifier; and the gateway is let in again only when the verifier is back.
"""

from .load import Verifier
from .mosquitto import Mosquitto
from .process import free_port, wait_for
from .proxy import Proxy


class Upstream:
    """`port` is where the gateway connects."""

    def __init__(self, theme, folder, name="upstream", **verifier):
        self.broker = Mosquitto(folder / name).start()
        theme.later(self.broker.stop)
        self.verifier = Verifier(folder, self.broker.port, f"verifier-{name}", keep_session=True, **verifier)
        self.proxy = Proxy(free_port(), self.broker.port)
        theme.later(self.proxy.close)
        self.port = self.proxy.port
        self.is_up = True

    def down(self):
        """The gateway's connections break, and nobody answers on the port's other side."""
        self.proxy.refusing = True
        self.proxy.cut()
        last = -1

        def quiet():
            nonlocal last
            before, last = last, self.verifier.status()["received"]
            return before == last

        wait_for("what it acknowledged has reached the verifier", quiet, 60, 0.2)
        self.broker.stop()
        self.is_up = False
        return self

    def up(self):
        """Mosquitto starts again from what it wrote, and the gateway may connect."""
        self.broker.start()
        wait_for("the verifier is back", lambda: self.verifier.status()["connected"], 20, 0.02)
        self.proxy.refusing = False
        self.is_up = True
        return self
