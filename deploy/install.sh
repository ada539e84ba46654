#!/bin/bash -p
# Installs, updates or uninstalls randygpt as systemd services. Running it again is safe.
set -euo pipefail
umask 022 # services must be able to read the installation
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
unset "${!PYTHON@}" BASH_ENV ENV CDPATH # nothing that runs here as root comes from the caller's environment or folder

usage() {
  cat <<'TEXT'
Usage: install.sh [--follow NAME] [--relay URL]... [--run-relay NPUB]... [--quota SIZE] [--wheels DIR | --index URL]
                  [--with-training] [--python FILE] [--dry-run]
       install.sh --uninstall [--dry-run]

  --follow NAME     install and serve each new version of npub…/name
  --relay URL       a relay that has it; repeatable
  --run-relay NPUB  run a relay on 127.0.0.1:7777 that accepts events of this author; repeatable
  --quota SIZE      limit of the store of fetched models at the first installation (default: 20G)
  --wheels DIR      install from the wheels in this folder, without a network;
                    by default from this checkout, with dependencies from the package index
  --index URL       use another package index
  --with-training   install torch too (hundreds of megabytes), which only training needs; updates keep it
  --python FILE     a Python 3.11 or newer that every user can run (default: /usr/bin/python3)
  --dry-run         show what would be done, and change nothing
  --uninstall       stop and remove everything except /etc/randygpt and /var/lib/randygpt*

An update keeps data and settings. If a running service is not ready with the new version, the old version is restored.
TEXT
}

HERE=$(cd "$(dirname "$0")" && pwd)
readonly HERE BASE=/opt/randygpt DATA=/var/lib/randygpt SETTINGS=/etc/randygpt UNITS=/etc/systemd/system COMMAND=/usr/local/bin/randygpt
readonly READY_S=120 # time for the restarted services to become ready

die() {
  printf 'install.sh: %s\n' "$1" >&2
  exit "${2:-2}"
}

say() { printf '%s\n' "$*"; }

run() { # runs a command that changes the system, or prints it with --dry-run
  if [ "$dry" = yes ]; then printf '+ %s\n' "$*"; else "$@"; fi
}

follow='' wheels='' index='' training='' python=/usr/bin/python3 dry=no uninstall=no quota=20G
relays=() writers=()
while [ $# -gt 0 ]; do
  case $1 in
    --follow | --relay | --run-relay | --quota | --wheels | --index | --python) [ $# -gt 1 ] || die "$1 needs a value" ;;&
    --follow) follow=$2; shift ;;
    --relay) relays+=("$2"); shift ;;
    --run-relay) writers+=("$2"); shift ;;
    --quota) quota=$2; shift ;;
    --wheels) wheels=$2; shift ;;
    --index) index=$2; shift ;;
    --python) python=$2; shift ;;
    --with-training) training=yes ;;
    --dry-run) dry=yes ;;
    --uninstall) uninstall=yes ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; die "unknown option: $1" ;;
  esac
  shift
done

[ "$dry" = yes ] || [ "$(id -u)" = 0 ] || die "must run as root (sudo)"
command -v systemctl >/dev/null || die "systemd is required, and systemctl was not found"

# --- uninstall

if [ "$uninstall" = yes ]; then
  mapfile -t units < <(cd "$HERE/systemd" && ls -d randygpt*.service randygpt*.socket randygpt*.path randygpt*.target)
  run systemctl disable --quiet --now "${units[@]}" || true
  for unit in "${units[@]}"; do run rm -f "$UNITS/$unit"; done
  run rm -rf "$UNITS/randygpt-.service.d" /etc/sysusers.d/randygpt.conf /etc/tmpfiles.d/randygpt.conf "$BASE"
  [ ! -L "$COMMAND" ] || run rm -f "$COMMAND"
  run systemctl daemon-reload
  say "uninstalled; keys, settings and data remain in $SETTINGS and /var/lib/randygpt*"
  exit 0
fi

# --- leave the current folder, and check the one for temporary files

given=$python
python=$(readlink -e "$given") || die "--python $given: no such file"
if [ -n "$wheels" ]; then
  given=$wheels
  wheels=$(readlink -e "$given/.") || die "--wheels $given: no such folder"
