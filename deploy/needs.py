"""Print the requirements of a wheel, one per line; torch only with the argument `training`.

Used by install.sh and the Containerfile.
"""

import email
import sys
import zipfile

with zipfile.ZipFile(sys.argv[1]) as wheel:
    metadata = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    requirements = email.message_from_bytes(wheel.read(metadata)).get_all("Requires-Dist", [])
for line in requirements:
    if "extra ==" not in line and ("training" in sys.argv[2:] or not line.startswith("torch")):
        sys.stdout.write(f"{line}\n")
