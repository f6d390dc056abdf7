#!/bin/bash
# Babel 2.18.0: a header date of a PO file whose offset is written as "GMT+2" in place of "+0200", as
# some translation tools write it, stops read_po with a ValueError about data that remains, before a
# single entry is read. abort_invalid=False, the default, which prints other faults of a file and goes
# on, changes nothing. The same catalogue with "+0200", or without a date, is read.
#
# Seen: "+0200: 1 message", "none: 1 message", "GMT+2: ValueError"
# Fails if that changes.
set -euo pipefail
dir=$(mktemp -d) && trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3.11 -m venv env
env/bin/pip install --quiet --disable-pip-version-check Babel==2.18.0
cat > run.py <<'PY'
import io

from babel.messages.pofile import read_po

for zone in ("+0200", "none", "GMT+2"):
    date = "" if zone == "none" else f'"PO-Revision-Date: 2024-05-01 10:00{zone}\\n"\n'
    if zone == "GMT+2":
        date = date.replace("10:00GMT", "10:00 GMT")
    text = f'msgid ""\nmsgstr ""\n"Content-Type: text/plain; charset=utf-8\\n"\n{date}\nmsgid "bee"\nmsgstr "Biene"\n'
    try:
        found = f"{len(list(read_po(io.BytesIO(text.encode())))) - 1} message"
    except ValueError:
        found = "ValueError"
    print(f"{zone}: {found}")
PY
env/bin/python run.py 2>/dev/null | tee output
diff output - <<'EXPECTED'
+0200: 1 message
none: 1 message
GMT+2: ValueError
EXPECTED
echo "as described"
