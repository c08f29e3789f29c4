"""Whether the clock of this host can be trusted to judge other clocks."""
