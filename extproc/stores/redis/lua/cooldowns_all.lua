-- KEYS[1]: a hash of entries. ARGV[1]: the time or ''. Gives a name, its wait, how long it is kept, and why, for each.
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end

local all, found = redis.call('HGETALL', KEYS[1]), {}
for at = 1, #all, 2 do
  local until_, keep, why = string.match(all[at + 1], '^(%d+) (%d+) (.*)$')
  if until_ + keep > now then
    table.insert(found, all[at])
    table.insert(found, string.format('%.0f', until_ - now))
    table.insert(found, keep)
    table.insert(found, why)
  end
end
return found
