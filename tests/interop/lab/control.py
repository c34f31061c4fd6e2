"""The control: the same experiment with Mosquitto and its bridge in the gateway's place, so that a check is seen to fail."""

from .load import Sensors, Verifier
from .mosquitto import Mosquitto, MosquittoGateway


class Control:
    """A bridge whose upstream is away, with a verifier that has a session there."""

    def __init__(self, t, folder, upstream="", **bridge):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.upstream = Mosquitto(folder / "upstream").start()
        t.later(self.upstream.kill)
        self.upstream.config.write_text(self.upstream.config.read_text() + upstream)
        Verifier(folder, self.upstream.port, "control", keep_session=True).kill()
        self.upstream.stop()
        self.bridge = MosquittoGateway(folder / "bridge", self.upstream.port, **bridge).start()
        t.later(self.bridge.kill)

    def publish(self, name="control-sensors", **options):
        """Publishes; gives the result and what was acknowledged."""
        sensors = Sensors(self.folder, self.bridge.port, name, **options)
        return sensors.result(), sensors.journal

    def delivered(self, *journals, idle=3):
        """The upstream comes back; what of the journals it gets."""
        self.upstream.start()
        verifier = Verifier(self.folder, self.upstream.port, "control", resumed=True, keep_session=True, idle=idle)
        return verifier.expect(*journals)
