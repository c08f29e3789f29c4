#!/bin/sh
# Called by the package python3 when the default version of Python changes, as in an upgrade of the distribution.
set -e
[ "$1" != rtupdate ] || exec /usr/lib/@NAME@/compile
