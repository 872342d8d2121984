"""`wgrouter fleet`: for an operator's machine, never for a router. What all routers of a broker say, in one
table, and commands to them.

messages.py reads, model.py remembers and judges, table.py lays out: pure. link.py speaks MQTT, screen.py owns
the terminal, main.py the command line.
"""
