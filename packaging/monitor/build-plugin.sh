#!/bin/sh
# Compile the broker's plugin for this system's Mosquitto and libjwt, as root: after the installation, and after each
# upgrade of ntppool-monitor, Mosquitto or libjwt. Then restart the brokers.
set -eu
umask 022
sources=/usr/share/ntppool-monitor/jwt-auth plugin=/usr/lib/ntppool-monitor/jwt-auth.so
for program in cc make pkg-config; do
  command -v "$program" >/dev/null || {
    echo "build-plugin: $program is missing; on Fedora:" \
      "dnf install gcc make pkgconf-pkg-config mosquitto-devel libjwt-devel openssl-devel" >&2
    exit 1
  }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
make --silent -C "$sources" BUILD="$work" CFLAGS=-O2 LDFLAGS=-Wl,--strip-all "$work/jwt-auth.so"
# Replaced by renaming, since a broker may have loaded the old file.
install -m 644 "$work/jwt-auth.so" "$plugin.new"
mv "$plugin.new" "$plugin"
echo "build-plugin: $plugin is ready; restart the brokers: systemctl restart 'ntppool-broker@*'" >&2
