"""The commands of the command line, one file each: the only place that parses configuration and prints."""
