-- KEYS[1]: a hash of entries. ARGV: the time or '', then a name, its wait, how long it is kept, and why, for each.
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end

for at = 2, #ARGV, 4 do
  local known = redis.call('HGET', KEYS[1], ARGV[at])
  local until_, keep = now + tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local old = string.match(known or '0 ', '^(%d+) ')
  if until_ > tonumber(old) then
    redis.call('HSET', KEYS[1], ARGV[at], string.format('%.0f %.0f %s', until_, keep, ARGV[at + 3]))
  end
end

-- Nothing stays for ever: neither an entry that is over, nor all of them.
local all, last = redis.call('HGETALL', KEYS[1]), now
for at = 1, #all, 2 do
  local until_, keep = string.match(all[at + 1], '^(%d+) (%d+) ')
  local over = until_ + keep
  if over <= now then redis.call('HDEL', KEYS[1], all[at]) end
  last = math.max(last, over)
end
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', last - now + 1000))
