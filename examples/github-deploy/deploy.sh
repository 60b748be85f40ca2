#!/bin/sh
# Deploys one commit: fetches it into the checkout SITE, then runs your own steps.
#
# stdin: the commit's id as a JSON text, which is what `transform` in config.toml yields.
# Exit codes: 0 deployed; 65 (EX_DATAERR) never retry; any other, as `set -e` exits with: retry.
set -eu

commit=$(tr -d '"')
# The id becomes an argument of git, so it must not be able to be an option or anything but an id.
case $commit in
'' | *[!0-9a-f]*)
    echo "not a commit's id: $commit" >&2
    exit 65
    ;;
esac

cd "$SITE"
# Both may fail for a reason that passes: the network, a full disk, or a commit that GitHub announces a
# moment before it can be fetched. So every failure is retried.
git fetch --quiet origin main
git checkout --quiet --force --detach "$commit"

# Your own steps go here, such as build and test. Hooktrail kills every process that this script leaves
# running, so a service must not be started here: let systemd run it.
echo "deployed $commit"
