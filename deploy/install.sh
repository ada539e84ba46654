#!/usr/bin/env bash
# Installs randygpt as system services, brings it up to date, or takes it away. Run it again as often as you like.
set -euo pipefail
umask 022 # services read what root writes here

usage() {
  cat <<'TEXT'
Usage: install.sh [--follow NAME] [--relay URL]... [--wheels DIR | --index URL] [--with-training] [--python FILE]
       install.sh --uninstall

  --follow NAME     serve each new version of npub…/name
  --relay URL       a relay to find it on; repeat for more
  --wheels DIR      install from the wheels in this folder, without a network;
                    otherwise from this checkout, and what it needs from the package index
  --index URL       another package index
  --with-training   torch too (hundreds of megabytes): only training needs it; updates keep it
  --python FILE     a Python 3.11 or newer that every user can run (/usr/bin/python3)
  --dry-run         say what would be done, and do nothing
  --uninstall       stop and remove everything but /etc/randygpt and /var/lib/randygpt*

An update keeps data and settings. If what was running is not ready again with the new version, the old one comes back.
TEXT
}

HERE=$(cd "$(dirname "$0")" && pwd)
readonly HERE BASE=/opt/randygpt SETTINGS=/etc/randygpt UNITS=/etc/systemd/system COMMAND=/usr/local/bin/randygpt
readonly READY_S=120 # for what was running to be ready again

die() {
  printf 'install.sh: %s\n' "$1" >&2
  exit "${2:-2}"
}

say() { printf '%s\n' "$*"; }

run() { # a command that changes something
  if [ "$dry" = yes ]; then printf '+ %s\n' "$*"; else "$@"; fi
}

follow='' wheels='' index='' training='' python=/usr/bin/python3 dry=no uninstall=no
relays=()
while [ $# -gt 0 ]; do
  case $1 in
    --follow | --relay | --wheels | --index | --python) [ $# -gt 1 ] || die "$1 needs a value" ;;&
    --follow) follow=$2; shift ;;
    --relay) relays+=("$2"); shift ;;
    --wheels) wheels=$2; shift ;;
    --index) index=$2; shift ;;
    --python) python=$2; shift ;;
    --with-training) training=yes ;;
    --dry-run) dry=yes ;;
    --uninstall) uninstall=yes ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; die "what is $1?" ;;
  esac
  shift
done

[ "$dry" = yes ] || [ "$(id -u)" = 0 ] || die "run it as root (sudo)"
command -v systemctl >/dev/null || die "this machine has no systemd"

# --- taking it away

if [ "$uninstall" = yes ]; then
  mapfile -t units < <(cd "$HERE/systemd" && ls -d randygpt*.service randygpt*.socket randygpt*.path randygpt*.target)
  run systemctl disable --quiet --now "${units[@]}" || true
  for unit in "${units[@]}"; do run rm -f "$UNITS/$unit"; done
  run rm -rf "$UNITS/randygpt-.service.d" /etc/sysusers.d/randygpt.conf /etc/tmpfiles.d/randygpt.conf "$BASE"
  [ ! -L "$COMMAND" ] || run rm -f "$COMMAND"
  run systemctl daemon-reload
  say "removed; keys, settings and data are still in $SETTINGS and /var/lib/randygpt*"
  exit 0
fi

# --- what is asked for

[ -z "$wheels" ] || [ -z "$index" ] || die "--wheels needs no --index"
[ -z "$wheels" ] || [ -d "$wheels" ] || die "$wheels: no such folder"
case $follow in '' | *[!A-Za-z0-9._/-]*) [ -z "$follow" ] || die "--follow $follow: not a name like npub1…/name" ;; esac
for relay in "${relays[@]}"; do
  case $relay in
    *[[:space:]\"\'\\\$]*) die "--relay $relay: not an address" ;;
    ws://* | wss://*) ;;
    *) die "--relay $relay: not an address like wss://relay.example" ;;
  esac
