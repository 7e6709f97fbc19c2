"""The command line: one file for each command. A command's module imports little; what it needs, when it runs."""
