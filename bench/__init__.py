"""One program for each figure the system promises."""
