#!/bin/sh
# For randygpt-publish.service: publishes a file, and again if it was replaced in the meantime, which the path unit misses.
# Status 4 (relays unreachable, or not everything stored) is not a failure: it retries with growing pauses of up to an hour.
# A pause of a minute after each version limits their number, and keeps the unit below the start limit.
set -u
best=$1 published='' pause=60

state() { stat --format=%i,%z "$best"; }

while seen=$(state) && [ "$seen" != "$published" ]; do
  /opt/randygpt/current/bin/randygpt publish --yes "$best"
  status=$?
  case $status in
    0)
      published=$seen pause=60
      sleep 60
      ;;
    4)
      echo "not published yet: next attempt in $pause s"
      sleep "$pause"
      pause=$((pause < 1800 ? 2 * pause : 3600))
      ;;
    *)
      [ "$seen" != "$(state)" ] || exit "$status" # otherwise the file was read while it was replaced
      sleep 1
      ;;
  esac
done
