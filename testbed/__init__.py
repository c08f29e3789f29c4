"""Run the system and its surroundings on one machine, for the demo, tests and benchmarks. Not part of the package."""
