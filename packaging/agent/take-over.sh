# Give the state of the older agent, which ran as ntpmon, to ours. Other files are left alone, and links not followed.
take_over_state() {
  if getent passwd ntpmon >/dev/null && [ -d /var/lib/ntppool-agent ]; then
    chown --recursive --no-dereference --from=ntpmon ntppool-agent:ntppool-agent /var/lib/ntppool-agent
  fi
}

running_agents() {
  systemctl list-units --plain --no-legend --state=active,activating,reloading 'ntppool-agent@*.service' | cut -d ' ' -f 1
}

# Stop the agents while their files change hands, then start them with the new unit.
settle() {
  running=''
  if [ -d /run/systemd/system ]; then
    running=$(running_agents)
    # shellcheck disable=SC2086 # one word per unit
    [ -z "$running" ] || systemctl stop $running
  fi
  take_over_state
  if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    # shellcheck disable=SC2086
    [ -z "$running" ] || systemctl start $running
  fi
}
