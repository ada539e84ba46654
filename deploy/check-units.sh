#!/usr/bin/env bash
# Checks the units without starting them: syntax, and exposure against a limit for each service.
set -euo pipefail
cd "$(dirname "$0")/systemd"

declare -A limits=([serve]=4 [follow]=13 [publish]=13 [relay]=11 [train]=4) # in tenths: the current exposure, plus 0.2 for other systemd versions

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r . "$copy"
sed -i 's|/opt/randygpt/current/bin/randygpt|/bin/true|' "$copy"/*.service # the program is not installed here
output=$(systemd-analyze verify --man=no "$copy"/*.{service,socket,path,target} 2>&1 || echo "verify failed")
if [ -n "$output" ]; then
  printf '%s\n' "$output"
  exit 1
fi

# The drop-in overrides the units, so a setting that is in both has no effect in the unit.
common=$(grep -oE '^[A-Z][A-Za-z]+=' randygpt-.service.d/hardening.conf | sort -u | grep -vx 'Environment=')
if grep -nHF "$common" ./*.service; then
  echo "set in randygpt-.service.d/hardening.conf too, which overrides the unit: remove the lines above"
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
