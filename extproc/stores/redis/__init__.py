"""Counters in Redis: atomic steps in Lua, over one connection that concurrent calls share."""
