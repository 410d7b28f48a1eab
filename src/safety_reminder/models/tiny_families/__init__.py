"""The tiny model of every family in the table: its configuration, its inputs, and its processor where it has one."""