done
python=$(readlink -f "$python") || die "no Python at $python"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "$python is not Python 3.11 or newer"
"$python" -c 'import ensurepip, venv' 2>/dev/null || die "$python cannot make environments: apt-get install python3-venv"
if [ "$(id -u)" = 0 ] && ! setpriv --reuid=65534 --regid=65534 --clear-groups "$python" -c '' 2>/dev/null; then
  die "$python can be run by root only: the services need one like /usr/bin/python3 (--python FILE)"
fi
if [ -e "$SETTINGS/config.toml" ] && [ -n "$follow${relays[*]}" ]; then
  say "$SETTINGS/config.toml is there already and stays as it is: --follow and --relay are not used"
fi

# --- the program, each version in a folder of its own

staging=$(mktemp -d)
trap 'rm -rf "$staging"' EXIT
pip=(env PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore)
from=()
[ -z "$index" ] || from=(--index-url "$index")
[ -z "$wheels" ] || from=(--no-index --find-links "$wheels")
mapfile -t parts < <(find "$HERE/systemd" -type f | sort)
if [ -e "$HERE/../constraints.txt" ]; then
  from+=(--constraint "$HERE/../constraints.txt")
  parts+=("$HERE/../constraints.txt")
fi

if [ -n "$wheels" ]; then
  wheel=$(find "$wheels" -maxdepth 1 -name 'randygpt-*.whl' | sort -V | tail -1)
  [ -n "$wheel" ] || die "$wheels: no wheel of randygpt in it"
elif [ "$dry" = yes ]; then
  say "+ build a wheel of $(dirname "$HERE")"
  wheel=$staging/randygpt-new-py3-none-any.whl
  touch "$wheel"
else
  [ -e "$HERE/../pyproject.toml" ] || die "this is no checkout: say --wheels DIR"
  say "building randygpt"
  "$python" -m venv "$staging/builder"
  "${pip[@]}" "$staging/builder/bin/pip" wheel --quiet --no-deps ${index:+--index-url "$index"} \
    --wheel-dir "$staging" "$HERE/.."
  wheel=$(find "$staging" -maxdepth 1 -name 'randygpt-*.whl')
fi

old=$(readlink -f "$BASE/current" 2>/dev/null || true)
[ ! -e "$old/.training" ] || training=yes
version=$(basename "$wheel" | cut -d- -f2)
mark=$(cat "$wheel" "${parts[@]}" <(echo "$python $training"; ls "${wheels:-$HERE}") | sha256sum | cut -c1-8)
folder=$BASE/versions/$version-$mark

build() { # fills $folder
  rm -rf "$folder" &&
    mkdir -p "$folder" &&
    "$python" -m venv "$folder" &&
    "$python" "$HERE/needs.py" "$wheel" ${training:+training} >"$staging/needs" &&
    "${pip[@]}" "$folder/bin/pip" install --quiet --use-pep517 "${from[@]}" --requirement "$staging/needs" &&
    "${pip[@]}" "$folder/bin/pip" install --quiet --no-deps --no-index "$wheel" &&
    cp -r "$HERE/systemd" "$folder/systemd" &&
    chmod -R a+rX "$folder/systemd" &&
    { [ -z "$training" ] || touch "$folder/.training"; } &&
    "$folder/bin/randygpt" --version >/dev/null &&
    touch "$folder/.complete"
}

if [ -e "$folder/.complete" ]; then
  say "randygpt $version is in $folder already"
else
  say "installing randygpt $version into $folder"
  if [ "$dry" = yes ]; then
    say "+ an environment of $python with $(basename "$wheel") and what it needs"
  else
    build || die "the installation failed; nothing has changed" 1
  fi
fi

# --- users, settings, units

install_units() { # of a version's folder
  local name
  for name in "$1"/systemd/randygpt*; do run cp -rT "$name" "$UNITS/$(basename "$name")"; done
  run install -D -m 0644 "$1/systemd/sysusers.d/randygpt.conf" /etc/sysusers.d/randygpt.conf
  run install -D -m 0644 "$1/systemd/tmpfiles.d/randygpt.conf" /etc/tmpfiles.d/randygpt.conf
}

