"""Limits: what a caller may use, over which scope and window, counted before a call and settled after it.

limit     a limit as a value, whoever declared it: the gateway's configuration, a team, a key
calendar  the windows of a calendar in a named time zone
demand    the most that a call may use, and what it did use
standing  the headers that tell a caller where it stands, and the refusals of a spent limit
"""
