"""Prints what a wheel needs, a requirement a line; with `training`, torch too. For install.sh and the Containerfile."""

import email
import sys
import zipfile

with zipfile.ZipFile(sys.argv[1]) as wheel:
    facts = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    needs = email.message_from_bytes(wheel.read(facts)).get_all("Requires-Dist", [])
for line in needs:
    if "extra ==" not in line and ("training" in sys.argv[2:] or not line.startswith("torch")):
        sys.stdout.write(f"{line}\n")
