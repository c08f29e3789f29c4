# Prove the packages on two systems: the first one builds them and runs a pool, the second one has nothing but the
# packages. Part of scripts/fresh, whose functions it uses: --packages.
# shellcheck shell=bash
# shellcheck disable=SC2154 # scripts/fresh sets them

# in_bare PROMISE [ARGUMENT...]: prove a promise of the packages on the second system.
in_bare() {
  root=$bare checkout=/srv as_root /srv/prove "$@"
}

# in_bare_alone PROMISE [ARGUMENT...]: the same, with no network but 127.0.0.1.
in_bare_alone() { alone in_bare "$@"; }

# alone FUNCTION [ARGUMENT...]: call it with no network but 127.0.0.1.
alone() {
  unshare --net bash -euc "$(declare -p root bare checkout environment); $(declare -f as_root in_bare)"'
    ip link set lo up
    "$@"' - "$@"
}

# install_there PACKAGE...: install packages of the distribution in the first system.
install_there() {
  quietly as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@"
}

build_packages() {
  as_root scripts/bootstrap --demo
  # Who has a checkout has git.
  install_there git
  as_root scripts/package agent --version 0.0.1 --format deb --format rpm --output dist/before
  as_root scripts/package monitor --version 0.0.1 --format deb --output dist/before
  as_root scripts/package --output dist
}

# Two builds have the same bytes, whenever and where they are made.
build_again() {
  as_root scripts/package --output /tmp/again >/dev/null
  as_root sh -euc 'for file in /tmp/again/*; do cmp "$file" "dist/${file##*/}"; done'
}

# In the second system, /srv has the packages and the script, and no checkout.
make_bare_system() {
  make_system
  configure
  quietly chroot "$root" apt-get -q update
  cp -r "$built/dist" "$root/srv/dist"
  cp "$built/packaging/prove" "$root/srv/prove"
  cp "$built/packaging/agent/apk/ntppool-agent.initd" "$root/srv/"
}

# pool COMMAND...: run the operators' command line on the demo.
pool() {
  as_root sh /srv/pool/monitor "$@"
}

pool_runs() {
  local deadline=$((SECONDS + 300))
  until grep -qs '^demo: running' "$work/pool.log"; do
    if ((SECONDS > deadline)) || ! kill -0 "$pool_process" 2>/dev/null; then
      tail -n 40 "$work/pool.log" >&2
      return 1
    fi
    sleep 0.5
  done
}

# Approve the host that is waiting, as an operator does, while setup waits for it there.
register() {
  local api setup id
  api=$(as_root sh -c '. /srv/pool/env; echo "https://127.0.0.1:$API_PORT"')
  install -m 644 "$root/srv/pool/api-ca.pem" "$bare/etc/ntppool-agent-ca.pem"
  in_bare prepares
  in_bare registers "$api" /etc/ntppool-agent-ca.pem &
  setup=$!
  until id=$(pool registrations list --status pending | awk '/fresh/ { print $1 }') && [[ -n $id ]]; do
    kill -0 "$setup"
    sleep 0.5
  done
  pool registrations approve "$id" --account demo1 --location fresh
  wait "$setup"
  pool monitors approve "$(monitor_name)/v4"
  pool settings set monitors.interval_candidate 2s
}

# ledger SQL: print the first value.
ledger() {
  as_root .venv/bin/python -c 'import sqlite3, sys
row = sqlite3.connect("file:/srv/pool/ledger.db?mode=ro", uri=True, timeout=30).execute(sys.argv[1]).fetchone()
print(row[0] if row else "")' "$1"
}

monitor_name() { ledger "SELECT tls_name FROM monitors WHERE tls_name LIKE 'fresh1-%'"; }

# process NAME: print the id of the process of that program in the first system.
process() {
  local process
  for process in /proc/[0-9]*; do
    if [[ $(readlink "$process/root") == "$root" && $(<"$process/comm") == "$1" ]]; then echo "${process##*/}"; fi
  done 2>/dev/null
}