switch() { # to a version's folder
  run ln -sfn "$1" "$BASE/next"
  run mv -T "$BASE/next" "$BASE/current"
  install_units "$1"
  run systemctl daemon-reload
}

write_settings() {
  local list
  install -d -m 0755 "$SETTINGS"
  if [ ! -e "$SETTINGS/api-keys" ]; then
    (umask 077 && head -c 24 /dev/urandom | base64 | tr '+/' '-_' >"$SETTINGS/api-keys")
    say "made a key for clients: $SETTINGS/api-keys"
  fi
  if [ ! -e "$SETTINGS/config.toml" ]; then
    {
      echo "# Everything that can be set here: randygpt config example. Is it right? randygpt config check"
      list=$([ ${#relays[@]} = 0 ] || printf '"%s", ' "${relays[@]}")
      echo "relays = [${list%, }]"
      [ -z "$follow" ] || printf '\n[follow]\nname = "%s"\n' "$follow"
    } >"$SETTINGS/config.toml"
  fi
}

services=(randygpt-relay.service randygpt-follow.service randygpt-serve.service randygpt-train.service)
running=() waiting=()
for unit in "${services[@]}"; do
  case $unit:$(systemctl is-active "$unit" 2>/dev/null) in
    *:activating | *train*:active) waiting+=("$unit") ;; # for a model, a relay, or a step of any length
    *:active) running+=("$unit") ;;
  esac
done

if [ "$dry" = yes ] && [ ! -e "$folder" ]; then
  say "+ $BASE/current points to $folder; units of $HERE/systemd go to $UNITS"
else
  switch "$folder"
fi
run systemd-sysusers /etc/sysusers.d/randygpt.conf
run systemd-tmpfiles --create /etc/tmpfiles.d/randygpt.conf
if [ "$dry" = yes ]; then say "+ $SETTINGS/api-keys and $SETTINGS/config.toml, unless they are there"; else write_settings; fi
[ -e "$COMMAND" ] || run ln -sf "$BASE/current/bin/randygpt" "$COMMAND"
wanted=(randygpt.target randygpt-serve.socket randygpt-serve.service)
if [ -n "$follow" ] || grep -qs '^\[follow\]' "$SETTINGS/config.toml"; then wanted+=(randygpt-follow.service); fi
run systemctl enable --quiet "${wanted[@]}"

# --- start, and see whether what was running is ready again

restart() { # and wait until all of these say that they are ready
  timeout "$READY_S" systemctl restart "$@"
}

run systemctl reset-failed 'randygpt*' || true
if [ -n "$old" ] && [ "$old" != "$folder" ]; then
  [ ${#waiting[@]} = 0 ] || run systemctl restart --no-block "${waiting[@]}"
  [ ${#running[@]} = 0 ] || say "restarting ${running[*]}"
  if [ ${#running[@]} != 0 ] && [ "$dry" = no ] && ! restart "${running[@]}"; then
    say "randygpt $version is not ready: going back" >&2
    switch "$old"
    systemctl reset-failed 'randygpt*' || true
    [ ${#waiting[@]} = 0 ] || systemctl restart --no-block "${waiting[@]}"
    restart "${running[@]}" || die "and the version before is not ready either: journalctl -u 'randygpt*' -n 50" 1
    die "the version before is running again; journalctl -u 'randygpt*' -n 50 says why" 1
  fi
fi
run systemctl start --no-block "${wanted[@]}" # and, by the target, whatever else is enabled

# --- what is older than the version before goes

if [ -d "$BASE/versions" ]; then
  for each in "$BASE"/versions/*; do
    if [ "$each" != "$folder" ] && [ "$each" != "$old" ]; then run rm -rf "$each"; fi
  done
fi
[ "$dry" = yes ] || say "randygpt $version is installed; how it stands: systemctl status 'randygpt*'"
