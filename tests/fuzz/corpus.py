"""A corpus as one file with a line of hexadecimal digits an input, and as the folder of files that libFuzzer wants."""

import hashlib
import pathlib
import sys


def unpack(corpus, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for line in corpus.read_text().split():
        data = bytes.fromhex(line)
        (folder / hashlib.sha1(data).hexdigest()).write_bytes(data)


def pack(corpus, folder):
    inputs = {file.read_bytes() for file in folder.iterdir()} - {b""}
    # Short ones first, and always in the same order: a corpus that grows is a small change.
    corpus.write_text("".join(f"{data.hex()}\n" for data in sorted(inputs, key=lambda data: (len(data), data))))


if __name__ == "__main__":
    action, corpus, folder = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
    {"pack": pack, "unpack": unpack}[action](corpus, folder)