# measures [leaving]: run the agent of the package until the pool has stored a result of it that is newer than all before.
# "leaving": then stop the broker for a while, so that results wait in the spool when the agent ends.
# "on-musl": run that of the apk.
measures() {
  local pid_file=$bare/run/agent.pid agent broker before deadline=$((SECONDS + 300)) stored
  stored="SELECT count(*) FROM log_scores WHERE monitor_id = (SELECT id FROM monitors WHERE tls_name LIKE 'fresh1-%')"
  before=$(ledger "$stored")
  if [[ ${1-} == on-musl ]]; then
    pid_file=$root/srv/musl/run/agent.pid
    runs_on_musl &
  else
    in_bare runs &
  fi
  agent=$!
  until (($(ledger "$stored") > before)); do
    if ((SECONDS > deadline)) || ! kill -0 "$agent"; then return 1; fi
    sleep 1
  done
  echo "$(monitor_name): $(ledger "$stored") results in the ledger, $before before" >&2
  if [[ ${1-} == leaving ]]; then
    broker=$(process mosquitto)
    kill -STOP "$broker"
    until in_bare spooled >"$work/waiting" && [[ -s $work/waiting ]]; do
      if ((SECONDS > deadline)) || ! kill -0 "$agent"; then return 1; fi
      sleep 0.5
    done
  fi
  kill -TERM "$(<"$pid_file")"
  wait "$agent"
  if [[ ${1-} == leaving ]]; then
    in_bare spooled >"$work/waiting"
    kill -CONT "$broker"
    echo "$(wc -l <"$work/waiting") batches wait in the spool" >&2
  fi
}

# Every batch that waited during the upgrade is in the ledger.
delivers() {
  local batch deadline=$((SECONDS + 60))
  measures
  while read -r batch; do
    until (($(ledger "SELECT count(*) FROM result_batches WHERE batch = '$batch'") == 1)); do
      ((SECONDS < deadline)) || return 1
      sleep 0.5
    done
  done <"$work/waiting"
  [[ -s $work/waiting ]]
}

# gpg_there ARGUMENT...: run GnuPG in the first system, whose keys are made for this run.
gpg_there() { as_root env GNUPGHOME=/srv/keys gpg --batch --quiet "$@"; }

# Publish the version before, and serve it, as a web server does.
publish_before() {
  local name
  as_root scripts/bootstrap --repo
  as_root install -d -m 700 /srv/keys
  for name in publisher stranger; do
    gpg_there --passphrase '' --quick-generate-key "$name" ed25519 sign never
  done
  publish dist/before
  gpg_there --armor --export stranger | tee "$root/srv/stranger.asc" >"$bare/srv/stranger.asc"
}

# publish FOLDER
publish() {
  as_root env GNUPGHOME=/srv/keys scripts/repo --key publisher --url "$(<"$work/url")" --from "$1" /srv/repository
}

# Serve the repository at a free port of 127.0.0.1, and write its address.
serve_repository() {
  mkdir -p "$root/srv/repository"
  as_root python3 -u -m http.server --bind 127.0.0.1 --directory /srv/repository 0 >"$work/web.log" 2>&1 9<&- &
  until grep -q '^Serving' "$work/web.log"; do
    kill -0 $!
    sleep 0.1
  done
  sed -n 's/^Serving .*(\(.*\)\/).*/\1/p' "$work/web.log" >"$work/url"
}

# Alpine's Python needs musl 1.2.5, which Debian 12 does not have.
has_musl() {
  # shellcheck disable=SC2016 # the inner shell expands it
  as_root sh -c 'dpkg --compare-versions "$(apt-cache policy musl | sed -n "s/^  Candidate: //p")" ge 1.2.5'
}

# The apk's files and script, with the identity of the agent that has been registered.
install_apk() {
  local system=$root/srv/musl device
  mkdir "$system"
  as_root sh -c 'packaging/musl-system /srv/musl dist/ntppool-agent-*.apk'
  mount -t proc proc "$system/proc"
  for device in null urandom; do
    : >"$system/dev/$device"
    mount --bind "/dev/$device" "$system/dev/$device"
  done
  cp "$bare/etc/default/ntppool-agent" "$system/etc/default/ntppool-agent"
  cp "$bare/etc/ntppool-agent-ca.pem" "$system/etc/"
  cp -r "$bare/var/lib/ntppool-agent" "$system/var/lib/"
  (on_musl root chown -R ntppool-agent:ntppool-agent /var/lib/ntppool-agent)
  (on_musl ntppool-agent ntppool-agent version)
}

