-- ARGV: now or '', '', life, holds, since as the caller knows it. Tells since when the store remembers, and which of
-- the holds, by number from 0, are not open. Where a caller comes with another time, it has lost its memory, and
-- remembers, or rather is trusted, as soon as callers had some time to tell it what was used. Where nobody came for a
-- while, there was an outage: `calm` is until when no holds are closed.
local life_end, names, told, ends = now + ARGV[3], cmsgpack.unpack(ARGV[4]), {}, {}
local since = call('HGET', SUMS, 'since')
if not since then
  since = ARGV[5] == '0' and now or now + GRACE
  call('HSET', SUMS, 'since', since)
end
told[1] = tonumber(since)
local renewed = call('HGET', SUMS, 'renewed')
if renewed and now - renewed > QUIET then call('HSET', SUMS, 'calm', now + CALM) end
call('HSET', SUMS, 'renewed', now)
for i, score in ipairs(names[1] and call('ZMSCORE', ENDS, unpack(names)) or {}) do
  if score then
    ends[#ends + 1] = life_end
    ends[#ends + 1] = names[i]
  else
    told[#told + 1] = i - 1
  end
end
if ends[1] then call('ZADD', ENDS, unpack(ends)) end
keep(life_end)
return told
