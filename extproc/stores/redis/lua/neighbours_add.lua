-- ARGV: now or '', partition, digest, sealed, life, epoch, most bytes of all, most of a partition. Tells whether it is
-- kept.
if epoch ~= ARGV[6] then return 0 end
local digest, sealed, life = ARGV[3], ARGV[4], ARGV[5]

-- The bytes of all. Where a key has gone, or is not ours, what is left does not fit together: then all go.
local function counted()
  local rows, order, ends = try('HLEN', ROWS), try('ZCARD', ORDER), try('ZCARD', ENDS)
  if order == ends and rows == 0 and order == 0 then return 0 end
  if order == ends and type(order) == 'number' and rows == order + 1 then
    local bytes = tonumber(call('HGET', ROWS, ''))
    if bytes and bytes >= 0 and bytes < 1e15 then return bytes end
  end
  call('UNLINK', ROWS, ORDER, ENDS)
  return 0
end

-- Forget these, or, where `most` is given, of the first as many as leave no more bytes than that. Tells the bytes.
local function drop(members, bytes, most)
  for _, member in ipairs(members) do
    if most and bytes <= most then break end
    local name = string.gsub(member, ':%d+:', ':', 1)
    bytes = bytes - math.max(0, call('HSTRLEN', ROWS, name) - 30) - BESIDE
    call('HDEL', ROWS, name)
    call('ZREM', ORDER, member)
    call('ZREM', ENDS, member)
  end
  return bytes
end

-- Redis refuses a step for want of memory at its first write or not at all. This must be one that may be refused.
call('SET', EPOCH, epoch, 'PX', EPOCH_LIFE)
local bytes = counted()
local name, room = partition .. digest, ARGV[7] - #sealed - BESIDE
local old = call('HGET', ROWS, name)
if old then bytes = drop({partition .. string.sub(old, 1, 15) .. ':' .. digest}, bytes) end
bytes = drop(call('ZRANGEBYSCORE', ENDS, '-inf', now, 'LIMIT', 0, AT_ONCE), bytes)
local first, last = '[' .. partition, '(' .. ARGV[2] .. ';'
local above = call('ZLEXCOUNT', ORDER, first, last) + 1 - ARGV[8]
if above > 0 then bytes = drop(call('ZRANGEBYLEX', ORDER, first, last, 'LIMIT', 0, math.min(above, AT_ONCE)), bytes) end
for _ = 1, ROUNDS do
  if bytes <= room then break end
  bytes = drop(call('ZRANGE', ENDS, 0, AT_ONCE - 1), bytes, room)
end
local fits = bytes <= room
if fits then
  local newest = call('ZREVRANGEBYLEX', ORDER, last, first, 'LIMIT', 0, 1)[1]
  local number = digits(math.max(now, newest and tonumber((parts(newest))) + 1 or 0))
  local member = partition .. number .. ':' .. digest
  bytes = bytes + #sealed + BESIDE
  call('HSET', ROWS, name, number .. digits(now + life) .. sealed)
  call('ZADD', ORDER, 0, member)
  call('ZADD', ENDS, now + life, member)
end
call('HSET', ROWS, '', bytes)
for at = 1, 3 do
  if call('PTTL', KEYS[at]) < life + SLACK then call('PEXPIRE', KEYS[at], life + SLACK) end
end
return fits and 1 or 0
