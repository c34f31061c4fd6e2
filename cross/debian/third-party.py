#!/usr/bin/python3
"""The licences and notices of the crates that are linked into the program, each text once, from the sources that Cargo has fetched."""

import hashlib
import json
import pathlib
import subprocess


def linked():
    """Packages that the program itself is built from: neither for tests nor for building."""
    metadata = json.loads(subprocess.run(["cargo", "metadata", "--locked", "--offline", "--format-version=1"], check=True, capture_output=True).stdout)
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    packages = {package["id"]: package for package in metadata["packages"]}
    root = metadata["resolve"]["root"]
    seen, waiting = set(), [root]
    while waiting:
        for dependency in nodes[waiting.pop()]["deps"]:
            kinds = [kind for kind in dependency["dep_kinds"] if kind["kind"] is None and "windows" not in (kind["target"] or "")]
            if kinds and dependency["pkg"] not in seen:
                seen.add(dependency["pkg"])
                waiting.append(dependency["pkg"])
    return sorted((packages[name] for name in seen), key=lambda package: (package["name"], package["version"]))


def papers(package):
    """The files with licences and notices of this package."""
    folder = pathlib.Path(package["manifest_path"]).parent
    names = [path for path in folder.iterdir() if path.is_file() and path.name.upper().startswith(("LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"))]
    return sorted(names)


def main():
    texts = {}
    print("Linked into tidegate, with what each says about itself. The texts follow, by number.\n")
    for package in linked():
        numbers = []
        for path in papers(package):
            text = path.read_text(errors="replace").strip()
            # The same text with other line ends or margins is one.
            key = hashlib.sha256(" ".join(text.split()).encode()).digest()
            numbers.append(texts.setdefault(key, (len(texts) + 1, text))[0])
        said = package["license"] or package["license_file"] or "see the text"
        print(f"{package['name']} {package['version']}: {said}; {', '.join(package['authors']) or 'its authors'}; texts {', '.join(map(str, sorted(set(numbers)))) or 'none'}")
    for number, text in texts.values():
        print(f"\n======== {number}\n\n{text}")


main()
