#!/bin/sh
# Writes the instance's dagster.yaml on first use, then becomes the command.
set -eu
DAGSTER_HOME=$(python -m nutridet_assets.home)
export DAGSTER_HOME
exec "$@"
