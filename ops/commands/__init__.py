"""The commands of ``ntppool-monitor``, one file each."""
