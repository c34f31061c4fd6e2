"""Upstreams that refuse, stay silent, never acknowledge, acknowledge twice or backwards, talk garbage or show a wrong certificate:
the log names the cause, local clients never notice, and nothing is lost when a good upstream takes over the port."""

import json
import re
import ssl

from lab.gateway import Gateway, check_books
from lab.load import Sensors, Verifier, check_delivery
from lab.mosquitto import Mosquitto
from lab.papers import authority, certificate
from lab.process import free_port, wait_for, workspace
from lab.report import Theme
from lab.rogue import Rogue, take_over, without

CAUSES = {
    "refuses_login": r"(?i)user name or password|BadUserNamePassword|not author|refused|0x86",
    "says_nothing": r"(?i)time|connack",
    "never_acknowledges": r"(?i)progress|no acknowledg|nothing.{0,20}acknowledg",
    "acknowledges_twice": None,
    "acknowledges_backwards": None,
    "acknowledges_what_was_never_sent": r"(?i)unsolicited|unknown|unexpected|never sent|acknowledg|packet id",
    "sends_garbage_first": r"(?i)malformed|protocol|invalid|packet|payload|garbage",
    "sends_garbage_later": r"(?i)malformed|protocol|invalid|packet|payload|garbage",
    "hangs_up": r"(?i)closed|eof|aborted|reset",
}


def certificates(folder):
    """Two authorities, and a server certificate of each for localhost."""
    folder.mkdir()
    folder.chmod(0o755)
    for name in ("good", "evil"):
        authority(folder, f"{name}-ca")
        certificate(folder, f"{name}-ca", name, 2)
    return folder


def last_error(gateway, cause):
    """The uplink's last error in `/api/v1/status`, if it is this."""
    error = json.loads(gateway.http("/api/v1/status")[1])["uplinks"][0]["last_error"]
    return error if error and re.search(cause, error) else None


def plain(t, folder):
    # Nobody but the verifier knows the good upstream's own port; it takes over the rogues' port at the end.
    upstream = Mosquitto(folder / "upstream").start()
    t.later(upstream.stop)
    verifier = Verifier(folder, upstream.port)
    port = free_port()
    gateway = Gateway(folder / "gateway", port, progress_timeout="1s", connect_timeout="1s", uplink="max_inflight = 20").start()
    t.later(gateway.stop)
    taken, journals = set(), []
    for number, (habit, cause) in enumerate(CAUSES.items()):
        name = habit.replace("_", " ")
        mark = len(gateway.log())
        rogue = Rogue(port, habit)
        sensors = Sensors(folder, gateway.port, habit, first_sensor=10 * number, sensors=2, count=100, rate=400)
        sent = sensors.result(30)
        t.check(f"an upstream that {name}: local sensors never notice",
                sent["acked"] == 200 and sent["ack"]["max_us"] < 2_000_000, f"slowest {sent['ack']['max_us']} us")
        wait_for("the gateway tried it twice", lambda: rogue.connections >= 2 or rogue.published >= 200, 20)
        if cause:
            # The same kind of failure as before is not repeated in the log; then the status has it.
            named = wait_for("the cause is named", lambda: gateway.logged(cause, mark) or last_error(gateway, cause), 20)
            t.check(f"an upstream that {name}: log or status name the cause", gateway.logged(cause) and named, named)
        else:
            wait_for("it took something", lambda: rogue.taken, 20)
        rogue.close()
        taken |= rogue.taken
        journals.append(sensors.journal)
    t.later(take_over(port, upstream.port).close)
    result = verifier.expect(without(journals, taken, folder / "wanted.journal"))
    check_delivery(t, result, "when a good upstream takes over the port")
    t.say(f"{len(taken)} messages had been acknowledged by the rogues")
    check_books(t, gateway)
    t.check("its log repeats itself little", len(gateway.log().splitlines()) < 2000, len(gateway.log().splitlines()))


def wrong_certificate(t, folder):
    papers = certificates(folder / "tls")
    port = free_port()
    evil = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    evil.load_cert_chain(papers / "evil.pem", papers / "evil.key")
    rogue = Rogue(port, "never_acknowledges", tls=evil)
    gateway = Gateway(folder / "tls-gateway", port, scheme="mqtts", uplink=f'ca = "{papers}/good-ca.pem"').start()
    t.later(gateway.stop)
    sensors = Sensors(folder, gateway.port, "tls-sensors", sensors=2, count=200)
    t.check("a wrong certificate: local sensors never notice", sensors.result(30)["acked"] == 400)
    line = wait_for("the log says something", lambda: gateway.logged(r"(?i)certificate|UnknownIssuer"), 20)
    t.check("a wrong certificate: the log names the cause", line is not None, line)
    t.check("a wrong certificate: nothing is sent to it", rogue.published == 0)
    rogue.close()
    good_port, plain_port = free_port(), free_port()
    upstream = Mosquitto(folder / "tls-upstream", extra=(
        f"listener {good_port} 127.0.0.1\ncertfile {papers}/good.pem\nkeyfile {papers}/good.key\n"
        f"listener {plain_port} 127.0.0.1\n"), port=plain_port).start()
    t.later(upstream.stop)
    verifier = Verifier(folder, plain_port, "tls-verifier")
    t.later(take_over(port, good_port).close)
    result = verifier.expect(sensors.journal)
    check_delivery(t, result, "when the right certificate is shown")
    check_books(t, gateway, "over TLS the books balance and the backlog is empty")


def main(t):
    folder = workspace(t)
    plain(t, folder)
    wrong_certificate(t, folder)


with Theme("bad_upstream") as theme:
    main(theme)
