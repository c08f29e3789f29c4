#!/bin/sh
# Compile our modules for this system's Python. The users that run the programs may not write here; without compiled
# files, each start would take longer, and the daemon would keep more memory.
set -e
umask 022
here=/usr/lib/@NAME@
compiled() { find "$here/lib" -type f -name "__init__.cpython-$1.pyc" | grep -q .; }
[ "$1" = clean ] || version=$("$here/bin/python3" -I -c 'import sys; print("%d.%d" % sys.version_info[:2])')
if [ "$1" = missing ] && compiled "${version%.*}${version#*.}"; then exit 0; fi
find "$here/lib" -type d -name __pycache__ -prune -exec rm -rf {} +
[ "$1" != clean ] || exit 0
# By the path from which the modules are imported. Nobody imports the languages that pygments knows.
"$here/bin/python3" -I -m compileall -q -x '/pygments/(lexers|styles)/[a-z]' "$here/lib/python$version/site-packages"
