# The older agent, which ran as ntpmon, had the same state directory.
is_older_agents() {
  [ "$(stat --format %U /var/lib/ntppool-agent 2>/dev/null)" = ntpmon ]
}

# Give its files to ours. Files of others are left alone, and links not followed.
take_over_state() {
  chown --recursive --no-dereference --from=ntpmon ntppool-agent:ntppool-agent /var/lib/ntppool-agent
}

running_agents() {
  systemctl list-units --plain --no-legend --state=active,activating,reloading 'ntppool-agent@*.service' | cut -d ' ' -f 1
}

# Those that are to run after a boot. The older agent's package may have stopped them for the upgrade.
enabled_agents() {
  for link in /etc/systemd/system/multi-user.target.wants/ntppool-agent@?*.service; do
    [ ! -L "$link" ] || basename "$link"
  done
}

# Let the agents run with the new files, and stop them while files change hands.
settle() {
  agents=''
  if [ -d /run/systemd/system ]; then
    agents=$(running_agents)
    # shellcheck disable=SC2086 # one word per unit
    [ -z "$agents" ] || systemctl stop $agents
  fi
  if is_older_agents; then
    agents="$agents $(enabled_agents)"
    take_over_state
  fi
  if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    # An agent that does not start, for which systemctl gives the reason, is installed nevertheless.
    # shellcheck disable=SC2086
    [ -z "${agents# }" ] || systemctl start $agents || true
  fi
}
