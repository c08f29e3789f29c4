"""Build the packages ``ntppool-agent`` and ``ntppool-monitor`` from a commit and its lock files.

Everything in a package comes from three places: the commit, the wheels that a lock file pins by hash, and, for the
server, the broker's plugin, compiled here. :mod:`ntppool_packages.tree` holds the files of a package in memory;
``nfpm`` writes them as deb and rpm.
"""