# on_musl USER COMMAND...: become this command, in the system with the apk.
on_musl() {
  exec env --ignore-environment --default-signal PATH=/usr/bin:/bin STATE_DIRECTORY=/var/lib/ntppool-agent \
    "$(type -P chroot)" --userspec="$1:$1" "$root/srv/musl" "${@:2}"
}

runs_on_musl() {
  echo "$BASHPID" >"$root/srv/musl/run/agent.pid"
  on_musl ntppool-agent ntppool-agent --env devel monitor
}

check_packages() {
  install_there lintian rpm rpmlint
  as_root packaging/check dist
}

# The server's rpm works with the plugin that it compiles, where the distribution's headers and a compiler are.
prove_server_rpm() {
  local plugin=/tmp/deb/usr/lib/ntppool-monitor/jwt-auth.so
  install_there rpm systemd
  as_root sh -c 'dpkg-deb -x dist/ntppool-monitor_*.deb /tmp/deb'
  # shellcheck disable=SC2016 # the inner shell expands it
  alone as_root sh -euc 'exec packaging/prove rpm-server dist/ntppool-monitor-*.rpm "$1"' - "$plugin"
}

prove_packages() {
  local built=$root$checkout bare=$work/bare pool_process='' first=$root
  step "building the packages" build_packages
  ((failed)) || step "building them again" build_again
  root=$bare
  ((failed)) || step "making a second minimal system" make_bare_system
  root=$first
  ((failed)) || step "installing the version before" in_bare installs "$(package_in before ntppool-agent)"
  if ! ((failed)); then
    as_root scripts/demo --agents 2 --servers 4 --dir /srv/pool >"$work/pool.log" 2>&1 9<&- &
    pool_process=$!
  fi
  ((failed)) || step "serving a repository" serve_repository
  ((failed)) || step "publishing it" publish_before
  ((failed)) || step "subscribing to its repository" in_bare subscribes "$(<"$work/url")" /srv/stranger.asc
  ((failed)) || step "starting a pool" pool_runs
  ((failed)) || step "registering the agent of the package" register
  ((failed)) || step "measuring with the version before" measures leaving
  ((failed)) || step "publishing this version" publish dist
  ((failed)) || step "upgrading" in_bare upgrades ntppool-agent
  ((failed)) || step "measuring with this version" delivers
  if ! ((failed)) && has_musl; then
    step "installing the apk beside musl" install_apk
    ((failed)) || step "measuring with the apk" measures on-musl
  fi
  ((failed)) || step "supervising the agent by OpenRC" in_bare openrc /srv/ntppool-agent.initd
  [[ -z $pool_process ]] || kill -TERM "$pool_process" || true
  ((failed)) || step "removing" in_bare removes
  ((failed)) || step "purging" in_bare purges
  ((failed)) || step "installing, upgrading and removing the rpm" in_bare rpm-agent "$(rpm_in before)" "$(rpm_in .)"
  ((failed)) || step "replacing the older agent" in_bare takes-over "$(package_in . ntppool-agent)"
  ((failed)) || step "installing the version before of the server" in_bare installs "$(package_in before ntppool-monitor)"
  ((failed)) || step "using the server" in_bare_alone serves
  ((failed)) || step "upgrading the server" in_bare upgrades-server ntppool-monitor
  ((failed)) || step "using the upgraded server" in_bare_alone serves
  ((failed)) || step "installing the rpm from the repository" as_root packaging/prove dnf-installs "$(<"$work/url")" \
    /srv/stranger.asc
  ((failed)) || step "using the rpm of the server" prove_server_rpm
  ((failed)) || step "lintian, rpm and rpmlint" check_packages
  [[ -z $pool_process ]] || wait "$pool_process" || true
}

# package_in FOLDER NAME: print the path of the package in the second system.
package_in() { (cd "$bare/srv/dist/$1" && echo "/srv/dist/$1/$(echo "$2"_*.deb)"); }

# rpm_in FOLDER: the same for the agent's rpm.
rpm_in() { (cd "$bare/srv/dist/$1" && echo "/srv/dist/$1/$(echo ntppool-agent-*.rpm)"); }
