#!/usr/bin/python3
"""Stands where Mosquitto's own tests look for their broker: reads Mosquitto's options and becomes the gateway."""

import os
import pathlib
import shutil
import sys

# What a listener is told, by Mosquitto's name.
LISTENER = {"max_inflight_messages": "max_inflight = {}", "max_connections": "max_connections = {}",
            "max_queued_messages": "max_queued_messages = {}", "max_queued_bytes": "max_queued_bytes = {}",
            "max_keepalive": 'max_keep_alive = "{}s"', "max_packet_size": "max_packet = {}"}
# What has no meaning here: it says how Mosquitto is built, not what clients see.
PASSED_OVER = {"per_listener_settings", "persistence", "log_type", "message_size_limit", "max_inflight_bytes"}


def read(argv):
    """Ports, lines for every listener, and the folder of the data; it outlives the process where Mosquitto's would."""
    if "-c" not in argv:
        port = argv[argv.index("-p") + 1]
        return [port], [], fresh(f"data-{port}")
    ports, more, data = [], [], None
    anonymous = "false"  # as Mosquitto has it wherever it is given a configuration
    for line in pathlib.Path(argv[argv.index("-c") + 1]).read_text().splitlines():
        name, _, value = line.strip().partition(" ")
        if name in ("port", "listener"):
            ports.append(value.split()[0])
        elif name == "allow_anonymous":
            anonymous = value
        elif name == "persistence_file":
            data = f"data-{value}"
            if not os.path.exists(value):  # the tests delete it where they begin anew
                shutil.rmtree(data, ignore_errors=True)
            pathlib.Path(value).touch()
        elif name in LISTENER:
            more.append(LISTENER[name].format(value))
        elif name and not name.startswith("#") and name not in PASSED_OVER:
            sys.exit(f"the gateway has no {name}")
    return ports, [f"anonymous = {anonymous}", *more], data or fresh(f"data-{ports[0]}")


def fresh(name):
    number = 0
    while os.path.exists(f"{name}-{number}"):
        number += 1
    return f"{name}-{number}"


def main():
    ports, more, data = read(sys.argv[1:])
    lines = ['[gateway]', 'id = "suite"', f'data_dir = "{os.path.abspath(data)}"', '[admin]', 'bind = "off"']
    for port in ports:
        lines += ["[[listener]]", f'name = "l{port}"', f'bind = "127.0.0.1:{port}"', 'max_packet = "256MiB"', *dict.fromkeys(more)]
    config = pathlib.Path(f"tidegate-{ports[0]}.toml")
    config.write_text("\n".join(lines) + "\n")
    program = os.environ["TIDEGATE"]
    os.execv(program, [program, "run", "-c", str(config)])


main()
