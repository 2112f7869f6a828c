"""The command line: parse, call once, render. One module a command, imported when it is called."""
