#!/bin/sh
# For randygpt-publish.service: publishes a file, and again if it was replaced meanwhile, which the path unit overlooks.
# Relays that are away or take nothing (status 4) are no failure: it waits for them, longer and longer, up to an hour.
# A minute after each version keeps their number low, and it keeps better states out of the count of the start limit.
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
      echo "not published yet: the next try is in $pause s"
      sleep "$pause"
      pause=$((pause < 1800 ? 2 * pause : 3600))
      ;;
    *)
      [ "$seen" != "$(state)" ] || exit "$status" # else it was read while it was written
      sleep 1
      ;;
  esac
done
