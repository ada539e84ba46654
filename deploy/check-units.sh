#!/usr/bin/env bash
# Checks the units without starting them: systemd understands every line, and no exposure is above its limit.
set -euo pipefail
cd "$(dirname "$0")/systemd"

declare -A limits=([serve]=4 [follow]=13 [publish]=13 [relay]=11 [train]=4) # tenths: what they have, and two for another systemd

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r . "$copy"
sed -i 's|/opt/randygpt/current/bin/randygpt|/bin/true|' "$copy"/*.service # it is not installed here
words=$(systemd-analyze verify --man=no "$copy"/*.{service,socket,path,target} 2>&1 || echo "verify failed")
if [ -n "$words" ]; then
  printf '%s\n' "$words"
  exit 1
fi

# The drop-in outweighs the units: what both set, a unit would set in vain.
common=$(grep -oE '^[A-Z][A-Za-z]+=' randygpt-.service.d/hardening.conf | sort -u | grep -vx 'Environment=')
if grep -nHF "$common" ./*.service; then
  echo "these are in randygpt-.service.d/hardening.conf already"
  exit 1
fi

failed=0
for unit in *.service; do
  name=${unit#randygpt-}
  limit=${limits[${name%.service}]}
  systemd-analyze security --offline=true --threshold="$limit" "$unit" >"$copy/report" || failed=1
  printf '%s (at most %s.%s)\n' "$(tail -1 "$copy/report")" "$((limit / 10))" "$((limit % 10))"
done
exit "$failed"
