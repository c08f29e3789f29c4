"""The monitor's daemon and command line: probes servers, keeps what it measured until it is acknowledged."""