fi
given=${TMPDIR:-/tmp}
TMPDIR=$(readlink -e "$given/.") || die "TMPDIR $given: no such folder"
export TMPDIR
each=$TMPDIR
while true; do # what replaces a file of the build runs as root
  read -r owner mode < <(stat --format='%u %a' "$each")
  if [[ $owner != 0 && $owner != "$(id -u)" ]] || (((8#$mode & 8#022) && !(8#$mode & 8#1000))); then
    die "TMPDIR $given: other users can change $each; unset TMPDIR, or name a folder of root"
  fi
  [ "$each" != / ] || break
  each=$(dirname "$each")
done
cd /

# --- check the options

[ -z "$wheels" ] || [ -z "$index" ] || die "--wheels and --index exclude each other"
case $follow in '' | *[!A-Za-z0-9._/-]*) [ -z "$follow" ] || die "--follow $follow: expected a name like npub1…/name" ;; esac
for relay in "${relays[@]}"; do
  case $relay in
    *[[:space:]\"\'\\\$]*) die "--relay $relay: invalid character in the address" ;;
    ws://* | wss://*) ;;
    *) die "--relay $relay: expected an address like wss://relay.example" ;;
  esac
done
for each in "${writers[@]}"; do
  [[ $each =~ ^npub1[a-z0-9]+$ ]] || die "--run-relay $each: expected an npub"
done
[[ $quota =~ ^[1-9][0-9]*[KMGT]?$ ]] || die "--quota $quota: expected a size such as 20G"
"$python" -I -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "$python is not Python 3.11 or newer"
"$python" -I -c 'import ensurepip, venv' 2>/dev/null || die "$python cannot create virtual environments; run: apt-get install python3-venv"
if [ "$(id -u)" = 0 ] && ! setpriv --reuid=65534 --regid=65534 --clear-groups "$python" -I -c '' 2>/dev/null; then
  die "only root can run $python: name a Python that every user can run with --python FILE"
fi
if [ -e "$SETTINGS/config.toml" ] && [ -n "$follow${relays[*]}" ]; then
  say "$SETTINGS/config.toml exists and is not changed: --follow and --relay are ignored"
fi

# --- install the program, each version in its own folder

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
  [ -n "$wheel" ] || die "--wheels $wheels: contains no wheel of randygpt"
elif [ "$dry" = yes ]; then
  say "+ build a wheel of $(dirname "$HERE")"
  wheel=$staging/randygpt-new-py3-none-any.whl
  touch "$wheel"
else
  [ -e "$HERE/../pyproject.toml" ] || die "this folder is not a checkout of randygpt: pass --wheels DIR"
  say "building randygpt"
  "$python" -I -m venv "$staging/builder"
  "${pip[@]}" "$staging/builder/bin/pip" wheel --quiet --no-deps ${index:+--index-url "$index"} \
    --wheel-dir "$staging" "$HERE/.."
  wheel=$(find "$staging" -maxdepth 1 -name 'randygpt-*.whl')
fi

old=$(readlink -f "$BASE/current" 2>/dev/null || true)
[ ! -e "$old/.training" ] || training=yes
version=$(basename "$wheel" | cut -d- -f2)
mark=$(cat "$wheel" "${parts[@]}" <(echo "$python $training"; "$python" -I -V; ls "${wheels:-$HERE}") | sha256sum | cut -c1-8)
folder=$BASE/versions/$version-$mark

build() { # creates $folder
  rm -rf "$folder" &&
    mkdir -p "$folder" &&
    "$python" -I -m venv "$folder" &&
    "$python" -I "$HERE/needs.py" "$wheel" ${training:+training} >"$staging/needs" &&
    "${pip[@]}" "$folder/bin/pip" install --quiet --use-pep517 "${from[@]}" --requirement "$staging/needs" &&
    "${pip[@]}" "$folder/bin/pip" install --quiet --no-deps --no-index "$wheel" &&
    cp -r "$HERE/systemd" "$folder/systemd" &&
    chmod -R a+rX "$folder/systemd" &&
    { [ -z "$training" ] || touch "$folder/.training"; } &&
    "$folder/bin/randygpt" --version >/dev/null &&
    touch "$folder/.complete"
}

if [ -e "$folder/.complete" ]; then
  say "randygpt $version is already installed in $folder"
else
  say "installing randygpt $version into $folder"
  if [ "$dry" = yes ]; then
    say "+ create a virtual environment with $python, $(basename "$wheel") and its dependencies"
  else
    build || die "installation failed; nothing was changed" 1
  fi
fi

# --- users, settings, units

install_units() { # copies the units of a version
  local name
  for name in "$1"/systemd/randygpt*; do run cp -rT "$name" "$UNITS/$(basename "$name")"; done
  run install -D -m 0644 "$1/systemd/sysusers.d/randygpt.conf" /etc/sysusers.d/randygpt.conf
  run install -D -m 0644 "$1/systemd/tmpfiles.d/randygpt.conf" /etc/tmpfiles.d/randygpt.conf
}

switch() { # activates a version
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
    say "generated an API key: $SETTINGS/api-keys"
  fi
  if [ ! -e "$SETTINGS/config.toml" ]; then
    {
      echo "# List all settings: randygpt config example. Check this file: randygpt config check"
      list=$([ ${#relays[@]} = 0 ] || printf '"%s", ' "${relays[@]}")
      echo "relays = [${list%, }]"
      [ -z "$follow" ] || printf '\n[follow]\nname = "%s"\n' "$follow"
    } >"$SETTINGS/config.toml"
  fi
  if [ ${#writers[@]} != 0 ]; then
    if grep -qs '^\[relay\]' "$SETTINGS/config.toml"; then
      say "$SETTINGS/config.toml has a table [relay], which is not changed: --run-relay only starts the relay"
    else
      list=$(printf '"%s", ' "${writers[@]}")
      printf '\n[relay]\nallow = [%s]\n' "${list%, }" >>"$SETTINGS/config.toml"
    fi
  fi
}

set_quota() { # limits the store of a new installation
  runuser -u randygpt -- env RANDYGPT_HOME="$DATA" "$BASE/current/bin/randygpt" gc --quota "$quota" >/dev/null
}

services=(randygpt-relay.service randygpt-follow.service randygpt-serve.service randygpt-train.service)
running=() waiting=()
for unit in "${services[@]}"; do
  case $unit:$(systemctl is-active "$unit" 2>/dev/null) in
    *:activating | *train*:active) waiting+=("$unit") ;; # becoming ready may take any time
    *:active) running+=("$unit") ;;
  esac
done

if [ "$dry" = yes ] && [ ! -e "$folder" ]; then
  say "+ point $BASE/current to $folder; copy the units of $HERE/systemd to $UNITS"
else
  switch "$folder"
fi
run systemd-sysusers /etc/sysusers.d/randygpt.conf
run systemd-tmpfiles --create /etc/tmpfiles.d/randygpt.conf
if [ "$dry" = yes ]; then say "+ create $SETTINGS/api-keys and $SETTINGS/config.toml, unless they exist"; else write_settings; fi
if [ ! -e "$DATA/state" ]; then
  if [ "$dry" = yes ]; then say "+ limit the store in $DATA to $quota"; else set_quota; fi
fi
[ -e "$COMMAND" ] || run ln -sf "$BASE/current/bin/randygpt" "$COMMAND"
wanted=(randygpt.target randygpt-serve.socket randygpt-serve.service)
if [ -n "$follow" ] || grep -qs '^\[follow\]' "$SETTINGS/config.toml"; then wanted+=(randygpt-follow.service); fi
[ ${#writers[@]} = 0 ] || wanted+=(randygpt-relay.service)
run systemctl enable --quiet "${wanted[@]}"

# --- start, and roll back if a service does not become ready

restart() { # restarts units and waits until all are ready
  timeout "$READY_S" systemctl restart "$@"
}

run systemctl reset-failed 'randygpt*' || true
if [ -n "$old" ] && [ "$old" != "$folder" ]; then
  [ ${#waiting[@]} = 0 ] || run systemctl restart --no-block "${waiting[@]}"
  [ ${#running[@]} = 0 ] || say "restarting ${running[*]}"
  if [ ${#running[@]} != 0 ] && [ "$dry" = no ] && ! restart "${running[@]}"; then
    say "randygpt $version did not become ready: rolling back" >&2
    switch "$old"
    systemctl reset-failed 'randygpt*' || true
    [ ${#waiting[@]} = 0 ] || systemctl restart --no-block "${waiting[@]}"
    restart "${running[@]}" || die "the previous version did not become ready either; see: journalctl -u 'randygpt*' -n 50" 1
    die "the previous version is running again; for the reason see: journalctl -u 'randygpt*' -n 50" 1
  fi
fi
run systemctl start --no-block "${wanted[@]}" # the target also starts the other enabled units

# --- remove versions older than the previous one

if [ -d "$BASE/versions" ]; then
  for each in "$BASE"/versions/*; do
    if [ "$each" != "$folder" ] && [ "$each" != "$old" ]; then run rm -rf "$each"; fi
  done
fi
[ "$dry" = yes ] || say "randygpt $version is installed; for its status run: systemctl status 'randygpt*'"
